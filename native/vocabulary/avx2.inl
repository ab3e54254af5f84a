// The vocabulary on AVX2, FMA and F16C: two registers per value. generic.inl says what each word means.

#define FLYWEIGHT_INLINE inline __attribute__((always_inline))

constexpr int kMaxRows = 6;
constexpr int kWidePanels = 1;
constexpr int kFewRows = 2;
constexpr int kFewRowsPanels = 2;
constexpr int kStreamRows = 4;
constexpr int kAttendRows = 4;
constexpr int kAttendVectors = 1;
constexpr int64_t kExpandedRows = 12;
constexpr bool kFloatInputs = true;
constexpr int64_t kRoundedRows = 48;

struct F32x16 { __m256 a, b; };
struct I32x16 { __m256i a, b; };
struct U8x64 { __m256i a, b; };
struct BfPairs { __m256i a, b; };
struct BfInput { __m256 even, odd; };
struct QuadInput { __m256i bytes; };

FLYWEIGHT_INLINE __m256i first_lanes(int64_t n) { return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)); }
FLYWEIGHT_INLINE F32x16 splat(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
FLYWEIGHT_INLINE F32x16 load(const float *p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
FLYWEIGHT_INLINE void store(float *p, F32x16 x) { _mm256_storeu_ps(p, x.a); _mm256_storeu_ps(p + 8, x.b); }
// Whole vectors go the usual way: processors of AMD write through a mask more than ten times slower.
FLYWEIGHT_INLINE F32x16 load_first(const float *p, int64_t n) {
  if (n >= 16) return load(p);
  return {_mm256_maskload_ps(p, first_lanes(n)), _mm256_maskload_ps(p + 8, first_lanes(n - 8))};
}
FLYWEIGHT_INLINE void store_first(float *p, F32x16 x, int64_t n) {
  if (n >= 16) return store(p, x);
  _mm256_maskstore_ps(p, first_lanes(n), x.a);
  _mm256_maskstore_ps(p + 8, first_lanes(n - 8), x.b);
}
FLYWEIGHT_INLINE F32x16 add(F32x16 x, F32x16 y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
FLYWEIGHT_INLINE F32x16 sub(F32x16 x, F32x16 y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
FLYWEIGHT_INLINE F32x16 mul(F32x16 x, F32x16 y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
FLYWEIGHT_INLINE F32x16 div(F32x16 x, F32x16 y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
FLYWEIGHT_INLINE F32x16 fma(F32x16 x, F32x16 y, F32x16 z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
FLYWEIGHT_INLINE F32x16 min(F32x16 x, F32x16 y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
FLYWEIGHT_INLINE F32x16 max(F32x16 x, F32x16 y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
FLYWEIGHT_INLINE F32x16 abs(F32x16 x) { const __m256 sign = _mm256_set1_ps(-0.0f); return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)}; }
FLYWEIGHT_INLINE F32x16 round_even(F32x16 x) { return {_mm256_round_ps(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), _mm256_round_ps(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
FLYWEIGHT_INLINE F32x16 where_less(F32x16 x, F32x16 y, F32x16 yes, F32x16 no) {
  return {_mm256_blendv_ps(no.a, yes.a, _mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ)), _mm256_blendv_ps(no.b, yes.b, _mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ))};
}
FLYWEIGHT_INLINE float sum(F32x16 x) {
  const __m256 eight = _mm256_add_ps(x.a, x.b);
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}
FLYWEIGHT_INLINE float largest(F32x16 x) {
  const __m256 eight = _mm256_max_ps(x.a, x.b);
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}
FLYWEIGHT_INLINE __m256 power_of_two(__m256 x) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(x), _mm256_set1_epi32(127)), 23)); }
FLYWEIGHT_INLINE F32x16 power_of_two(F32x16 x) { return {power_of_two(x.a), power_of_two(x.b)}; }
FLYWEIGHT_INLINE __m256 scale_by_power(__m256 x, __m256 y) { return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), _mm256_slli_epi32(_mm256_castps_si256(y), 23))); }
FLYWEIGHT_INLINE F32x16 scale_by_power(F32x16 x, F32x16 y) { return {scale_by_power(x.a, y.a), scale_by_power(x.b, y.b)}; }
FLYWEIGHT_INLINE void transpose_eight(__m256 (&r)[8]) {
  __m256 pairs[8], quads[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    pairs[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    pairs[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    quads[i] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0x44);
    quads[i + 1] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0xee);
    quads[i + 2] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0x44);
    quads[i + 3] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x20);
    r[i + 4] = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x31);
  }
}
FLYWEIGHT_INLINE void transpose(F32x16 (&rows)[16]) {
  __m256 top_left[8], top_right[8], bottom_left[8], bottom_right[8];
  for (int i = 0; i < 8; ++i) {
    top_left[i] = rows[i].a, top_right[i] = rows[i].b;
    bottom_left[i] = rows[i + 8].a, bottom_right[i] = rows[i + 8].b;
  }
  transpose_eight(top_left), transpose_eight(top_right), transpose_eight(bottom_left), transpose_eight(bottom_right);
  for (int i = 0; i < 8; ++i) {
    rows[i] = {top_left[i], bottom_left[i]};
    rows[i + 8] = {top_right[i], bottom_right[i]};
  }
}

