// The vocabulary on the compiler's generic vectors. Defines what avx2.inl and avx512.inl must mean.
// Included inside a namespace, after every header; it includes nothing itself.

#define FLYWEIGHT_INLINE inline __attribute__((always_inline))

constexpr int kMaxRows = 2;    // rows of one register tile
constexpr int kWidePanels = 1; // panels of one register tile when there are many rows
constexpr int kFewRows = 1;    // up to this many rows, a tile of anything else takes kFewRowsPanels panels
constexpr int kFewRowsPanels = 1;
constexpr int kStreamRows = 2;    // up to this many rows, integer codes are read as one stream: tiles of one panel
constexpr int kAttendRows = 1;    // rows and vectors of one register tile of attention
constexpr int kAttendVectors = 1;
constexpr int64_t kExpandedRows = 0; // from so many rows on attention turns floating point tiles of the cache into float32; 0: never
constexpr bool kFloatInputs = false; // bfloat16 keys and values meet inputs that were widened to float32 before
constexpr int64_t kRoundedRows = 48; // the same for tiles of bfloat16 into whole numbers of 16 bits

// The compiler's own vectors: it cuts them into whatever registers the baseline has.
using F32x16 = float __attribute__((vector_size(64)));
using Words = uint32_t __attribute__((vector_size(64)));
using Integers = int32_t __attribute__((vector_size(64)));
struct I32x16 { Integers v; };
struct U8x64 { uint8_t byte[64]; };
struct BfPairs { Words v; };          // two bfloat16 per lane
struct BfInput { float even, odd; };  // one pair of inputs for every lane
struct QuadInput { int32_t value[4]; }; // four int8 inputs for every lane

#define FLYWEIGHT_EACH for (int i = 0; i < 16; ++i)

FLYWEIGHT_INLINE F32x16 splat(float value) { return value - F32x16{}; }
FLYWEIGHT_INLINE F32x16 load(const float *p) { F32x16 r; __builtin_memcpy(&r, p, 64); return r; }
FLYWEIGHT_INLINE void store(float *p, F32x16 a) { __builtin_memcpy(p, &a, 64); }
// The first n lanes; the others read as zero and are not written. n <= 16.
FLYWEIGHT_INLINE F32x16 load_first(const float *p, int64_t n) {
  if (n == 16) return load(p);
  float lanes[16] = {};
  for (int i = 0; i < n; ++i) lanes[i] = p[i];
  return load(lanes);
}
FLYWEIGHT_INLINE void store_first(float *p, F32x16 a, int64_t n) {
  if (n == 16) return store(p, a);
  for (int i = 0; i < n; ++i) p[i] = a[i];
}
FLYWEIGHT_INLINE F32x16 add(F32x16 a, F32x16 b) { return a + b; }
FLYWEIGHT_INLINE F32x16 sub(F32x16 a, F32x16 b) { return a - b; }
FLYWEIGHT_INLINE F32x16 mul(F32x16 a, F32x16 b) { return a * b; }
FLYWEIGHT_INLINE F32x16 div(F32x16 a, F32x16 b) { return a / b; }
// a * b + c; whether the product is rounded first depends on the instruction set.
FLYWEIGHT_INLINE F32x16 fma(F32x16 a, F32x16 b, F32x16 c) { return a * b + c; }
FLYWEIGHT_INLINE F32x16 min(F32x16 a, F32x16 b) { return a < b ? a : b; }
FLYWEIGHT_INLINE F32x16 max(F32x16 a, F32x16 b) { return a > b ? a : b; }
FLYWEIGHT_INLINE F32x16 abs(F32x16 a) { Words bits; __builtin_memcpy(&bits, &a, 64); bits &= 0x7fffffffu; __builtin_memcpy(&a, &bits, 64); return a; }
FLYWEIGHT_INLINE F32x16 round_even(F32x16 a) { FLYWEIGHT_EACH a[i] = std::nearbyintf(a[i]); return a; }
// Lane by lane: a < b ? yes : no.
FLYWEIGHT_INLINE F32x16 where_less(F32x16 a, F32x16 b, F32x16 yes, F32x16 no) { return a < b ? yes : no; }
FLYWEIGHT_INLINE float sum(F32x16 a) { float r = 0; FLYWEIGHT_EACH r += a[i]; return r; }
FLYWEIGHT_INLINE float largest(F32x16 a) { float r = a[0]; FLYWEIGHT_EACH r = a[i] > r ? a[i] : r; return r; }
// 2 to the power of a whole number in [-126, 127].
FLYWEIGHT_INLINE F32x16 power_of_two(F32x16 a) { const Integers bits = (__builtin_convertvector(a, Integers) + 127) << 23; __builtin_memcpy(&a, &bits, 64); return a; }
// a times 2 to the power of the whole number in the lowest bits of b; both results and a are normal numbers.
FLYWEIGHT_INLINE F32x16 scale_by_power(F32x16 a, F32x16 b) {
  Words bits, power;
  __builtin_memcpy(&bits, &a, 64), __builtin_memcpy(&power, &b, 64);
  bits += power << 23;
  __builtin_memcpy(&a, &bits, 64);
  return a;
}
FLYWEIGHT_INLINE void transpose(F32x16 (&rows)[16]) {
  FLYWEIGHT_EACH for (int j = 0; j < i; ++j) { const float kept = rows[i][j]; rows[i][j] = rows[j][i]; rows[j][i] = kept; }
}

