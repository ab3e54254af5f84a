// One strip of integer codes against int8 inputs: exact sums over a segment, then both scales.
//
// The floats are added in the order and with the roundings of CodeQuadTile in tile.inl, so that the results are the same
// bits: which of the two kernels ran cannot be told from them.

constexpr int64_t kPassCodes = 512; // padded inputs of one pass: the codes of two panels then take 16 KiB

// How a segment is cut into tiles: `steps` of `depth` bytes, the last perhaps filled up with zeros.
struct SegmentCut {
  int64_t steps, depth;
};
inline SegmentCut cut_segment(int64_t padded_segment) {
  const int64_t steps = (padded_segment + 63) / 64;
  return {steps, (padded_segment / 8 + steps - 1) / steps * 8};
}

inline int64_t segments_per_tile_pass(const PackedWeight &w) { return w.padded_segment < kPassCodes ? kPassCodes / w.padded_segment : 1; }

// Bytes of one panel's part of a pass; a whole number of cache lines.
inline int64_t tile_pass_bytes(const PackedWeight &w) {
  const SegmentCut cut = cut_segment(w.padded_segment);
  return segments_per_tile_pass(w) * cut.steps * cut.depth * 16;
}

// Signed codes of segments [begin, end) of one panel, [tile][input / 4][lane][4].
template <Storage STORAGE> void expand_quads(const PackedWeight &w, const SegmentCut &cut, int64_t panel, int64_t begin, int64_t end, uint8_t *out) {
  constexpr int64_t kStep = codes_per_step(STORAGE);
  const uint8_t *codes = w.values + panel * w.panel_bytes + code_bytes(STORAGE, begin * w.padded_segment);
  const __m512i offset = _mm512_set1_epi8(static_cast<char>(code_offset(STORAGE)));
  const auto put = [&](U8x64 low, U8x64 high) {
    _mm512_storeu_si512(out, _mm512_sub_epi8(low.v, offset));
    _mm512_storeu_si512(out + 64, _mm512_sub_epi8(high.v, offset));
    out += 128;
  };
  for (int64_t segment = begin; segment < end; ++segment) {
    for (int64_t k = 0; k < w.padded_segment; k += kStep, codes += code_bytes(STORAGE, kStep)) {
      U8x64 low, high;
      load_codes<STORAGE>(codes, low, high);
      put(low, high);
      if constexpr (kStep == 16) {
        load_codes<STORAGE, 1>(codes, low, high);
        put(low, high);
      }
    }
    for (int64_t k = w.padded_segment; k < cut.steps * cut.depth; k += 4, out += 64) _mm512_storeu_si512(out, _mm512_setzero_si512());
  }
}

struct QuadTiles {
  const PackedWeight &w;
  const LinearInput &in;
  int64_t row_begin;
  uint8_t *room; // 2 x tile_pass_bytes
  SegmentCut cut;
  int64_t first = 0, last = 0; // segments of the pass
  const uint8_t *codes[2] = {};
  int64_t scales[2] = {}; // where those of each panel begin

  int64_t num_passes() const { return (w.num_segments + segments_per_tile_pass(w) - 1) / segments_per_tile_pass(w); }
  int64_t depth_bytes() const { return cut.depth; }
  const int8_t *inputs(int64_t row, int64_t segment) const {
    return static_cast<const int8_t *>(in.values) + (row_begin + row) * in.values_stride + segment * w.padded_segment;
  }

  void begin(int64_t pass, int64_t panel, int64_t count) {
    const int64_t segments = segments_per_tile_pass(w);
    first = pass * segments, last = first + segments < w.num_segments ? first + segments : w.num_segments;
    for (int64_t p = 0; p < 2; ++p) {
      const int64_t from = p < count ? p : 0;
      codes[p] = room + from * tile_pass_bytes(w), scales[p] = (panel + from) * w.num_scales * 16;
      if (p >= count) continue; // multiplied twice, the second time for nothing
      uint8_t *to = room + p * tile_pass_bytes(w);
      if (w.storage == Storage::kUint4) expand_quads<Storage::kUint4>(w, cut, panel + p, first, last, to);
      else if (w.storage == Storage::kUint6) expand_quads<Storage::kUint6>(w, cut, panel + p, first, last, to);
      else expand_quads<Storage::kUint8>(w, cut, panel + p, first, last, to);
    }
  }

