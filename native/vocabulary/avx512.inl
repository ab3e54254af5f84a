// The vocabulary on AVX-512 F, BW, DQ, VL and VNNI, with FLYWEIGHT_BFLOAT16_PRODUCTS also BF16: one register per value.
// generic.inl says what each word means.

#define FLYWEIGHT_INLINE inline __attribute__((always_inline))

constexpr int kMaxRows = 12;
constexpr int kWidePanels = 2;
constexpr int kFewRows = 4;
constexpr int kFewRowsPanels = 4;
constexpr int kStreamRows = 8;
constexpr int kAttendRows = 4;
constexpr int kAttendVectors = 4;
constexpr int64_t kExpandedRows = 0;
constexpr bool kFloatInputs = false;
constexpr int64_t kRoundedRows = 0; // products of bfloat16 are as quick where they exist; without them this was never measured

using F32x16 = __m512;
struct I32x16 { __m512i v; };
struct U8x64 { __m512i v; };
struct BfPairs { __m512i v; };
struct QuadInput { __m512i v; };

FLYWEIGHT_INLINE __mmask16 first_lanes(int64_t n) { return static_cast<__mmask16>((1u << n) - 1u); }
FLYWEIGHT_INLINE F32x16 splat(float value) { return _mm512_set1_ps(value); }
FLYWEIGHT_INLINE F32x16 load(const float *p) { return _mm512_loadu_ps(p); }
FLYWEIGHT_INLINE void store(float *p, F32x16 a) { _mm512_storeu_ps(p, a); }
FLYWEIGHT_INLINE F32x16 load_first(const float *p, int64_t n) { return _mm512_maskz_loadu_ps(first_lanes(n), p); }
FLYWEIGHT_INLINE void store_first(float *p, F32x16 a, int64_t n) { _mm512_mask_storeu_ps(p, first_lanes(n), a); }
FLYWEIGHT_INLINE F32x16 add(F32x16 a, F32x16 b) { return _mm512_add_ps(a, b); }
FLYWEIGHT_INLINE F32x16 sub(F32x16 a, F32x16 b) { return _mm512_sub_ps(a, b); }
FLYWEIGHT_INLINE F32x16 mul(F32x16 a, F32x16 b) { return _mm512_mul_ps(a, b); }
FLYWEIGHT_INLINE F32x16 div(F32x16 a, F32x16 b) { return _mm512_div_ps(a, b); }
FLYWEIGHT_INLINE F32x16 fma(F32x16 a, F32x16 b, F32x16 c) { return _mm512_fmadd_ps(a, b, c); }
FLYWEIGHT_INLINE F32x16 min(F32x16 a, F32x16 b) { return _mm512_min_ps(a, b); }
FLYWEIGHT_INLINE F32x16 max(F32x16 a, F32x16 b) { return _mm512_max_ps(a, b); }
FLYWEIGHT_INLINE F32x16 abs(F32x16 a) { return _mm512_abs_ps(a); }
FLYWEIGHT_INLINE F32x16 round_even(F32x16 a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
FLYWEIGHT_INLINE F32x16 where_less(F32x16 a, F32x16 b, F32x16 yes, F32x16 no) { return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes); }
FLYWEIGHT_INLINE float sum(F32x16 a) { return _mm512_reduce_add_ps(a); }
FLYWEIGHT_INLINE float largest(F32x16 a) { return _mm512_reduce_max_ps(a); }
FLYWEIGHT_INLINE F32x16 power_of_two(F32x16 a) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(a), _mm512_set1_epi32(127)), 23));
}
FLYWEIGHT_INLINE void transpose(F32x16 (&rows)[16]) {
  // Pairs, then quads within each 128-bit lane, then the lanes themselves.
  F32x16 pairs[16], quads[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    pairs[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
    pairs[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    quads[i] = _mm512_shuffle_ps(pairs[i], pairs[i + 2], 0x44);
    quads[i + 1] = _mm512_shuffle_ps(pairs[i], pairs[i + 2], 0xee);
    quads[i + 2] = _mm512_shuffle_ps(pairs[i + 1], pairs[i + 3], 0x44);
    quads[i + 3] = _mm512_shuffle_ps(pairs[i + 1], pairs[i + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const F32x16 low_a = _mm512_shuffle_f32x4(quads[i], quads[i + 4], 0x88), high_a = _mm512_shuffle_f32x4(quads[i], quads[i + 4], 0xdd);
    const F32x16 low_b = _mm512_shuffle_f32x4(quads[i + 8], quads[i + 12], 0x88), high_b = _mm512_shuffle_f32x4(quads[i + 8], quads[i + 12], 0xdd);
    rows[i] = _mm512_shuffle_f32x4(low_a, low_b, 0x88);
    rows[i + 8] = _mm512_shuffle_f32x4(low_a, low_b, 0xdd);
    rows[i + 4] = _mm512_shuffle_f32x4(high_a, high_b, 0x88);
    rows[i + 12] = _mm512_shuffle_f32x4(high_a, high_b, 0xdd);
  }
}

FLYWEIGHT_INLINE F32x16 scale_by_power(F32x16 a, F32x16 b) { return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a), _mm512_slli_epi32(_mm512_castps_si512(b), 23))); }
FLYWEIGHT_INLINE F32x16 load_float16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p))); }
FLYWEIGHT_INLINE void store_float16(uint16_t *p, F32x16 a) { _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)); }
FLYWEIGHT_INLINE F32x16 load_bfloat16(const uint16_t *p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p))), 16));
}
// By integer arithmetic: the conversion instruction would flush subnormal numbers.
FLYWEIGHT_INLINE __m512i round_to_bfloat16(F32x16 a) {
  const __m512i bits = _mm512_castps_si512(a);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
  rounded = _mm512_mask_or_epi32(rounded, nan, _mm512_srli_epi32(bits, 16), _mm512_set1_epi32(0x40));
  return rounded;
}
FLYWEIGHT_INLINE F32x16 nearest_bfloat16(F32x16 a) { return _mm512_castsi512_ps(_mm512_slli_epi32(round_to_bfloat16(a), 16)); }
FLYWEIGHT_INLINE __m256i pack_bfloat16(F32x16 a) { return _mm512_cvtepi32_epi16(round_to_bfloat16(a)); }
FLYWEIGHT_INLINE void store_bfloat16(uint16_t *p, F32x16 a) { _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), pack_bfloat16(a)); }
FLYWEIGHT_INLINE void store_bfloat16_pairs(uint16_t *p, F32x16 a) {
  const __m256i order = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
  _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), _mm256_shuffle_epi8(pack_bfloat16(a), order));
}

