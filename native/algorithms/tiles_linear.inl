// y = x w^T + bias on tile registers, in bfloat16: for enough rows that turning a strip of weights into tiles pays.
//
// The packed panels are tiles already: sixteen pairs of inputs by sixteen outputs are 1 KiB in a row. Integer codes are
// turned into bfloat16 weights (code - zero point) * scale, one strip of two panels at a time, for all rows of the task.
// However the work is cut, the products of one output are added in the order of the inputs, tile by tile: a row's result
// does not depend on the other rows.

constexpr int64_t kTileInputs = 32;          // bfloat16 inputs in one tile
constexpr int64_t kNearDepth = 256;          // inputs per pass: the weights of two panels then stay in the first-level cache
constexpr int64_t kSlabBytes = 1 << 20;      // of the task's inputs per slab: half of a second-level cache
constexpr int64_t kDeepestSlab = 2048;       // inputs per slab at most
constexpr int64_t kMostTileRows = 1024;      // rows of one task
constexpr int64_t kStripSums = 2 * 16;       // floats per row of a strip

// Rows from which tiles are faster than the vector kernels.
constexpr int64_t kFewestTileRows = 8;

struct TileWorkspace {
  float *sums;      // [tile of 16 rows][panel of the strip][row][lane]
  uint8_t *weights; // [panel of the strip][pair of inputs][lane][2], one slab
};

inline int64_t tile_sums_floats() { return kMostTileRows * kStripSums; }
inline TileWorkspace tile_workspace(float *workspace) { return {workspace, reinterpret_cast<uint8_t *>(workspace + tile_sums_floats())}; }

inline int64_t padded_inputs(const PackedWeight &w) { return is_integer(w.storage) ? w.num_segments * w.padded_segment : (w.in_features + 1) / 2 * 2; }

// Depth of a slab: the task's inputs stay in the second-level cache while all strips go by.
inline int64_t slab_depth(int64_t rows) {
  const int64_t fitting = kSlabBytes / 2 / rows / kNearDepth * kNearDepth;
  return fitting < kNearDepth ? kNearDepth : fitting < kDeepestSlab ? fitting : kDeepestSlab;
}

// (code - zero point) * scale of padded inputs [begin, end) of one panel, rounded to bfloat16, in the order of prepare_input.
template <bool SMALL> void expand_pairs(const PackedWeight &w, int64_t panel, int64_t begin, int64_t end, uint8_t *out) {
  const int64_t step_bytes = SMALL ? 64 : 128, padded = w.padded_segment;
  const uint8_t *codes = w.values + panel * w.panel_bytes + begin / 8 * step_bytes;
  const __m512 values = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
  const __m512i first_lanes_twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
  const __m512i last_lanes_twice = _mm512_add_epi32(first_lanes_twice, _mm512_set1_epi32(8));
  for (int64_t k = begin; k < end;) {
    const int64_t segment = k / padded, stop = (segment + 1) * padded < end ? (segment + 1) * padded : end;
    const int64_t offset = (panel * w.num_scales + segment / w.segments_per_scale) * 16;
    const F32x16 scale = load(w.scales + offset), zero = w.zero_points ? load(w.zero_points + offset) : splat(0.0f);
    const F32x16 scales[2] = {_mm512_permutexvar_ps(first_lanes_twice, scale), _mm512_permutexvar_ps(last_lanes_twice, scale)};
    const F32x16 zeros[2] = {_mm512_permutexvar_ps(first_lanes_twice, zero), _mm512_permutexvar_ps(last_lanes_twice, zero)};
    for (; k < stop; k += 8, codes += step_bytes, out += 256) {
      // Each 16-bit word of a code step holds every second input's codes of one lane: widened, they lie as pairs do.
      __m512i words[2][2];
      for (int half = 0; half < 2; ++half) {
        words[0][half] = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(codes + 32 * half)));
        if constexpr (!SMALL) words[1][half] = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(codes + 64 + 32 * half)));
      }
