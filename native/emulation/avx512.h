// The instructions of AVX-512 that the kernels use, in software: the kernels for it are checked on processors without it. SIMDe
// has most of them; what it lacks in version 0.7.4, and what the kernels write as assembler, is here, by the definitions of
// Intel's manual. Slow, and never part of the package.
#pragma once

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#include <simde/x86/fma.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace flyweight::emulation {

template <class T> struct Lanes {
  static constexpr int kCount = 64 / sizeof(T);
  T at[kCount];

  template <class Register> explicit Lanes(const Register &from) : at{} {
    static_assert(sizeof(Register) <= 64);
    std::memcpy(at, &from, sizeof(Register));
  }
  Lanes() : at{} {}
  template <class Register> Register as() const {
    Register to;
    std::memcpy(&to, at, sizeof(Register));
    return to;
  }
};

inline float float_of_bits(uint16_t bfloat16) { return std::bit_cast<float>(static_cast<uint32_t>(bfloat16) << 16); }

inline __m512 load_lanes(uint32_t mask, const void *from) {
  Lanes<float> result;
  for (int i = 0; i < 16; ++i)
    if (mask >> i & 1) std::memcpy(&result.at[i], static_cast<const uint8_t *>(from) + 4 * i, 4);
  return result.as<__m512>();
}
inline void store_lanes(void *to, uint32_t mask, __m512 a) {
  const Lanes<float> x(a);
  for (int i = 0; i < 16; ++i)
    if (mask >> i & 1) std::memcpy(static_cast<uint8_t *>(to) + 4 * i, &x.at[i], 4);
}
inline float sum(__m512 a) {
  Lanes<float> x(a);
  for (int half = 8; half; half /= 2)
    for (int i = 0; i < half; ++i) x.at[i] += x.at[i + half];
  return x.at[0];
}
inline float largest(__m512 a) {
  const Lanes<float> x(a);
  float result = x.at[0];
  for (const float one : x.at) result = one > result ? one : result;
  return result;
}
template <class To, class From, class Result, class Register> Result convert(Register a) {
  const Lanes<From> x(a);
  Lanes<To> result;
  for (int i = 0; i < 16; ++i) result.at[i] = static_cast<To>(x.at[i]);
  return result.template as<Result>();
}
inline __m512i nearest_integers(__m512 a) {
  const Lanes<float> x(a);
  Lanes<int32_t> result;
  for (int i = 0; i < 16; ++i) result.at[i] = std::fabs(x.at[i]) < 2147483648.0f ? static_cast<int32_t>(std::nearbyintf(x.at[i])) : INT32_MIN;
  return result.as<__m512i>();
}
inline __m512 widen_halves(__m256i a) {
  const Lanes<__m128i> halves(a);
  Lanes<__m256> result;
  for (int i = 0; i < 2; ++i) result.at[i] = _mm256_cvtph_ps(halves.at[i]);
  return result.as<__m512>();
}
inline __m256i narrow_to_halves(__m512 a) {
  const Lanes<__m256> x(a);
  Lanes<__m128i> result;
  for (int i = 0; i < 2; ++i) result.at[i] = _mm256_cvtps_ph(x.at[i], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  return result.as<__m256i>();
}
inline __m512 choose_quarters(__m512 a, __m512 b, int which) {
  const Lanes<__m128> x(a), y(b);
  Lanes<__m128> result;
  for (int i = 0; i < 4; ++i) result.at[i] = (i < 2 ? x : y).at[which >> (2 * i) & 3];
  return result.as<__m512>();
}
inline __m512i multiply_add_words(__m512i a, __m512i b) {
  const Lanes<int16_t> x(a), y(b);
  Lanes<int32_t> result;
  for (int i = 0; i < 16; ++i) result.at[i] = x.at[2 * i] * y.at[2 * i] + x.at[2 * i + 1] * y.at[2 * i + 1];
  return result.as<__m512i>();
}

// vpdpbusd: unsigned bytes times signed ones.
inline __m512i add_byte_products(__m512i sums, __m512i w, __m512i x) {
  Lanes<int32_t> result(sums);
  const Lanes<uint8_t> codes(w);
  const Lanes<int8_t> inputs(x);
  for (int i = 0; i < 64; ++i) result.at[i / 4] += codes.at[i] * inputs.at[i];
  return result.as<__m512i>();
}
// vdpbf16ps: the odd products first.
inline __m512 add_pair_products(__m512 sums, __m512i w, __m512i x) {
  Lanes<float> result(sums);
  const Lanes<uint16_t> weights(w), inputs(x);
  for (const int odd : {1, 0})
    for (int i = 0; i < 16; ++i) result.at[i] += float_of_bits(weights.at[2 * i + odd]) * float_of_bits(inputs.at[2 * i + odd]);
  return result.as<__m512>();
}
// vcvtneps2bf16: to nearest even, subnormal numbers to zero.
inline __m256i to_bfloat16(__m512 a) {
  const Lanes<uint32_t> x(a);
  Lanes<uint16_t> result;
  for (int i = 0; i < 16; ++i) {
    const uint32_t bits = x.at[i], exponent = bits & 0x7f800000u;
    const bool is_nan = exponent == 0x7f800000u && (bits & 0x007fffffu);
    const uint32_t rounded = is_nan ? bits >> 16 | 0x40u : exponent ? (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16 : bits >> 16 & 0x8000u;
    result.at[i] = static_cast<uint16_t>(rounded);
  }
  return result.as<__m256i>();
}

} // namespace flyweight::emulation

#undef _mm512_madd_epi16
#undef _mm512_mask_storeu_ps
#undef _mm512_maskz_loadu_ps
#undef _mm512_reduce_add_ps
#undef _mm512_reduce_max_ps
#define _mm512_cvtepi32_epi16(a) (flyweight::emulation::convert<int16_t, int32_t, __m256i>(a))
#define _mm512_cvtepi32_epi8(a) (flyweight::emulation::convert<int8_t, int32_t, __m128i>(a))
#define _mm512_cvtepi32_ps(a) (flyweight::emulation::convert<float, int32_t, __m512>(a))
#define _mm512_cvtepu16_epi32(a) (flyweight::emulation::convert<int32_t, uint16_t, __m512i>(a))
#define _mm512_cvtph_ps(a) flyweight::emulation::widen_halves(a)
#define _mm512_cvtps_epi32(a) flyweight::emulation::nearest_integers(a)
#define _mm512_cvtps_ph(a, rounding) flyweight::emulation::narrow_to_halves(a)
#define _mm512_madd_epi16(a, b) flyweight::emulation::multiply_add_words(a, b)
#define _mm512_mask_storeu_ps(to, mask, a) flyweight::emulation::store_lanes(to, mask, a)
#define _mm512_maskz_loadu_ps(mask, from) flyweight::emulation::load_lanes(mask, from)
#define _mm512_reduce_add_ps(a) flyweight::emulation::sum(a)
#define _mm512_reduce_max_ps(a) flyweight::emulation::largest(a)
#define _mm512_shuffle_f32x4(a, b, which) flyweight::emulation::choose_quarters(a, b, which)
