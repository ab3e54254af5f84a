// Codes of eight bits times int8 inputs on a processor without a dot product of bytes. Two products of bytes may not fit in 16
// bits, so both sides are widened first: the codes where they are used, the inputs once for all panels of a task.

constexpr int kByteRows = 6;
constexpr int64_t kWideInputs = 96 << 10; // widened inputs of a task's rows in one pass: 192 KiB, well within a second-level cache

// `count` inputs, a multiple of eight, to 16 bits; each four in the order 0, 2, 1, 3, which is how codes widen.
inline void widen_inputs(const int8_t *x, int64_t count, int16_t *to) {
  const __m128i order = _mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    const __m128i bytes = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i *>(x + i)), order);
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(to + i), _mm256_cvtepi8_epi16(bytes));
  }
  if (i < count) {
    const __m128i bytes = _mm_shuffle_epi8(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(x + i)), order);
    _mm_storeu_si128(reinterpret_cast<__m128i *>(to + i), _mm_cvtepi8_epi16(bytes));
  }
}

// Segments [segment_begin, segment_end) of one panel.
struct ByteTile : SegmentTile {
  const int16_t *x; // widened, from segment_begin on
  int64_t x_stride;
  const float *input_scales;
  int64_t input_scales_stride;
  const int32_t *sums; // of the quantized inputs of each segment
  int64_t sums_stride;

  // Two of four inputs of every row.
  template <int ROWS> FLYWEIGHT_INLINE void add_pair(I32x16 (&totals)[ROWS], U8x64 pairs, const int16_t *pair) const {
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; ++r) {
      const __m256i input = load_words(pair + r * x_stride);
      add_word_products(totals[r].a, pairs.a, input), add_word_products(totals[r].b, pairs.b, input);
    }
  }

  template <int ROWS, int PANELS> void run() const {
    static_assert(PANELS == 1);
    const int64_t padded = weight->padded_segment;
    F32x16 tile[ROWS][1];
    start_tile(tile, out);
    const uint8_t *from = w + segment_begin * padded * 16, *next = ahead;
    const int16_t *inputs = x;
    const __m256i low = _mm256_set1_epi16(255);
    for (int64_t segment = segment_begin; segment < segment_end; ++segment) {
      I32x16 totals[ROWS];
#pragma GCC unroll 6
      for (int r = 0; r < ROWS; ++r) totals[r] = splat_integer(-128 * sums[r * sums_stride + segment]);
      for (int64_t i = 0; i < padded; i += 8, next += ahead_step) {
        ask_ahead<1, Storage::kUint8>(next, 0);
#pragma GCC unroll 2
        for (int quad = 0; quad < 2; ++quad, from += 64, inputs += 4) {
          const U8x64 bytes = load_bytes(from);
          add_pair(totals, {_mm256_and_si256(bytes.a, low), _mm256_and_si256(bytes.b, low)}, inputs);
          add_pair(totals, {_mm256_srli_epi16(bytes.a, 8), _mm256_srli_epi16(bytes.b, 8)}, inputs + 2);
        }
      }
      const float *input_scale = input_scales + segment / weight->segments_per_activation_scale;
      const F32x16 scale = load_scales(*weight, scale_offset(segment, 0));
#pragma GCC unroll 6
      for (int r = 0; r < ROWS; ++r) {
        F32x16 value = to_float(totals[r]);
        if (weight->zero_points) {
          const F32x16 zero = load_zero_points(*weight, scale_offset(segment, 0));
          value = sub(value, mul(zero, splat(static_cast<float>(sums[r * sums_stride + segment]))));
        }
        tile[r][0] = fma(value, mul(scale, splat(input_scale[r * input_scales_stride])), tile[r][0]);
      }
    }
    finish_tile(tile, out);
  }

  FLYWEIGHT_INLINE void advance(int64_t rows) {
    x += rows * x_stride, out.y += rows * out.y_stride;
    input_scales += rows * input_scales_stride, sums += rows * sums_stride;
    advance_ahead();
  }
};

// inputs: the pass's widened inputs, row r at r * stride.
inline void byte_strip(const PackedWeight &w, const LinearInput &in, const Strip &strip, int64_t begin, int64_t end, const int16_t *inputs, int64_t stride) {
  ByteTile tile;
  place_segments<1, kByteRows>(tile, w, strip, begin, end);
  tile.x = inputs, tile.x_stride = stride;
  tile.input_scales = in.scales + strip.row_begin * in.num_activation_scales, tile.input_scales_stride = in.num_activation_scales;
  tile.sums = in.integer_sums + strip.row_begin * w.num_segments, tile.sums_stride = w.num_segments;
  run_rows<1, kByteRows>(tile, strip.rows);
}