FLYWEIGHT_INLINE __m128i load_eight(const uint16_t *p) { return _mm_loadu_si128(reinterpret_cast<const __m128i *>(p)); }
FLYWEIGHT_INLINE F32x16 load_float16(const uint16_t *p) { return {_mm256_cvtph_ps(load_eight(p)), _mm256_cvtph_ps(load_eight(p + 8))}; }
FLYWEIGHT_INLINE void store_float16(uint16_t *p, F32x16 x) {
  _mm_storeu_si128(reinterpret_cast<__m128i *>(p), _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  _mm_storeu_si128(reinterpret_cast<__m128i *>(p + 8), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
FLYWEIGHT_INLINE __m256 widen_bfloat16(__m128i x) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16)); }
FLYWEIGHT_INLINE F32x16 load_bfloat16(const uint16_t *p) { return {widen_bfloat16(load_eight(p)), widen_bfloat16(load_eight(p + 8))}; }
FLYWEIGHT_INLINE __m256i round_to_bfloat16(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x), upper = _mm256_srli_epi32(bits, 16);
  const __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  return _mm256_blendv_epi8(rounded, _mm256_or_si256(upper, _mm256_set1_epi32(0x40)), nan);
}
FLYWEIGHT_INLINE F32x16 nearest_bfloat16(F32x16 x) { return {_mm256_castsi256_ps(_mm256_slli_epi32(round_to_bfloat16(x.a), 16)), _mm256_castsi256_ps(_mm256_slli_epi32(round_to_bfloat16(x.b), 16))}; }
FLYWEIGHT_INLINE __m256i pack_bfloat16(F32x16 x) {
  return _mm256_permute4x64_epi64(_mm256_packus_epi32(round_to_bfloat16(x.a), round_to_bfloat16(x.b)), 0xd8);
}
FLYWEIGHT_INLINE void store_bfloat16(uint16_t *p, F32x16 x) { _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), pack_bfloat16(x)); }
FLYWEIGHT_INLINE void store_bfloat16_pairs(uint16_t *p, F32x16 x) {
  const __m256i order = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
  _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), _mm256_shuffle_epi8(pack_bfloat16(x), order));
}

