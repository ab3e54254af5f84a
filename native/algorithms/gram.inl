// sums += x^T x over features [i_begin, i_end) by [j_begin, j_end), where j is not below i: 32 by 32 features at a time.

constexpr int64_t kGramSide = 32;
constexpr int64_t kGramDepth = 256; // tokens per pass: 32 KiB of inputs on either side

inline int64_t gram_packed_bytes(const GramArguments &) { return 0; }
inline void gram_pack(const GramArguments &, int64_t, int64_t) {}
inline int64_t gram_workspace() { return 2 * kGramSide * kGramDepth; }

FLYWEIGHT_INLINE F32x16 gram_input(const GramArguments &a, int64_t token, int64_t feature) {
  const int64_t left = a.width - feature;
  const float *from = a.x + token * a.x_stride + feature;
  F32x16 values = left >= 16 ? load(from) : left > 0 ? load_first(from, left) : splat(0.0f);
  if (a.rounded) {
    uint16_t halves[16];
    store_bfloat16(halves, values);
    values = load_bfloat16(halves);
  }
  return values;
}

inline void gram(const GramArguments &a, int64_t i_begin, int64_t i_end, int64_t j_begin, int64_t j_end, float *workspace) {
  float *left = workspace, *right = workspace + kGramSide * kGramDepth; // [feature][token] and [token][feature]
  for (int64_t begin = 0; begin < a.rows; begin += kGramDepth) {
    const int64_t depth = a.rows - begin < kGramDepth ? a.rows - begin : kGramDepth;
    for (int64_t i = i_begin; i < i_end; i += kGramSide) {
      for (int64_t k = 0; k < depth; ++k)
        for (int64_t half = 0; half < kGramSide; half += 16) {
          float lanes[16];
          store(lanes, gram_input(a, begin + k, i + half));
          for (int64_t lane = 0; lane < 16; ++lane) left[(half + lane) * kGramDepth + k] = lanes[lane];
        }
      for (int64_t j = j_begin > i ? j_begin : i; j < j_end; j += kGramSide) {
        for (int64_t k = 0; k < depth; ++k)
          for (int64_t half = 0; half < kGramSide; half += 16) store(right + k * kGramSide + half, gram_input(a, begin + k, j + half));
        for (int64_t at = 0; at < kGramSide && j + at < j_end; at += 16 * kWidePanels) {
          const int64_t most = kGramSide - at < 16 * kWidePanels ? kGramSide - at : 16 * kWidePanels;
          const int64_t columns = j_end - j - at < most ? j_end - j - at : most;
          const FloatTile tile{left, kGramDepth, right + at, kGramSide, 16, depth, {a.sums + i * a.sums_stride + j + at, a.sums_stride, columns, false, nullptr}};
          run_strip<kWidePanels, kMaxRows>(tile, i_end - i < kGramSide ? i_end - i : kGramSide, (columns + 15) / 16);
        }
      }
    }
  }
}
