// The vocabulary in plain C++: sixteen lanes as arrays. Defines what avx2.inl and avx512.inl must mean.
// Included inside a namespace, after every header; it includes nothing itself.

#define FLYWEIGHT_INLINE inline __attribute__((always_inline))

constexpr int kMaxRows = 4;    // rows of one register tile
constexpr int kWidePanels = 1; // panels of one register tile when there are many rows
constexpr int kFewRows = 2;    // up to this many rows, a tile takes kFewRowsPanels panels
constexpr int kFewRowsPanels = 2;

struct F32x16 { float lane[16]; };
struct I32x16 { int32_t lane[16]; };
struct U8x64 { uint8_t byte[64]; };
struct BfPairs { uint16_t half[32]; };   // two bfloat16 per lane
struct BfInput { float even, odd; };     // one pair of inputs for every lane
struct QuadInput { int8_t byte[4]; };    // four int8 inputs for every lane

#define FLYWEIGHT_EACH for (int i = 0; i < 16; ++i)

FLYWEIGHT_INLINE F32x16 splat(float value) { F32x16 r; FLYWEIGHT_EACH r.lane[i] = value; return r; }
FLYWEIGHT_INLINE F32x16 load(const float *p) { F32x16 r; FLYWEIGHT_EACH r.lane[i] = p[i]; return r; }
FLYWEIGHT_INLINE void store(float *p, F32x16 a) { FLYWEIGHT_EACH p[i] = a.lane[i]; }
// The first n lanes; the others read as zero and are not written. 0 <= n <= 16.
FLYWEIGHT_INLINE F32x16 load_first(const float *p, int64_t n) { F32x16 r; FLYWEIGHT_EACH r.lane[i] = i < n ? p[i] : 0.0f; return r; }
FLYWEIGHT_INLINE void store_first(float *p, F32x16 a, int64_t n) { for (int i = 0; i < n; ++i) p[i] = a.lane[i]; }
FLYWEIGHT_INLINE F32x16 add(F32x16 a, F32x16 b) { FLYWEIGHT_EACH a.lane[i] += b.lane[i]; return a; }
FLYWEIGHT_INLINE F32x16 sub(F32x16 a, F32x16 b) { FLYWEIGHT_EACH a.lane[i] -= b.lane[i]; return a; }
FLYWEIGHT_INLINE F32x16 mul(F32x16 a, F32x16 b) { FLYWEIGHT_EACH a.lane[i] *= b.lane[i]; return a; }
FLYWEIGHT_INLINE F32x16 div(F32x16 a, F32x16 b) { FLYWEIGHT_EACH a.lane[i] /= b.lane[i]; return a; }
// a * b + c; whether the product is rounded first depends on the instruction set.
FLYWEIGHT_INLINE F32x16 fma(F32x16 a, F32x16 b, F32x16 c) { FLYWEIGHT_EACH c.lane[i] += a.lane[i] * b.lane[i]; return c; }
FLYWEIGHT_INLINE F32x16 min(F32x16 a, F32x16 b) { FLYWEIGHT_EACH a.lane[i] = a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; return a; }
FLYWEIGHT_INLINE F32x16 max(F32x16 a, F32x16 b) { FLYWEIGHT_EACH a.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; return a; }
FLYWEIGHT_INLINE F32x16 abs(F32x16 a) { FLYWEIGHT_EACH a.lane[i] = __builtin_fabsf(a.lane[i]); return a; }
FLYWEIGHT_INLINE F32x16 round_even(F32x16 a) { FLYWEIGHT_EACH a.lane[i] = __builtin_rintf(a.lane[i]); return a; }
// Lane by lane: a < b ? yes : no.
FLYWEIGHT_INLINE F32x16 where_less(F32x16 a, F32x16 b, F32x16 yes, F32x16 no) { FLYWEIGHT_EACH no.lane[i] = a.lane[i] < b.lane[i] ? yes.lane[i] : no.lane[i]; return no; }
FLYWEIGHT_INLINE float sum(F32x16 a) { float r = 0; FLYWEIGHT_EACH r += a.lane[i]; return r; }
FLYWEIGHT_INLINE float largest(F32x16 a) { float r = a.lane[0]; FLYWEIGHT_EACH r = a.lane[i] > r ? a.lane[i] : r; return r; }
// 2 to the power of a whole number in [-126, 127].
FLYWEIGHT_INLINE F32x16 power_of_two(F32x16 a) { FLYWEIGHT_EACH { const uint32_t bits = static_cast<uint32_t>(static_cast<int32_t>(a.lane[i]) + 127) << 23; __builtin_memcpy(&a.lane[i], &bits, 4); } return a; }
FLYWEIGHT_INLINE void transpose(F32x16 (&rows)[16]) {
  FLYWEIGHT_EACH for (int j = 0; j < i; ++j) { const float kept = rows[i].lane[j]; rows[i].lane[j] = rows[j].lane[i]; rows[j].lane[i] = kept; }
}

