// y = x w^T + bias on tile registers, integer codes against int8 inputs: exact sums over a segment, then both scales.
//
// The floats are added in the order and with the roundings of CodeQuadTile in tile.inl, so that the results are the same
// bits: which of the two kernels ran cannot be told from them.

constexpr int64_t kNearCodes = 512; // padded inputs per pass: the codes of two panels then take 16 KiB

// How a segment is cut into tiles: `steps` of `depth` bytes, the last perhaps filled up with zeros.
struct SegmentCut {
  int64_t steps, depth;
};
inline SegmentCut cut_segment(int64_t padded_segment) {
  const int64_t steps = (padded_segment + 63) / 64;
  return {steps, (padded_segment / 8 + steps - 1) / steps * 8};
}

inline int64_t segments_per_tile_pass(const PackedWeight &w) { return w.padded_segment < kNearCodes ? kNearCodes / w.padded_segment : 1; }

// Bytes of one panel's part of a pass; a whole number of cache lines.
inline int64_t tile_pass_bytes(const PackedWeight &w) {
  const SegmentCut cut = cut_segment(w.padded_segment);
  return segments_per_tile_pass(w) * cut.steps * cut.depth * 16;
}

// Signed codes of segments [begin, end) of one panel, [tile][input / 4][lane][4].
template <bool SMALL> void expand_quads(const PackedWeight &w, const SegmentCut &cut, int64_t panel, int64_t begin, int64_t end, uint8_t *out) {
  const uint8_t *codes = w.values + panel * w.panel_bytes + begin * w.padded_segment * (SMALL ? 8 : 16);
  const __m512i offset = _mm512_set1_epi8(SMALL ? 8 : -128);
  for (int64_t segment = begin; segment < end; ++segment) {
    for (int64_t k = 0; k < w.padded_segment; k += 8, out += 128) {
      if constexpr (SMALL) {
        const U8x64 bytes = load_bytes(codes);
        _mm512_storeu_si512(out, _mm512_sub_epi8(low_halves(bytes).v, offset));
        _mm512_storeu_si512(out + 64, _mm512_sub_epi8(high_halves(bytes).v, offset));
        codes += 64;
      } else {
        _mm512_storeu_si512(out, _mm512_sub_epi8(load_bytes(codes).v, offset));
        _mm512_storeu_si512(out + 64, _mm512_sub_epi8(load_bytes(codes + 64).v, offset));
        codes += 128;
      }
    }
    for (int64_t k = w.padded_segment; k < cut.steps * cut.depth; k += 4, out += 64) _mm512_storeu_si512(out, _mm512_setzero_si512());
  }
}

// Up to 32 rows of a strip in one pass. Everything is given for the first row, the first panel and the pass's first segment.
struct CodeTiles {
  const PackedWeight *weight;
  SegmentCut cut;
  const int8_t *x;
  int64_t x_stride;
  const float *input_scales; // of the row, all segments
  int64_t input_scales_stride;
  const int32_t *input_sums; // of the row, all segments
  const uint8_t *codes[2];
  const float *scales[2], *zero_points[2]; // of the panel, all segments; zero_points null: symmetric
  int64_t begin, end;                      // segments
  float *sums;                             // rows x 32
};

template <int ROW_TILES> FLYWEIGHT_INLINE void multiply_segment(const CodeTiles &a, int64_t segment) {
  zero_tile<0>(), zero_tile<1>();
  if constexpr (ROW_TILES == 2) zero_tile<2>(), zero_tile<3>();
  const int8_t *x = a.x + segment * a.weight->padded_segment;
  const int64_t tile_bytes = a.cut.depth * 16;
  int64_t at = (segment - a.begin) * a.cut.steps * tile_bytes;
  for (int64_t step = 0; step < a.cut.steps; ++step, at += tile_bytes, x += a.cut.depth) {
    load_tile<4>(x, a.x_stride);
    load_tile<6>(a.codes[0] + at, 64);
    dot_tile_quads<0, 4, 6>();
    load_tile<7>(a.codes[1] + at, 64);
    dot_tile_quads<1, 4, 7>();
    if constexpr (ROW_TILES == 2) {
      load_tile<5>(x + 16 * a.x_stride, a.x_stride);
      dot_tile_quads<2, 5, 6>();
      dot_tile_quads<3, 5, 7>();
    }
  }
}

// Adds one segment's integer sums [row][panel][lane], times both scales, to the float sums.
template <bool ZEROS> void add_segment(const CodeTiles &a, int64_t segment, int64_t rows, const int32_t *products) {
  const PackedWeight &w = *a.weight;
  const int64_t offset = segment / w.segments_per_scale * 16;
  const F32x16 scales[2] = {load(a.scales[0] + offset), load(a.scales[1] + offset)};
  F32x16 zeros[2] = {};
  if constexpr (ZEROS) zeros[0] = load(a.zero_points[0] + offset), zeros[1] = load(a.zero_points[1] + offset);
  const float *input_scale = a.input_scales + segment / w.segments_per_activation_scale;
  for (int64_t row = 0; row < rows; ++row, input_scale += a.input_scales_stride) {
    const F32x16 input = splat(*input_scale);
#pragma GCC unroll 2
    for (int64_t p = 0; p < 2; ++p) {
      F32x16 value = _mm512_cvtepi32_ps(_mm512_loadu_si512(products + row * 32 + p * 16));
      if constexpr (ZEROS) value = sub(value, mul(zeros[p], splat(static_cast<float>(a.input_sums[row * w.num_segments + segment]))));
      float *sum = a.sums + row * 32 + p * 16;
      store(sum, fma(value, mul(scales[p], input), load(sum)));
    }
  }
}

