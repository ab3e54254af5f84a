// One strip in bfloat16. The packed panels are tiles already: sixteen pairs of inputs by sixteen outputs are 1 KiB in a
// row. Integer codes are turned into weights (code - zero point) * scale, rounded to bfloat16, once for all rows.

constexpr int64_t kTileInputs = 32;  // bfloat16 inputs in one tile
constexpr int64_t kPassInputs = 256; // of one pass: the weights of two panels then take 16 KiB

inline int64_t padded_inputs(const PackedWeight &w) { return is_integer(w.storage) ? w.num_segments * w.padded_segment : (w.in_features + 1) / 2 * 2; }

// (code - zero point) * scale of padded inputs [begin, end) of one panel, rounded to bfloat16, in the order of prepare_input.
template <Storage STORAGE> void expand_pairs(const PackedWeight &w, int64_t panel, int64_t begin, int64_t end, uint8_t *out) {
  constexpr int64_t kStep = codes_per_step(STORAGE);
  const int64_t padded = w.padded_segment;
  const uint8_t *codes = w.values + panel * w.panel_bytes + code_bytes(STORAGE, begin);
  const __m512 values = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
  const __m512i first_lanes_twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
  const __m512i last_lanes_twice = _mm512_add_epi32(first_lanes_twice, _mm512_set1_epi32(8));
  for (int64_t k = begin; k < end;) {
    const int64_t segment = k / padded, stop = (segment + 1) * padded < end ? (segment + 1) * padded : end;
    const int64_t offset = (panel * w.num_scales + segment / w.segments_per_scale) * 16;
    const F32x16 scale = load_scales(w, offset), zero = w.zero_points ? load_zero_points(w, offset) : splat(0.0f);
    const F32x16 scales[2] = {_mm512_permutexvar_ps(first_lanes_twice, scale), _mm512_permutexvar_ps(last_lanes_twice, scale)};
    const F32x16 zeros[2] = {_mm512_permutexvar_ps(first_lanes_twice, zero), _mm512_permutexvar_ps(last_lanes_twice, zero)};
    // Eight inputs. Each 16-bit word of four holds every second input's codes of one lane: widened, they lie as pairs do. Codes of
    // four bits come eight in two such words, others in two times four bytes.
    const auto put = [&](U8x64 low, U8x64 high) {
      const __m512i words[2][2] = {{_mm512_cvtepu16_epi32(_mm512_castsi512_si256(low.v)), _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(low.v, 1))},
                                   {_mm512_cvtepu16_epi32(_mm512_castsi512_si256(high.v)), _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(high.v, 1))}};
#pragma GCC unroll 4
      for (int n = 0; n < 4; ++n, out += 64) {
        F32x16 weights[2];
        for (int half = 0; half < 2; ++half) {
          if constexpr (STORAGE == Storage::kUint4) {
            weights[half] = _mm512_permutexvar_ps(_mm512_srli_epi32(words[0][half], static_cast<unsigned>(4 * n)), values);
          } else {
            const __m512i byte = _mm512_and_si512(_mm512_srli_epi32(words[n % 2][half], static_cast<unsigned>(n / 2 * 8)), _mm512_set1_epi32(255));
            weights[half] = _mm512_cvtepi32_ps(_mm512_sub_epi32(byte, _mm512_set1_epi32(code_offset(STORAGE))));
          }
          if (w.zero_points) weights[half] = sub(weights[half], zeros[half]);
          weights[half] = mul(weights[half], scales[half]);
        }
        _mm512_storeu_si512(out, to_bfloat16(weights[0], weights[1]));
      }
    };
    for (; k < stop; k += kStep, codes += code_bytes(STORAGE, kStep)) {
      U8x64 low, high;
      if constexpr (STORAGE == Storage::kUint4) low = high = load_bytes(codes); // the permutation finds the half-byte itself
      else load_codes<STORAGE>(codes, low, high);
      put(low, high);
      if constexpr (kStep == 16) {
        load_codes<STORAGE, 1>(codes, low, high);
        put(low, high);
      }
    }
  }
}

struct PairTiles {
  const PackedWeight &w;
  const uint16_t *x; // of the task's first row
  int64_t x_stride;
  uint8_t *room; // 2 x kPassInputs x 32 bytes
  int64_t first = 0, steps = 0;
  const uint8_t *panels[2] = {};

  int64_t num_passes() const { return (padded_inputs(w) + kPassInputs - 1) / kPassInputs; }
  int64_t depth_bytes() const { return 64; }

  void begin(int64_t pass, int64_t panel, int64_t count) {
    first = pass * kPassInputs;
    const int64_t length = padded_inputs(w), end = first + kPassInputs < length ? first + kPassInputs : length;
    steps = (end - first + kTileInputs - 1) / kTileInputs;
    // A strip of one panel is multiplied twice: it is the last, and the second result goes nowhere.
    for (int64_t p = 0; p < 2; ++p) panels[p] = p < count ? tiles_of(panel + p, end, room + p * kPassInputs * 32) : panels[0];
  }

  // The pass's weights of one panel, with zeros up to a whole tile: where they lie as such in the panel, there.
  const uint8_t *tiles_of(int64_t panel, int64_t end, uint8_t *to) const {
    const int64_t whole = first + steps * kTileInputs;
    if (w.storage == Storage::kBfloat16) {
      const uint8_t *from = w.values + panel * w.panel_bytes + first * 32;
      if (whole == end) return from;
      __builtin_memcpy(to, from, static_cast<size_t>((end - first) * 32));
    } else if (w.storage == Storage::kUint4) {
      expand_pairs<Storage::kUint4>(w, panel, first, end, to);
    } else if (w.storage == Storage::kUint6) {
      expand_pairs<Storage::kUint6>(w, panel, first, end, to);
    } else {
      expand_pairs<Storage::kUint8>(w, panel, first, end, to);
    }
    for (int64_t k = end; k < whole; k += 2) _mm512_storeu_si512(to + (k - first) * 32, _mm512_setzero_si512());
    return to;
  }

  template <int ROW_TILES> void run(int64_t row, int64_t, float *sums) const {
    const uint16_t *inputs = x + row * x_stride + first;
    load_tile<0>(sums, 128), load_tile<1>(sums + 16, 128);
    if constexpr (ROW_TILES == 2) load_tile<2>(sums + 512, 128), load_tile<3>(sums + 528, 128);
    for (int64_t step = 0; step < steps; ++step) {
      load_tile<4>(inputs + step * kTileInputs, x_stride * 2);
      load_tile<6>(panels[0] + step * 1024, 64);
      dot_tile_pairs<0, 4, 6>();
      load_tile<7>(panels[1] + step * 1024, 64);
      dot_tile_pairs<1, 4, 7>();
      if constexpr (ROW_TILES == 2) {
        load_tile<5>(inputs + 16 * x_stride + step * kTileInputs, x_stride * 2);
        dot_tile_pairs<2, 5, 6>();
        dot_tile_pairs<3, 5, 7>();
      }
    }
    store_tile<0>(sums, 128), store_tile<1>(sums + 16, 128);
    if constexpr (ROW_TILES == 2) store_tile<2>(sums + 512, 128), store_tile<3>(sums + 528, 128);
  }
};