#pragma GCC unroll 4
      for (int n = 0; n < 4; ++n) {
        F32x16 weights[2];
        for (int half = 0; half < 2; ++half) {
          if constexpr (SMALL) {
            weights[half] = _mm512_permutexvar_ps(_mm512_srli_epi32(words[0][half], static_cast<unsigned>(4 * n)), values);
          } else {
            const __m512i byte = _mm512_and_si512(_mm512_srli_epi32(words[n % 2][half], static_cast<unsigned>(n / 2 * 8)), _mm512_set1_epi32(255));
            weights[half] = _mm512_cvtepi32_ps(_mm512_sub_epi32(byte, _mm512_set1_epi32(128)));
          }
          if (w.zero_points) weights[half] = sub(weights[half], zeros[half]);
          weights[half] = mul(weights[half], scales[half]);
        }
        _mm512_storeu_si512(out + 64 * n, to_bfloat16(weights[0], weights[1]));
      }
    }
  }
}

// The weights of padded inputs [begin, end) of one panel as tiles, with zeros up to a whole tile: where they lie as such
// in the panel, there; else in `room`.
inline const uint8_t *panel_tiles(const PackedWeight &w, int64_t panel, int64_t begin, int64_t end, uint8_t *room) {
  const int64_t whole = (end + kTileInputs - 1) / kTileInputs * kTileInputs;
  if (w.storage == Storage::kBfloat16) {
    const uint8_t *from = w.values + panel * w.panel_bytes + begin * 32;
    if (whole == end) return from;
    for (int64_t k = begin; k < end; k += 2) _mm512_storeu_si512(room + (k - begin) * 32, _mm512_loadu_si512(from + (k - begin) * 32));
  } else if (w.storage == Storage::kUint4) {
    expand_pairs<true>(w, panel, begin, end, room);
  } else {
    expand_pairs<false>(w, panel, begin, end, room);
  }
  for (int64_t k = end; k < whole; k += 2) _mm512_storeu_si512(room + (k - begin) * 32, _mm512_setzero_si512());
  return room;
}

// One or two tiles of rows against two panels, `steps` tiles deep.
template <int ROW_TILES> FLYWEIGHT_INLINE void multiply_tiles(const uint16_t *x, int64_t x_stride, const uint8_t *const (&panels)[2], int64_t steps, float *sums, bool fresh) {
  if (fresh) {
    zero_tile<0>(), zero_tile<1>();
    if constexpr (ROW_TILES == 2) zero_tile<2>(), zero_tile<3>();
  } else {
    load_tile<0>(sums, 64), load_tile<1>(sums + 256, 64);
    if constexpr (ROW_TILES == 2) load_tile<2>(sums + 512, 64), load_tile<3>(sums + 768, 64);
  }
  for (int64_t step = 0; step < steps; ++step) {
    load_tile<4>(x + step * kTileInputs, x_stride * 2);
    load_tile<6>(panels[0] + step * 1024, 64);
    dot_tile_pairs<0, 4, 6>();
    load_tile<7>(panels[1] + step * 1024, 64);
    dot_tile_pairs<1, 4, 7>();
    if constexpr (ROW_TILES == 2) {
      load_tile<5>(x + 16 * x_stride + step * kTileInputs, x_stride * 2);
      dot_tile_pairs<2, 5, 6>();
      dot_tile_pairs<3, 5, 7>();
    }
  }
  store_tile<0>(sums, 64), store_tile<1>(sums + 256, 64);
  if constexpr (ROW_TILES == 2) store_tile<2>(sums + 512, 64), store_tile<3>(sums + 768, 64);
}

// Where a strip's sums come from and go to between slabs.
struct StripOutput {
  float *y; // of the task's first row and the strip's first column
  int64_t y_stride, rows, columns;
  const float *bias;
};

inline void fetch_sums(const StripOutput &out, float *sums) {
  for (int64_t row = 0; row < out.rows; ++row)
    for (int64_t p = 0; p < 2 && 16 * p < out.columns; ++p) {
      const int64_t left = out.columns - 16 * p < 16 ? out.columns - 16 * p : 16;
      store(sums + ((row / 16 * 2 + p) * 16 + row % 16) * 16, load_first(out.y + row * out.y_stride + 16 * p, left));
    }
}