template <int ROW_TILES> void run_code_tiles(const CodeTiles &a, int64_t rows) {
  // The sums of one segment are added up while the tiles of the next one are being multiplied.
  alignas(64) int32_t products[32 * 32];
  const auto add_up = [&](int64_t segment) {
    if (a.zero_points[0]) add_segment<true>(a, segment, rows, products);
    else add_segment<false>(a, segment, rows, products);
  };
  for (int64_t segment = a.begin; segment < a.end; ++segment) {
    multiply_segment<ROW_TILES>(a, segment);
    if (segment > a.begin) add_up(segment - 1);
    store_tile<0>(products, 128), store_tile<1>(products + 16, 128);
    if constexpr (ROW_TILES == 2) store_tile<2>(products + 16 * 32, 128), store_tile<3>(products + 16 * 32 + 16, 128);
  }
  add_up(a.end - 1);
}

inline void linear_tile_quads(const PackedWeight &w, const LinearInput &in, const LinearOutput &out, int64_t panel_begin,
                              int64_t panel_end, int64_t row_begin, int64_t row_end, float *workspace) {
  const int64_t rows = row_end - row_begin, full = rows / 32 * 32, rest = rows - full;
  const int64_t pass = segments_per_tile_pass(w), pass_bytes = tile_pass_bytes(w);
  float *sums = workspace;
  uint8_t *room = reinterpret_cast<uint8_t *>(workspace + tile_sums_floats());
  TilesInUse tiles;
  CodeTiles a{};
  a.weight = &w, a.cut = cut_segment(w.padded_segment), a.x_stride = in.values_stride, a.input_scales_stride = in.num_activation_scales;
  const TileShape full_shape = tile_shape(16, 16, a.cut.depth), rest_shape = tile_shape(rest < 16 ? rest : 16, rest > 16 ? rest - 16 : 16, a.cut.depth);
  if (full) tiles.configure(full_shape);
  else tiles.configure(rest_shape);
  for (int64_t panel = panel_begin; panel < panel_end; panel += 2) {
    const int64_t panels = panel_end - panel < 2 ? 1 : 2, left = w.out_features - panel * 16, columns = left < panels * 16 ? left : panels * 16;
    for (int64_t p = 0; p < 2; ++p) { // a strip of one panel is multiplied twice, the second time for nothing
      const int64_t offset = (p < panels ? panel + p : panel) * w.num_scales * 16;
      a.scales[p] = w.scales + offset, a.zero_points[p] = w.zero_points ? w.zero_points + offset : nullptr;
      a.codes[p] = p < panels ? room + p * pass_bytes : room;
      const F32x16 start = out.bias && 16 * p < columns ? load_first(out.bias + panel * 16 + 16 * p, columns - 16 * p < 16 ? columns - 16 * p : 16) : splat(0.0f);
      for (int64_t row = 0; row < rows; ++row) store(sums + row * 32 + p * 16, start);
    }
    for (a.begin = 0; a.begin < w.num_segments; a.begin = a.end) {
      a.end = a.begin + pass < w.num_segments ? a.begin + pass : w.num_segments;
      for (int64_t p = 0; p < panels; ++p)
        if (w.storage == Storage::kUint4) expand_quads<true>(w, a.cut, panel + p, a.begin, a.end, room + p * pass_bytes);
        else expand_quads<false>(w, a.cut, panel + p, a.begin, a.end, room + p * pass_bytes);
      const auto at_row = [&](int64_t row) {
        a.x = static_cast<const int8_t *>(in.values) + (row_begin + row) * in.values_stride;
        a.input_scales = in.scales + (row_begin + row) * in.num_activation_scales;
        a.input_sums = in.integer_sums + (row_begin + row) * w.num_segments;
        a.sums = sums + row * 32;
      };
      for (int64_t row = 0; row < full; row += 32) at_row(row), run_code_tiles<2>(a, 32);
      if (!rest) continue;
      if (full) tiles.configure(rest_shape);
      at_row(full);
      if (rest > 16) run_code_tiles<2>(a, rest);
      else run_code_tiles<1>(a, rest);
      if (full) tiles.configure(full_shape);
    }
    for (int64_t p = 0; p < panels; ++p) {
      const int64_t count = columns - 16 * p < 16 ? columns - 16 * p : 16;
      for (int64_t row = 0; row < rows; ++row) store_first(out.y + (row_begin + row) * out.y_stride + panel * 16 + 16 * p, load(sums + row * 32 + p * 16), count);
    }
  }
}