FLYWEIGHT_INLINE F32x16 load_float16(const uint16_t *p) { F32x16 r; FLYWEIGHT_EACH r.lane[i] = float_of_half(p[i]); return r; }
FLYWEIGHT_INLINE void store_float16(uint16_t *p, F32x16 a) { FLYWEIGHT_EACH p[i] = half_of_float(a.lane[i]); }
FLYWEIGHT_INLINE F32x16 load_bfloat16(const uint16_t *p) { F32x16 r; FLYWEIGHT_EACH r.lane[i] = float_of_bfloat16(p[i]); return r; }
FLYWEIGHT_INLINE void store_bfloat16(uint16_t *p, F32x16 a) { FLYWEIGHT_EACH p[i] = bfloat16_of_float(a.lane[i]); }

FLYWEIGHT_INLINE I32x16 splat_integer(int32_t value) { I32x16 r; FLYWEIGHT_EACH r.lane[i] = value; return r; }
FLYWEIGHT_INLINE F32x16 to_float(I32x16 a) { F32x16 r; FLYWEIGHT_EACH r.lane[i] = static_cast<float>(a.lane[i]); return r; }
// Rounds half to even and narrows; the lanes are within [-128, 127].
FLYWEIGHT_INLINE void store_int8(int8_t *p, F32x16 a) { FLYWEIGHT_EACH p[i] = static_cast<int8_t>(__builtin_rintf(a.lane[i])); }
FLYWEIGHT_INLINE U8x64 load_bytes(const uint8_t *p) { U8x64 r; __builtin_memcpy(r.byte, p, 64); return r; }
FLYWEIGHT_INLINE U8x64 low_halves(U8x64 a) { for (int i = 0; i < 64; ++i) a.byte[i] &= 15; return a; }
FLYWEIGHT_INLINE U8x64 high_halves(U8x64 a) { for (int i = 0; i < 64; ++i) a.byte[i] >>= 4; return a; }
// Lane by lane, from the 32-bit word of the lane: (word >> shift) & mask.
FLYWEIGHT_INLINE I32x16 field(U8x64 a, int shift, uint32_t mask) {
  I32x16 r;
  FLYWEIGHT_EACH { uint32_t word; __builtin_memcpy(&word, a.byte + 4 * i, 4); r.lane[i] = static_cast<int32_t>((word >> shift) & mask); }
  return r;
}
FLYWEIGHT_INLINE QuadInput load_quad(const int8_t *p) { return {{p[0], p[1], p[2], p[3]}}; }
// acc + sum over four bytes of unsigned weight times signed input, exactly.
FLYWEIGHT_INLINE I32x16 dot_quads(I32x16 acc, U8x64 w, QuadInput x) { FLYWEIGHT_EACH for (int j = 0; j < 4; ++j) acc.lane[i] += w.byte[4 * i + j] * x.byte[j]; return acc; }
// The same where every weight is below 16.
FLYWEIGHT_INLINE I32x16 dot_small_quads(I32x16 acc, U8x64 w, QuadInput x) { return dot_quads(acc, w, x); }

FLYWEIGHT_INLINE BfPairs load_pairs(const uint8_t *p) { BfPairs r; __builtin_memcpy(r.half, p, 64); return r; }
FLYWEIGHT_INLINE BfInput load_pair(const uint16_t *p) { return {float_of_bfloat16(p[0]), float_of_bfloat16(p[1])}; }
FLYWEIGHT_INLINE F32x16 dot_pairs(F32x16 acc, BfPairs w, BfInput x) {
  FLYWEIGHT_EACH acc.lane[i] += float_of_bfloat16(w.half[2 * i]) * x.even + float_of_bfloat16(w.half[2 * i + 1]) * x.odd;
  return acc;
}
FLYWEIGHT_INLINE F32x16 even_of_pairs(BfPairs w) { F32x16 r; FLYWEIGHT_EACH r.lane[i] = float_of_bfloat16(w.half[2 * i]); return r; }
FLYWEIGHT_INLINE F32x16 odd_of_pairs(BfPairs w) { F32x16 r; FLYWEIGHT_EACH r.lane[i] = float_of_bfloat16(w.half[2 * i + 1]); return r; }
// From every 16-bit half of a lane: half-byte number n (0..3) less 8, or byte number n (0..1) less 128, as bfloat16.
FLYWEIGHT_INLINE BfPairs pairs_of_half_bytes(U8x64 a, int n) {
  BfPairs r;
  for (int i = 0; i < 32; ++i) r.half[i] = bfloat16_of_float(static_cast<float>(((a.byte[2 * i + n / 2] >> (4 * (n % 2))) & 15) - 8));
  return r;
}
FLYWEIGHT_INLINE BfPairs pairs_of_bytes(U8x64 a, int n) {
  BfPairs r;
  for (int i = 0; i < 32; ++i) r.half[i] = bfloat16_of_float(static_cast<float>(a.byte[2 * i + n] - 128));
  return r;
}
#undef FLYWEIGHT_EACH