FLYWEIGHT_INLINE F32x16 load_float16(const uint16_t *p) { F32x16 r; FLYWEIGHT_EACH r[i] = float_of_half(p[i]); return r; }
FLYWEIGHT_INLINE void store_float16(uint16_t *p, F32x16 a) { FLYWEIGHT_EACH p[i] = half_of_float(a[i]); }
FLYWEIGHT_INLINE F32x16 load_bfloat16(const uint16_t *p) { F32x16 r; FLYWEIGHT_EACH r[i] = float_of_bfloat16(p[i]); return r; }
FLYWEIGHT_INLINE F32x16 nearest_bfloat16(F32x16 a) { FLYWEIGHT_EACH a[i] = float_of_bfloat16(bfloat16_of_float(a[i])); return a; }
FLYWEIGHT_INLINE void store_bfloat16(uint16_t *p, F32x16 a) { FLYWEIGHT_EACH p[i] = bfloat16_of_float(a[i]); }
// The same, each eight reordered: 0, 2, 4, 6, 1, 3, 5, 7. So do pairs_of_half_bytes and pairs_of_bytes yield them.
FLYWEIGHT_INLINE void store_bfloat16_pairs(uint16_t *p, F32x16 a) {
  FLYWEIGHT_EACH p[i / 8 * 8 + i % 2 * 4 + i % 8 / 2] = bfloat16_of_float(a[i]);
}

FLYWEIGHT_INLINE I32x16 splat_integer(int32_t value) { return {value - Integers{}}; }
FLYWEIGHT_INLINE I32x16 add(I32x16 a, I32x16 b) { return {a.v + b.v}; }
FLYWEIGHT_INLINE I32x16 to_integer(F32x16 a) { return {__builtin_convertvector(round_even(a), Integers)}; } // the nearest, an even one of two
FLYWEIGHT_INLINE F32x16 to_float(I32x16 a) { return __builtin_convertvector(a.v, F32x16); }
// Narrows whole numbers within [-128, 127].
FLYWEIGHT_INLINE void store_int8(int8_t *p, F32x16 a) { FLYWEIGHT_EACH p[i] = static_cast<int8_t>(a[i]); }
FLYWEIGHT_INLINE U8x64 load_bytes(const uint8_t *p) { U8x64 r; __builtin_memcpy(r.byte, p, 64); return r; }
FLYWEIGHT_INLINE Words words_of(U8x64 a) { Words r; __builtin_memcpy(&r, a.byte, 64); return r; }
FLYWEIGHT_INLINE U8x64 bytes_of(Words a) { U8x64 r; __builtin_memcpy(r.byte, &a, 64); return r; }
FLYWEIGHT_INLINE U8x64 either(U8x64 a, U8x64 b) { return bytes_of(words_of(a) | words_of(b)); }
FLYWEIGHT_INLINE U8x64 low_halves(U8x64 a) { return bytes_of(words_of(a) & 0x0f0f0f0fu); }
FLYWEIGHT_INLINE U8x64 high_halves(U8x64 a) { return bytes_of((words_of(a) >> 4) & 0x0f0f0f0fu); }
// Bits 2 N and 2 N + 1 of every byte, moved to its bits 4 and 5.
template <int N> FLYWEIGHT_INLINE U8x64 upper_bits(U8x64 a) { return bytes_of((words_of(a) >> (2 * N) & 0x03030303u) << 4); }
FLYWEIGHT_INLINE U8x64 raise_bytes(U8x64 a, uint8_t by) { for (uint8_t &byte : a.byte) byte = static_cast<uint8_t>(byte + by); return a; }
// Lane by lane, from the 32-bit word of the lane: (word >> shift) & mask.
FLYWEIGHT_INLINE I32x16 field(U8x64 a, int shift, uint32_t mask) { return {__builtin_convertvector((words_of(a) >> shift) & mask, Integers)}; }
FLYWEIGHT_INLINE QuadInput load_quad(const int8_t *p) { return {{p[0], p[1], p[2], p[3]}}; }
// acc + sum over four bytes of unsigned weight times signed input, exactly.
FLYWEIGHT_INLINE I32x16 dot_quads(I32x16 acc, U8x64 w, QuadInput x) {
  for (int j = 0; j < 4; ++j) acc.v += field(w, 8 * j, 255).v * x.value[j];
  return acc;
}
// The same where every weight is below 16, and for eight inputs where every weight is below 64.
FLYWEIGHT_INLINE I32x16 dot_small_quads(I32x16 acc, U8x64 w, QuadInput x) { return dot_quads(acc, w, x); }
FLYWEIGHT_INLINE I32x16 dot_small_eights(I32x16 acc, U8x64 low, U8x64 high, QuadInput first, QuadInput last) { return dot_quads(dot_quads(acc, low, first), high, last); }