FLYWEIGHT_INLINE I32x16 splat_integer(int32_t value) { return {_mm256_set1_epi32(value), _mm256_set1_epi32(value)}; }
FLYWEIGHT_INLINE I32x16 add(I32x16 x, I32x16 y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
FLYWEIGHT_INLINE I32x16 to_integer(F32x16 x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
FLYWEIGHT_INLINE F32x16 to_float(I32x16 x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
FLYWEIGHT_INLINE void store_int8(int8_t *p, F32x16 x) {
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)), 0xd8);
  _mm_storeu_si128(reinterpret_cast<__m128i *>(p), _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}
FLYWEIGHT_INLINE __m256i load_half(const uint8_t *p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)); }
FLYWEIGHT_INLINE U8x64 load_bytes(const uint8_t *p) { return {load_half(p), load_half(p + 32)}; }
FLYWEIGHT_INLINE U8x64 either(U8x64 x, U8x64 y) { return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)}; }
FLYWEIGHT_INLINE U8x64 low_halves(U8x64 x) { const __m256i mask = _mm256_set1_epi8(15); return {_mm256_and_si256(x.a, mask), _mm256_and_si256(x.b, mask)}; }
FLYWEIGHT_INLINE U8x64 high_halves(U8x64 x) { return low_halves({_mm256_srli_epi16(x.a, 4), _mm256_srli_epi16(x.b, 4)}); }
template <int N> FLYWEIGHT_INLINE __m256i upper_bits(__m256i x) {
  if constexpr (N < 2) x = _mm256_slli_epi16(x, 4 - 2 * N);
  else x = _mm256_srli_epi16(x, 2 * N - 4);
  return _mm256_and_si256(x, _mm256_set1_epi8(0x30));
}
template <int N> FLYWEIGHT_INLINE U8x64 upper_bits(U8x64 x) { return {upper_bits<N>(x.a), upper_bits<N>(x.b)}; }
FLYWEIGHT_INLINE U8x64 raise_bytes(U8x64 x, uint8_t by) { const __m256i all = _mm256_set1_epi8(static_cast<char>(by)); return {_mm256_add_epi8(x.a, all), _mm256_add_epi8(x.b, all)}; }
FLYWEIGHT_INLINE I32x16 field(U8x64 x, int shift, uint32_t mask) {
  const __m128i count = _mm_cvtsi32_si128(shift);
  const __m256i keep = _mm256_set1_epi32(static_cast<int>(mask));
  return {_mm256_and_si256(_mm256_srl_epi32(x.a, count), keep), _mm256_and_si256(_mm256_srl_epi32(x.b, count), keep)};
}
FLYWEIGHT_INLINE QuadInput load_quad(const int8_t *p) { int32_t word; __builtin_memcpy(&word, p, 4); return {_mm256_set1_epi32(word)}; }
// In 16 bits first: a byte product of 255 * 127 would saturate the 8-bit multiply-add.
FLYWEIGHT_INLINE __m256i dot_quads(__m256i acc, __m256i w, __m256i x) {
  const __m256i even = _mm256_madd_epi16(_mm256_and_si256(w, _mm256_set1_epi16(255)), _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8));
  const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(w, 8), _mm256_srai_epi16(x, 8));
  return _mm256_add_epi32(acc, _mm256_add_epi32(even, odd));
}
FLYWEIGHT_INLINE I32x16 dot_quads(I32x16 acc, U8x64 w, QuadInput x) { return {dot_quads(acc.a, w.a, x.bytes), dot_quads(acc.b, w.b, x.bytes)}; }
FLYWEIGHT_INLINE __m256i dot_small_quads(__m256i acc, __m256i w, __m256i x) { return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), _mm256_set1_epi16(1))); }
FLYWEIGHT_INLINE I32x16 dot_small_quads(I32x16 acc, U8x64 w, QuadInput x) { return {dot_small_quads(acc.a, w.a, x.bytes), dot_small_quads(acc.b, w.b, x.bytes)}; }
// Two sums of two products of 63 * 127 fit in 16 bits: they are widened together.
FLYWEIGHT_INLINE __m256i dot_small_eights(__m256i acc, __m256i low, __m256i high, __m256i first, __m256i last) {
  const __m256i words = _mm256_add_epi16(_mm256_maddubs_epi16(low, first), _mm256_maddubs_epi16(high, last));
  return _mm256_add_epi32(acc, _mm256_madd_epi16(words, _mm256_set1_epi16(1)));
}
FLYWEIGHT_INLINE I32x16 dot_small_eights(I32x16 acc, U8x64 low, U8x64 high, QuadInput first, QuadInput last) {
  return {dot_small_eights(acc.a, low.a, high.a, first.bytes, last.bytes), dot_small_eights(acc.b, low.b, high.b, first.bytes, last.bytes)};
}

