// What the machine can do at best, to compare a kernel with: nothing but reads, nothing but products in registers.

// Reads `count` bytes (a multiple of 256) once, in order, and returns something made of them, so that the compiler keeps the
// reads. Asking for bytes ahead of the hardware's own prefetcher was never slower and often a quarter faster.
inline int32_t read_all(const uint8_t *bytes, int64_t count) {
  U8x64 seen[4] = {load_bytes(bytes), load_bytes(bytes), load_bytes(bytes), load_bytes(bytes)};
  for (int64_t i = 0; i < count; i += 256) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      __builtin_prefetch(bytes + i + 64 * j + kReadAhead);
      seen[j] = either(seen[j], load_bytes(bytes + i + 64 * j));
    }
  }
  float lanes[16];
  store(lanes, to_float(field(either(either(seen[0], seen[1]), either(seen[2], seen[3])), 0, 255)));
  return static_cast<int32_t>(lanes[0]);
}

constexpr int kProbeChains = kMaxRows * kWidePanels; // as many sums as a full tile keeps in registers

// Multiplies in registers; returns how many multiplications and additions were done.
inline int64_t multiply_int8(int64_t repeats, float *sink) {
  uint8_t bytes[128] = {1, 2, 3}; // two operands in turn: the product of one would be made only once
  const int8_t inputs[4] = {1, -1, 2, 3};
  const QuadInput input = load_quad(inputs);
  I32x16 sums[kProbeChains];
#pragma GCC unroll 24
  for (int chain = 0; chain < kProbeChains; ++chain) sums[chain] = splat_integer(chain); // equal chains would become one
  for (int64_t i = 0; i < repeats; ++i) {
    const U8x64 weights = load_bytes(bytes + i % 2 * 64);
#pragma GCC unroll 24
    for (int chain = 0; chain < kProbeChains; ++chain) sums[chain] = dot_quads(sums[chain], weights, input);
  }
#pragma GCC unroll 24
  for (const I32x16 &sum : sums) store(sink, add(load(sink), to_float(sum)));
  return repeats * kProbeChains * 16 * 4 * 2;
}

inline int64_t multiply_bfloat16(int64_t repeats, float *sink) {
  uint8_t bytes[128];
  for (int i = 0; i < 128; ++i) bytes[i] = i % 2 ? 0x3f : i < 64 ? 0x80 : 0x81; // about one
  const uint16_t inputs[2] = {0x3f80, 0xbf80};
  const BfInput input = load_pair(inputs);
  F32x16 sums[kProbeChains];
#pragma GCC unroll 24
  for (int chain = 0; chain < kProbeChains; ++chain) sums[chain] = splat(static_cast<float>(chain));
  for (int64_t i = 0; i < repeats; ++i) {
    const BfPairs weights = load_pairs(bytes + i % 2 * 64);
#pragma GCC unroll 24
    for (int chain = 0; chain < kProbeChains; ++chain) sums[chain] = dot_pairs(sums[chain], weights, input);
  }
#pragma GCC unroll 24
  for (const F32x16 &sum : sums) store(sink, add(load(sink), sum));
  return repeats * kProbeChains * 16 * 2 * 2;
}
