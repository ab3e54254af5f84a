// The register tiles of attention for codes on a processor without a dot product of bytes: in the place of attention_codes.inl, with
// its functions and its results to the bit. The two int8 parts of an input are joined again, and codes widened, to 16 bits:
// one product where two would be. The largest sum, of the 128 tokens of a tile, is 128 * 255 * (256 * 127 + 127) < 2^31.
constexpr int kCodeRows = kAttendRows;

// `count` inputs, a multiple of sixteen, as whole numbers; each four in the order 0, 2, 1, 3, which is how codes widen.
FLYWEIGHT_INLINE void join_inputs(const int8_t *high, const int8_t *low, int64_t count, int16_t *to) {
  const __m128i order = _mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
  const auto wide = [&](const int8_t *bytes) { return _mm256_cvtepi8_epi16(_mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i *>(bytes)), order)); };
  for (int64_t i = 0; i < count; i += 16)
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(to + i), _mm256_add_epi16(_mm256_slli_epi16(wide(high + i), 8), wide(low + i)));
}

// Adds one step of sixteen lanes (64 bytes: four codes of a lane, or eight of four bits) for every row.
template <bool SMALL, int ROWS>
FLYWEIGHT_INLINE void add_word_step(I32x16 (&dots)[ROWS], const uint8_t *codes, const int16_t *x, int64_t x_stride) {
  const U8x64 bytes = load_bytes(codes);
  const auto add_pairs = [&](U8x64 words, const int16_t *pair) __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; ++r) {
      const __m256i input = load_words(pair + r * x_stride);
      add_word_products(dots[r].a, words.a, input), add_word_products(dots[r].b, words.b, input);
    }
  };
  const __m256i mask = _mm256_set1_epi16(SMALL ? 15 : 255);
  const auto shifted = [&](int count) -> U8x64 { return {_mm256_srli_epi16(bytes.a, count), _mm256_srli_epi16(bytes.b, count)}; };
  const auto masked = [&](U8x64 words) -> U8x64 { return {_mm256_and_si256(words.a, mask), _mm256_and_si256(words.b, mask)}; };
  add_pairs(masked(bytes), x);
  if constexpr (SMALL) {
    add_pairs(masked(shifted(8)), x + 2);
    add_pairs(masked(shifted(4)), x + 4);
    add_pairs(shifted(12), x + 6);
  } else {
    add_pairs(shifted(8), x + 2);
  }
}

constexpr int64_t kWideHead = 512; // numbers of a head that are joined at once

// As in attention_codes.inl.
template <bool SMALL, int ROWS>
FLYWEIGHT_INLINE void score_codes(const CacheLayout &layout, const CacheUnits &units, const int8_t *x, const float *group_sums,
                                  const float *x_scales, float *scores) {
  constexpr int64_t kStep = SMALL ? 8 : 4;
  const int64_t head = layout.padded_dim;
  int16_t whole[ROWS * kWideHead];
  for (int64_t first = 0; first < 2 * units.count; ++first) {
    F32x16 tile[ROWS];
    const int64_t within = first % 2 * layout.panel_bytes;
    const uint8_t *panel = units.unit[first / 2] + within, *next = units.next[first / 2] ? units.next[first / 2] + within : nullptr;
    const uint8_t *scale = units.unit[first / 2] + layout.key_scales + first % 2 * layout.key_groups * 64;
    for (int r = 0; r < ROWS; ++r) tile[r] = splat(0.0f);
    for (int64_t part = 0; part < head; part += kWideHead) {
      const int64_t part_end = part + kWideHead < head ? part + kWideHead : head;
      if (part || first == 0 || head > kWideHead)
        for (int r = 0; r < ROWS; ++r) join_inputs(x + r * 2 * head + part, x + (r * 2 + 1) * head + part, part_end - part, whole + r * kWideHead);
      for (int64_t begin = part; begin < part_end; begin += kKeyGroup) {
        const int64_t group = begin / kKeyGroup, end = begin + kKeyGroup < part_end ? begin + kKeyGroup : part_end;
        I32x16 dots[ROWS];
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; ++r) dots[r] = splat_integer(0);
        for (int64_t d = begin; d < end; d += kStep) {
          if (next) __builtin_prefetch(next + d / kStep * 64, 0, 2);
          add_word_step<SMALL, ROWS>(dots, panel + d / kStep * 64, whole + d - part, kWideHead);
        }
        const uint16_t *scales = reinterpret_cast<const uint16_t *>(scale + group * 64);
        const F32x16 step = load_bfloat16(scales), offset = load_bfloat16(scales + 16);
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; ++r) {
          tile[r] = fma(to_float(dots[r]), step, tile[r]);
          tile[r] = fma(offset, splat(group_sums[r * layout.key_groups + group]), tile[r]);
        }
      }
    }
    for (int r = 0; r < ROWS; ++r) store(scores + r * kKeyTile + first * 16, mul(tile[r], splat(x_scales[r])));
  }
}

template <bool SMALL, int ROWS>
FLYWEIGHT_INLINE void value_codes(const CacheLayout &layout, const CacheUnits &units, const int8_t *weights, const float *scales,
                                  const float *offsets, float *sums) {
  constexpr int64_t kStep = SMALL ? 8 : 4;
  const int64_t step_bytes = layout.padded_dim * 4;
  int16_t whole[ROWS * kKeyTile];
  for (int r = 0; r < ROWS; ++r) join_inputs(weights + 2 * r * kKeyTile, weights + (2 * r + 1) * kKeyTile, units.count * kCacheUnit, whole + r * kKeyTile);
  for (int64_t column = 0; column < layout.padded_dim; column += 16) {
    I32x16 dots[ROWS];
    for (int r = 0; r < ROWS; ++r) dots[r] = splat_integer(0);
    for (int64_t u = 0; u < units.count; ++u) {
      const uint8_t *step = units.unit[u] + layout.values + column * 4, *next = units.next[u] ? units.next[u] + layout.values + column * 4 : nullptr;
      for (int64_t k = 0; k < kCacheUnit; k += kStep, step += step_bytes) {
        if (next) __builtin_prefetch(next + k / kStep * step_bytes, 0, 2);
        add_word_step<SMALL, ROWS>(dots, step, whole + u * kCacheUnit + k, kKeyTile);
      }
    }
    for (int r = 0; r < ROWS; ++r) {
      float *sum = sums + r * layout.padded_dim + column;
      store(sum, add(load(sum), fma(to_float(dots[r]), splat(scales[r]), splat(offsets[r]))));
    }
  }
}