// Beyond generic.inl: pairs of 16-bit numbers. Written as assembler because the compiler would first make all products and then
// add them up in a tree, through memory; and multiplication and addition in turn keep all four pipes busy.
FLYWEIGHT_INLINE void add_word_products(__m256i &sums, __m256i words, __m256i pair) {
  __m256i products;
  __asm__("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(sums), "=&x"(products) : "x"(words), "x"(pair));
}
FLYWEIGHT_INLINE __m256i load_words(const int16_t *pair) { int32_t both; __builtin_memcpy(&both, pair, 4); return _mm256_set1_epi32(both); }

FLYWEIGHT_INLINE BfPairs load_pairs(const uint8_t *p) { return {load_half(p), load_half(p + 32)}; }
FLYWEIGHT_INLINE __m256 even_half(__m256i w) { return _mm256_castsi256_ps(_mm256_slli_epi32(w, 16)); }
FLYWEIGHT_INLINE __m256 odd_half(__m256i w) { return _mm256_castsi256_ps(_mm256_and_si256(w, _mm256_set1_epi32(static_cast<int>(0xffff0000u)))); }
FLYWEIGHT_INLINE BfInput load_pair(const uint16_t *p) {
  int32_t word;
  __builtin_memcpy(&word, p, 4);
  const __m256i both = _mm256_set1_epi32(word);
  return {even_half(both), odd_half(both)};
}
FLYWEIGHT_INLINE BfInput load_pair(const float *p) { return {_mm256_broadcast_ss(p), _mm256_broadcast_ss(p + 1)}; }
FLYWEIGHT_INLINE F32x16 even_of_pairs(BfPairs w) { return {even_half(w.a), even_half(w.b)}; }
FLYWEIGHT_INLINE F32x16 odd_of_pairs(BfPairs w) { return {odd_half(w.a), odd_half(w.b)}; }
FLYWEIGHT_INLINE F32x16 dot_pairs(F32x16 acc, BfPairs w, BfInput x) {
  acc = fma(even_of_pairs(w), {x.even, x.even}, acc);
  return fma(odd_of_pairs(w), {x.odd, x.odd}, acc);
}
// Two numbers per lane, each a whole number exact in the upper half of its float.
FLYWEIGHT_INLINE __m256i join_pairs(__m256i even, __m256i odd, __m256i offset) {
  const __m256i low = _mm256_srli_epi32(_mm256_castps_si256(_mm256_cvtepi32_ps(_mm256_sub_epi32(even, offset))), 16);
  return _mm256_blend_epi16(low, _mm256_castps_si256(_mm256_cvtepi32_ps(_mm256_sub_epi32(odd, offset))), 0xaa);
}
template <int N> FLYWEIGHT_INLINE BfPairs pairs_of_half_bytes(U8x64 x) {
  const I32x16 even = field(x, 4 * N, 15), odd = field(x, 4 * N + 16, 15);
  const __m256i offset = _mm256_set1_epi32(8);
  return {join_pairs(even.a, odd.a, offset), join_pairs(even.b, odd.b, offset)};
}
template <int N> FLYWEIGHT_INLINE BfPairs pairs_of_bytes(U8x64 x) {
  const I32x16 even = field(x, 8 * N, 255), odd = field(x, 8 * N + 16, 255);
  const __m256i offset = _mm256_set1_epi32(128);
  return {join_pairs(even.a, odd.a, offset), join_pairs(even.b, odd.b, offset)};
}

struct WordInput { __m256i both; };
FLYWEIGHT_INLINE BfPairs zero_pairs() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
FLYWEIGHT_INLINE BfPairs largest_magnitudes(BfPairs x, BfPairs y) {
  const __m256i mask = _mm256_set1_epi16(0x7fff);
  return {_mm256_max_epi16(x.a, _mm256_and_si256(y.a, mask)), _mm256_max_epi16(x.b, _mm256_and_si256(y.b, mask))};
}
FLYWEIGHT_INLINE __m256i words_times(__m256i w, __m256 factor) {
  const __m256i even = _mm256_cvtps_epi32(_mm256_mul_ps(even_half(w), factor)), odd = _mm256_cvtps_epi32(_mm256_mul_ps(odd_half(w), factor));
  return _mm256_blend_epi16(even, _mm256_slli_epi32(odd, 16), 0xaa);
}
FLYWEIGHT_INLINE void store_words(uint8_t *p, BfPairs w, F32x16 factor) {
  _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), words_times(w.a, factor.a));
  _mm256_storeu_si256(reinterpret_cast<__m256i *>(p + 32), words_times(w.b, factor.b));
}
FLYWEIGHT_INLINE void store_int16(int16_t *p, I32x16 x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xd8));
}
FLYWEIGHT_INLINE WordInput load_word_pair(const int16_t *p) { return {load_words(p)}; }
FLYWEIGHT_INLINE I32x16 dot_words(I32x16 acc, BfPairs w, WordInput x) {
  add_word_products(acc.a, w.a, x.both), add_word_products(acc.b, w.b, x.both);
  return acc;
}