FLYWEIGHT_INLINE I32x16 splat_integer(int32_t value) { return {_mm512_set1_epi32(value)}; }
FLYWEIGHT_INLINE I32x16 add(I32x16 a, I32x16 b) { return {_mm512_add_epi32(a.v, b.v)}; }
FLYWEIGHT_INLINE I32x16 to_integer(F32x16 a) { return {_mm512_cvtps_epi32(a)}; }
FLYWEIGHT_INLINE F32x16 to_float(I32x16 a) { return _mm512_cvtepi32_ps(a.v); }
FLYWEIGHT_INLINE void store_int8(int8_t *p, F32x16 a) { _mm_storeu_si128(reinterpret_cast<__m128i *>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a))); }
FLYWEIGHT_INLINE U8x64 load_bytes(const uint8_t *p) { return {_mm512_loadu_si512(p)}; }
FLYWEIGHT_INLINE U8x64 either(U8x64 a, U8x64 b) { return {_mm512_or_si512(a.v, b.v)}; }
FLYWEIGHT_INLINE U8x64 low_halves(U8x64 a) { return {_mm512_and_si512(a.v, _mm512_set1_epi8(15))}; }
FLYWEIGHT_INLINE U8x64 high_halves(U8x64 a) { return {_mm512_and_si512(_mm512_srli_epi16(a.v, 4), _mm512_set1_epi8(15))}; }
template <int N> FLYWEIGHT_INLINE U8x64 upper_bits(U8x64 a) {
  if constexpr (N < 2) a.v = _mm512_slli_epi16(a.v, 4 - 2 * N);
  else a.v = _mm512_srli_epi16(a.v, 2 * N - 4);
  return {_mm512_and_si512(a.v, _mm512_set1_epi8(0x30))};
}
FLYWEIGHT_INLINE U8x64 raise_bytes(U8x64 a, uint8_t by) { return {_mm512_add_epi8(a.v, _mm512_set1_epi8(static_cast<char>(by)))}; }
FLYWEIGHT_INLINE I32x16 field(U8x64 a, int shift, uint32_t mask) {
  return {_mm512_and_si512(_mm512_srl_epi32(a.v, _mm_cvtsi32_si128(shift)), _mm512_set1_epi32(static_cast<int>(mask)))};
}
FLYWEIGHT_INLINE QuadInput load_quad(const int8_t *p) { int32_t word; __builtin_memcpy(&word, p, 4); return {_mm512_set1_epi32(word)}; }
#if defined(FLYWEIGHT_EMULATE)
FLYWEIGHT_INLINE I32x16 dot_quads(I32x16 acc, U8x64 w, QuadInput x) { return {emulation::add_byte_products(acc.v, w.v, x.v)}; }
#else
// Written out: GCC 12 copies the accumulator of the intrinsic back and forth.
FLYWEIGHT_INLINE I32x16 dot_quads(I32x16 acc, U8x64 w, QuadInput x) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(acc.v) : "v"(w.v), "v"(x.v));
  return acc;
}
#endif
FLYWEIGHT_INLINE I32x16 dot_small_quads(I32x16 acc, U8x64 w, QuadInput x) { return dot_quads(acc, w, x); }
FLYWEIGHT_INLINE I32x16 dot_small_eights(I32x16 acc, U8x64 low, U8x64 high, QuadInput first, QuadInput last) { return dot_quads(dot_quads(acc, low, first), high, last); }