inline void deliver_sums(const StripOutput &out, const float *sums) {
  for (int64_t p = 0; p < 2 && 16 * p < out.columns; ++p) {
    const int64_t left = out.columns - 16 * p < 16 ? out.columns - 16 * p : 16;
    const F32x16 bias = out.bias ? load_first(out.bias + 16 * p, left) : splat(0.0f);
    for (int64_t row = 0; row < out.rows; ++row)
      store_first(out.y + row * out.y_stride + 16 * p, add(load(sums + ((row / 16 * 2 + p) * 16 + row % 16) * 16), bias), left);
  }
}

// Padded inputs [begin, end) of two panels against all rows of the task, pass by pass. Configures the tiles.
inline void multiply_strip(TilesInUse &tiles, const PackedWeight &w, const uint16_t *x, int64_t x_stride, int64_t rows, int64_t panel,
                           int64_t panels, int64_t begin, int64_t end, const TileWorkspace &place) {
  // A strip of one panel is multiplied twice: it is the last, and the second result goes nowhere.
  const uint8_t *from[2];
  const int64_t whole = w.storage == Storage::kBfloat16 ? end / kTileInputs * kTileInputs : end; // plain: all but a torn tile
  const auto run = [&](int64_t first, int64_t last) {
    for (int64_t p = 0; p < 2; ++p) from[p] = p < panels ? panel_tiles(w, panel + p, first, last, place.weights + p * kDeepestSlab * 32) : from[0];
    const int64_t full = rows / 32 * 32, rest = rows - full;
    if (full) tiles.configure(tile_shape(16, 16, 64));
    for (int64_t pass = first; full && pass < last; pass += kNearDepth) {
      const int64_t steps = ((last - pass < kNearDepth ? last - pass : kNearDepth) + kTileInputs - 1) / kTileInputs;
      const uint8_t *const near[2] = {from[0] + (pass - first) * 32, from[1] + (pass - first) * 32};
      for (int64_t row = 0; row < full; row += 32) multiply_tiles<2>(x + row * x_stride + pass, x_stride, near, steps, place.sums + row * kStripSums, pass == 0);
    }
    if (!rest) return;
    tiles.configure(tile_shape(rest < 16 ? rest : 16, rest > 16 ? rest - 16 : 16, 64));
    const int64_t steps = (last - first + kTileInputs - 1) / kTileInputs;
    if (rest > 16) multiply_tiles<2>(x + full * x_stride + first, x_stride, from, steps, place.sums + full * kStripSums, first == 0);
    else multiply_tiles<1>(x + full * x_stride + first, x_stride, from, steps, place.sums + full * kStripSums, first == 0);
  };
  if (begin < whole) run(begin, whole);
  if (whole < end) run(whole > begin ? whole : begin, end);
}

inline void linear_tile_pairs(const PackedWeight &w, const LinearInput &in, const LinearOutput &out, int64_t panel_begin,
                              int64_t panel_end, int64_t row_begin, int64_t row_end, float *workspace) {
  const TileWorkspace place = tile_workspace(workspace);
  const int64_t rows = row_end - row_begin, depth = slab_depth(rows), length = padded_inputs(w);
  const uint16_t *x = static_cast<const uint16_t *>(in.values) + row_begin * in.values_stride;
  TilesInUse tiles;
  for (int64_t begin = 0; begin < length; begin += depth) {
    const int64_t end = begin + depth < length ? begin + depth : length;
    for (int64_t panel = panel_begin; panel < panel_end; panel += 2) {
      const int64_t panels = panel_end - panel < 2 ? panel_end - panel : 2, left = w.out_features - panel * 16;
      const StripOutput strip{out.y + row_begin * out.y_stride + panel * 16, out.y_stride, rows, left < panels * 16 ? left : panels * 16,
                              out.bias && end == length ? out.bias + panel * 16 : nullptr};
      if (begin) fetch_sums(strip, place.sums);
      multiply_strip(tiles, w, x, in.values_stride, rows, panel, panels, begin, end, place);
      deliver_sums(strip, place.sums);
    }
  }
}