FLYWEIGHT_INLINE BfPairs load_pairs(const uint8_t *p) { return {words_of(load_bytes(p))}; }
FLYWEIGHT_INLINE BfInput load_pair(const uint16_t *p) { return {float_of_bfloat16(p[0]), float_of_bfloat16(p[1])}; }
FLYWEIGHT_INLINE BfInput load_pair(const float *p) { return {p[0], p[1]}; }
FLYWEIGHT_INLINE F32x16 floats_of(Words bits) { F32x16 r; __builtin_memcpy(&r, &bits, 64); return r; }
FLYWEIGHT_INLINE F32x16 even_of_pairs(BfPairs w) { return floats_of(w.v << 16); }
FLYWEIGHT_INLINE F32x16 odd_of_pairs(BfPairs w) { return floats_of(w.v & 0xffff0000u); }
FLYWEIGHT_INLINE F32x16 dot_pairs(F32x16 acc, BfPairs w, BfInput x) { return acc + even_of_pairs(w) * x.even + odd_of_pairs(w) * x.odd; }
// Two numbers per lane, each a whole number exact in the upper half of its float.
FLYWEIGHT_INLINE BfPairs join_pairs(I32x16 even, I32x16 odd, int32_t offset) {
  const F32x16 low = to_float({even.v - offset}), high = to_float({odd.v - offset});
  Words low_bits, high_bits;
  __builtin_memcpy(&low_bits, &low, 64), __builtin_memcpy(&high_bits, &high, 64);
  return {(low_bits >> 16) | (high_bits & 0xffff0000u)};
}
// From every 16-bit half of a lane: half-byte number N (0..3) less 8, or byte number N (0..1) less 128, as bfloat16.
template <int N> FLYWEIGHT_INLINE BfPairs pairs_of_half_bytes(U8x64 a) { return join_pairs(field(a, 4 * N, 15), field(a, 4 * N + 16, 15), 8); }
template <int N> FLYWEIGHT_INLINE BfPairs pairs_of_bytes(U8x64 a) { return join_pairs(field(a, 8 * N, 255), field(a, 8 * N + 16, 255), 128); }

// Two whole numbers of 16 bits per lane lie where bfloat16 pairs do.
struct WordInput { int16_t even, odd; }; // one pair of inputs for every lane
FLYWEIGHT_INLINE BfPairs zero_pairs() { return {Words{}}; }
// The larger magnitude of each number: as bfloat16 their bits without the sign have the order of whole numbers, and NaN is the largest.
FLYWEIGHT_INLINE BfPairs largest_magnitudes(BfPairs a, BfPairs b) {
  FLYWEIGHT_EACH {
    const uint32_t low = b.v[i] & 0x7fffu, high = b.v[i] & 0x7fff0000u;
    a.v[i] = (low > (a.v[i] & 0x7fffu) ? low : a.v[i] & 0x7fffu) | (high > (a.v[i] & 0x7fff0000u) ? high : a.v[i] & 0x7fff0000u);
  }
  return a;
}
// The numbers times the factor of their lane, rounded to 16 bits; what is not finite gives anything.
FLYWEIGHT_INLINE void store_words(uint8_t *p, BfPairs w, F32x16 factor) {
  const F32x16 even = even_of_pairs(w) * factor, odd = odd_of_pairs(w) * factor;
  FLYWEIGHT_EACH {
    const bool known = std::fabs(even[i]) < 32768.0f && std::fabs(odd[i]) < 32768.0f;
    const int16_t both[2] = {static_cast<int16_t>(known ? std::nearbyintf(even[i]) : 0), static_cast<int16_t>(known ? std::nearbyintf(odd[i]) : 0)};
    __builtin_memcpy(p + 4 * i, both, 4);
  }
}
FLYWEIGHT_INLINE void store_int16(int16_t *p, I32x16 a) { FLYWEIGHT_EACH p[i] = static_cast<int16_t>(a.v[i]); } // of 16 bits
FLYWEIGHT_INLINE WordInput load_word_pair(const int16_t *p) { return {p[0], p[1]}; }
FLYWEIGHT_INLINE I32x16 dot_words(I32x16 acc, BfPairs w, WordInput x) {
  FLYWEIGHT_EACH acc.v[i] += static_cast<int16_t>(w.v[i] & 0xffffu) * x.even + static_cast<int16_t>(w.v[i] >> 16) * x.odd;
  return acc;
}
#undef FLYWEIGHT_EACH