FLYWEIGHT_INLINE BfPairs load_pairs(const uint8_t *p) { return {_mm512_loadu_si512(p)}; }
FLYWEIGHT_INLINE F32x16 even_of_pairs(BfPairs w) { return _mm512_castsi512_ps(_mm512_slli_epi32(w.v, 16)); }
FLYWEIGHT_INLINE F32x16 odd_of_pairs(BfPairs w) { return _mm512_castsi512_ps(_mm512_and_si512(w.v, _mm512_set1_epi32(static_cast<int>(0xffff0000u)))); }
#if defined(FLYWEIGHT_BFLOAT16_PRODUCTS)
struct BfInput { __m512i v; };
FLYWEIGHT_INLINE BfInput load_pair(const uint16_t *p) { int32_t word; __builtin_memcpy(&word, p, 4); return {_mm512_set1_epi32(word)}; }
#if defined(FLYWEIGHT_EMULATE)
FLYWEIGHT_INLINE F32x16 dot_pairs(F32x16 acc, BfPairs w, BfInput x) { return emulation::add_pair_products(acc, w.v, x.v); }
#else
FLYWEIGHT_INLINE F32x16 dot_pairs(F32x16 acc, BfPairs w, BfInput x) {
  __asm__("vdpbf16ps %2, %1, %0" : "+v"(acc) : "v"(w.v), "v"(x.v));
  return acc;
}
#endif
#else
struct BfInput { __m512 even, odd; };
FLYWEIGHT_INLINE BfInput load_pair(const uint16_t *p) {
  int32_t word;
  __builtin_memcpy(&word, p, 4);
  const BfPairs both{_mm512_set1_epi32(word)};
  return {even_of_pairs(both), odd_of_pairs(both)};
}
FLYWEIGHT_INLINE F32x16 dot_pairs(F32x16 acc, BfPairs w, BfInput x) { return fma(odd_of_pairs(w), x.odd, fma(even_of_pairs(w), x.even, acc)); }
#endif
template <int N> FLYWEIGHT_INLINE BfPairs pairs_of_half_bytes(U8x64 a) {
  // The table repeats: the permutation looks at five bits of the index, of which the fifth is not ours.
  static const uint16_t kTable[32] = {0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040, 0xc000, 0xbf80, 0x0000, 0x3f80, 0x4000,
                                      0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0, 0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040,
                                      0xc000, 0xbf80, 0x0000, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0};
  return {_mm512_permutexvar_epi16(N ? _mm512_srli_epi16(a.v, 4 * N) : a.v, _mm512_loadu_si512(kTable))};
}
template <int N> FLYWEIGHT_INLINE BfPairs pairs_of_bytes(U8x64 a) {
  // A whole number of at most 8 bits is exact in the upper half of its float.
  const __m512i offset = _mm512_set1_epi32(128), mask = _mm512_set1_epi32(255);
  const __m512 even = _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_and_si512(_mm512_srli_epi32(a.v, 8 * N), mask), offset));
  const __m512 odd = _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_and_si512(_mm512_srli_epi32(a.v, 8 * N + 16), mask), offset));
  return {_mm512_mask_blend_epi16(0xaaaaaaaau, _mm512_srli_epi32(_mm512_castps_si512(even), 16), _mm512_castps_si512(odd))};
}

struct WordInput { __m512i both; };
FLYWEIGHT_INLINE BfPairs zero_pairs() { return {_mm512_setzero_si512()}; }
FLYWEIGHT_INLINE BfPairs largest_magnitudes(BfPairs a, BfPairs b) { return {_mm512_max_epi16(a.v, _mm512_and_si512(b.v, _mm512_set1_epi16(0x7fff)))}; }
FLYWEIGHT_INLINE void store_words(uint8_t *p, BfPairs w, F32x16 factor) {
  const __m512i even = _mm512_cvtps_epi32(_mm512_mul_ps(even_of_pairs(w), factor)), odd = _mm512_cvtps_epi32(_mm512_mul_ps(odd_of_pairs(w), factor));
  _mm512_storeu_si512(p, _mm512_mask_blend_epi16(0xaaaaaaaau, even, _mm512_slli_epi32(odd, 16)));
}
FLYWEIGHT_INLINE void store_int16(int16_t *p, I32x16 a) { _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), _mm512_cvtepi32_epi16(a.v)); }
FLYWEIGHT_INLINE WordInput load_word_pair(const int16_t *p) { int32_t both; __builtin_memcpy(&both, p, 4); return {_mm512_set1_epi32(both)}; }
FLYWEIGHT_INLINE I32x16 dot_words(I32x16 acc, BfPairs w, WordInput x) { return {_mm512_add_epi32(acc.v, _mm512_madd_epi16(w.v, x.both))}; }
