// sums += x^T x over features [i_begin, i_end) by [j_begin, j_end), where j is not below i.
//
// Features are packed once on either side for as many products as the caches allow: on the left kGramRows of them, on the
// right what one tile has in columns.

constexpr int64_t kGramRows = 128;
constexpr int64_t kGramColumns = 16 * kWidePanels;
constexpr int64_t kGramDepth = 512;              // tokens per pass
constexpr int64_t kGramStride = kGramDepth + 16; // rows a power of two apart would share few cache lines

inline int64_t gram_packed_bytes(const GramArguments &) { return 0; }
inline void gram_pack(const GramArguments &, int64_t, int64_t) {}
inline int64_t gram_workspace() { return kGramRows * kGramStride + kGramDepth * kGramColumns; }

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
  float *left = workspace, *right = workspace + kGramRows * kGramStride; // [feature][token] and [token][feature]
  for (int64_t begin = 0; begin < a.rows; begin += kGramDepth) {
    const int64_t depth = a.rows - begin < kGramDepth ? a.rows - begin : kGramDepth;
    for (int64_t i = i_begin; i < i_end; i += kGramRows) {
      const int64_t rows = i_end - i < kGramRows ? i_end - i : kGramRows;
      for (int64_t first = 0; first < rows; first += 16)
        for (int64_t k = 0; k < depth; ++k) {
          float lanes[16];
          store(lanes, gram_input(a, begin + k, i + first));
          for (int64_t lane = 0; lane < 16; ++lane) left[(first + lane) * kGramStride + k] = lanes[lane];
        }
      for (int64_t j = j_begin > i ? j_begin : i; j < j_end; j += kGramColumns) {
        const int64_t columns = j_end - j < kGramColumns ? j_end - j : kGramColumns;
        for (int64_t k = 0; k < depth; ++k)
          for (int64_t at = 0; at < columns; at += 16) store(right + k * kGramColumns + at, gram_input(a, begin + k, j + at));
        const FloatTile tile{left, kGramStride, right, kGramColumns, 16, depth, {a.sums + i * a.sums_stride + j, a.sums_stride, columns, false, nullptr}};
        const int64_t needed = j + columns - i; // rows below belong to the other triangle
        run_strip<kWidePanels, kMaxRows>(tile, needed < rows ? needed : rows, (columns + 15) / 16);
      }
    }
  }
}