  template <int ROW_TILES> FLYWEIGHT_INLINE void multiply(int64_t row, int64_t segment) const {
    zero_tile<0>(), zero_tile<1>();
    if constexpr (ROW_TILES == 2) zero_tile<2>(), zero_tile<3>();
    const int8_t *x = inputs(row, segment);
    const int64_t tile_bytes = cut.depth * 16;
    int64_t at = (segment - first) * cut.steps * tile_bytes;
    for (int64_t step = 0; step < cut.steps; ++step, at += tile_bytes, x += cut.depth) {
      load_tile<4>(x, in.values_stride);
      load_tile<6>(codes[0] + at, 64);
      dot_tile_quads<0, 4, 6>();
      load_tile<7>(codes[1] + at, 64);
      dot_tile_quads<1, 4, 7>();
      if constexpr (ROW_TILES == 2) {
        load_tile<5>(x + 16 * in.values_stride, in.values_stride);
        dot_tile_quads<2, 5, 6>();
        dot_tile_quads<3, 5, 7>();
      }
    }
  }

  // Adds one segment's integer sums, rows x 32, times both scales, to the float sums.
  template <bool ZEROS> FLYWEIGHT_INLINE void add_segment(int64_t row, int64_t rows, int64_t segment, const int32_t *products, float *sums) const {
    const int64_t offset = segment / w.segments_per_scale * 16;
    const F32x16 scale[2] = {load_scales(w, scales[0] + offset), load_scales(w, scales[1] + offset)};
    F32x16 zeros[2] = {};
    if constexpr (ZEROS) zeros[0] = load_zero_points(w, scales[0] + offset), zeros[1] = load_zero_points(w, scales[1] + offset);
    const float *input_scale = in.scales + (row_begin + row) * in.num_activation_scales + segment / w.segments_per_activation_scale;
    const int32_t *input_sum = in.integer_sums + (row_begin + row) * w.num_segments + segment;
    for (int64_t r = 0; r < rows; ++r, input_scale += in.num_activation_scales, input_sum += w.num_segments) {
      const F32x16 input = splat(*input_scale);
#pragma GCC unroll 2
      for (int64_t p = 0; p < 2; ++p) {
        F32x16 value = _mm512_cvtepi32_ps(_mm512_loadu_si512(products + r * 32 + p * 16));
        if constexpr (ZEROS) value = sub(value, mul(zeros[p], splat(static_cast<float>(*input_sum))));
        float *sum = sums + r * kStripColumns + p * 16;
        store(sum, fma(value, mul(scale[p], input), load(sum)));
      }
    }
  }

  template <int ROW_TILES> void run(int64_t row, int64_t rows, float *sums) const {
    // The sums of one segment are added up while the tiles of the next one are being multiplied.
    alignas(64) int32_t products[32 * 32];
    const auto add_up = [&](int64_t segment) {
      if (w.zero_points) add_segment<true>(row, rows, segment, products, sums);
      else add_segment<false>(row, rows, segment, products, sums);
    };
    for (int64_t segment = first; segment < last; ++segment) {
      multiply<ROW_TILES>(row, segment);
      if (segment > first) add_up(segment - 1);
      store_tile<0>(products, 128), store_tile<1>(products + 16, 128);
      if constexpr (ROW_TILES == 2) store_tile<2>(products + 16 * 32, 128), store_tile<3>(products + 16 * 32 + 16, 128);
    }
    add_up(last - 1);
  }
};
