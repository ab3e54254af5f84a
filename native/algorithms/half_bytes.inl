// Codes of four bits times int8 inputs on a processor without a dot product of bytes. The multiply-add of bytes gives sums of
// two products in 16 bits. A code is below 16 and an input at most 127 in size, so eight such sums still fit in 16 bits, and
// only every eighth is widened to 32 bits: nearly half the work of widening each. Whole numbers have no order: the results are
// those of CodeQuadTile to the bit.

constexpr int64_t kBlockInputs = 32; // that add up in 16 bits: 8 * 2 * 15 * 127 < 2^15
constexpr int kHalfByteRows = 6;     // twelve registers of sums, two of codes, one of inputs
constexpr int64_t kSpreadDepth = 1024; // inputs of one pass: its codes, one a byte, take half of a first-level cache

// Adds the products to sixteen sums of 16 bits. Written as assembler because the compiler would first make all products of a
// block and then add them up in a tree, through memory; and multiplication and addition in turn keep all four pipes busy.
FLYWEIGHT_INLINE void add_products(__m256i &words, __m256i codes, __m256i input) {
  __m256i products;
  __asm__("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+x"(words), "=&x"(products) : "x"(codes), "x"(input));
}

// Segments [segment_begin, segment_end) of one panel. SPREAD: `codes` holds one code a byte, [input / 4][lane][input % 4], else
// they are as they were packed.
template <bool SPREAD> struct HalfByteTile : SegmentTile {
  const uint8_t *codes;
  const int8_t *x;
  int64_t x_stride;
  const float *input_scales;
  int64_t input_scales_stride;
  const int32_t *sums; // of the quantized inputs of each segment
  int64_t sums_stride;

  // Four inputs of every row.
  template <bool FIRST, int ROWS>
  FLYWEIGHT_INLINE void add_quad(__m256i (&words)[ROWS][2], U8x64 four, const int8_t *quad) const {
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; ++r) {
      const __m256i input = load_quad(quad + r * x_stride).bytes;
      if constexpr (FIRST) words[r][0] = _mm256_maddubs_epi16(four.a, input), words[r][1] = _mm256_maddubs_epi16(four.b, input);
      else add_products(words[r][0], four.a, input), add_products(words[r][1], four.b, input);
    }
  }

  // 8 * PAIRS inputs, at most kBlockInputs, added to the totals.
  template <int PAIRS, int ROWS> FLYWEIGHT_INLINE void add_block(I32x16 (&totals)[ROWS], const uint8_t *from, const int8_t *inputs) const {
    __m256i words[ROWS][2];
#pragma GCC unroll 4
    for (int pair = 0; pair < PAIRS; ++pair, inputs += 8) {
      U8x64 low, high;
      if constexpr (SPREAD) {
        low = load_bytes(from + 128 * pair), high = load_bytes(from + 128 * pair + 64);
      } else {
        const U8x64 bytes = load_bytes(from + 64 * pair);
        low = low_halves(bytes), high = high_halves(bytes);
      }
      if (pair == 0) add_quad<true>(words, low, inputs);
      else add_quad<false>(words, low, inputs);
      add_quad<false>(words, high, inputs + 4);
    }
    const __m256i ones = _mm256_set1_epi16(1);
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; ++r)
      totals[r] = add(totals[r], {_mm256_madd_epi16(words[r][0], ones), _mm256_madd_epi16(words[r][1], ones)});
  }

  template <int ROWS, int PANELS> void run() const {
    static_assert(PANELS == 1);
    constexpr int64_t kPairBytes = SPREAD ? 128 : 64;
    const int64_t padded = weight->padded_segment;
    F32x16 tile[ROWS][1];
    start_tile(tile, out);
    const uint8_t *from = codes, *next = ahead;
    for (int64_t segment = segment_begin; segment < segment_end; ++segment) {
      I32x16 totals[ROWS];
#pragma GCC unroll 6
      for (int r = 0; r < ROWS; ++r) totals[r] = splat_integer(-8 * sums[r * sums_stride + segment]);
      const int8_t *inputs = x + segment * padded;
      int64_t left = padded;
      for (; left >= kBlockInputs; left -= kBlockInputs, from += 4 * kPairBytes, inputs += kBlockInputs, next += 4 * ahead_step) {
        __builtin_prefetch(next, 0, SPREAD ? 2 : 3);
        if constexpr (!SPREAD)
          for (int line = 1; line < 4; ++line) __builtin_prefetch(next + line * ahead_step);
        add_block<4>(totals, from, inputs);
      }
      for (; left > 0; left -= 8, from += kPairBytes, inputs += 8, next += ahead_step) add_block<1>(totals, from, inputs);
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

// Packed codes of `inputs` inputs, a multiple of eight, to one code a byte.
inline void spread_codes(const uint8_t *codes, int64_t inputs, uint8_t *to) {
  for (int64_t i = 0; i < inputs; i += 8, codes += 64, to += 128) {
    const U8x64 bytes = load_bytes(codes), low = low_halves(bytes), high = high_halves(bytes);
    _mm256_store_si256(reinterpret_cast<__m256i *>(to), low.a), _mm256_store_si256(reinterpret_cast<__m256i *>(to + 32), low.b);
    _mm256_store_si256(reinterpret_cast<__m256i *>(to + 64), high.a), _mm256_store_si256(reinterpret_cast<__m256i *>(to + 96), high.b);
  }
}

template <bool SPREAD> void half_byte_strip(const PackedWeight &w, const LinearInput &in, const Strip &strip, int64_t begin, int64_t end, uint8_t *room) {
  HalfByteTile<SPREAD> tile;
  place_segments<1, kHalfByteRows>(tile, w, strip, begin, end);
  tile.codes = tile.w + begin * w.padded_segment * 8;
  if constexpr (SPREAD) {
    spread_codes(tile.codes, (end - begin) * w.padded_segment, room);
    tile.codes = room;
  }
  tile.x = static_cast<const int8_t *>(in.values) + strip.row_begin * in.values_stride, tile.x_stride = in.values_stride;
  tile.input_scales = in.scales + strip.row_begin * in.num_activation_scales, tile.input_scales_stride = in.num_activation_scales;
  tile.sums = in.integer_sums + strip.row_begin * w.num_segments, tile.sums_stride = w.num_segments;
  run_rows<1, kHalfByteRows>(tile, strip.rows);
}

constexpr int kHalfByteProbeRows = 2; // their sums of 16 and of 32 bits, codes and inputs then stay in registers

// As multiply_int8 in limits.inl: what add_block does, without a load. Each round is a block of eight quads.
inline int64_t multiply_half_bytes(int64_t repeats, float *sink) {
  constexpr int kQuads = kBlockInputs / 4;
  uint8_t bytes[128] = {1, 2, 3}; // two operands in turn: the product of one would be made only once
  const int8_t inputs[kHalfByteProbeRows][4] = {{1, -1, 2, 3}, {2, 1, -1, 3}}; // equal rows would become one
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i input[kHalfByteProbeRows];
  I32x16 totals[kHalfByteProbeRows];
#pragma GCC unroll 2
  for (int r = 0; r < kHalfByteProbeRows; ++r) input[r] = load_quad(inputs[r]).bytes, totals[r] = splat_integer(r);
  for (int64_t i = 0; i < repeats; ++i) {
    const U8x64 codes = load_bytes(bytes + i % 2 * 64);
    __m256i words[kHalfByteProbeRows][2];
#pragma GCC unroll 8
    for (int quad = 0; quad < kQuads; ++quad) {
#pragma GCC unroll 2
      for (int r = 0; r < kHalfByteProbeRows; ++r) {
        if (quad == 0) words[r][0] = _mm256_maddubs_epi16(codes.a, input[r]), words[r][1] = _mm256_maddubs_epi16(codes.b, input[r]);
        else add_products(words[r][0], codes.a, input[r]), add_products(words[r][1], codes.b, input[r]);
      }
    }
#pragma GCC unroll 2
    for (int r = 0; r < kHalfByteProbeRows; ++r)
      totals[r] = add(totals[r], {_mm256_madd_epi16(words[r][0], ones), _mm256_madd_epi16(words[r][1], ones)});
  }
  for (const I32x16 &total : totals) store(sink, add(load(sink), to_float(total)));
  return repeats * kQuads * kHalfByteProbeRows * 16 * 4 * 2;
}
