// sums += x^T x on tile registers, from inputs rounded to bfloat16. All inputs are first turned into tiles, twice: with
// features down and tokens across for the left side, in pairs of tokens with features across for the right side.

constexpr int64_t kGramSide = 32;

inline int64_t gram_steps(const GramArguments &a) { return (a.rows + 31) / 32; }
inline int64_t gram_panels(const GramArguments &a) { return (a.width + kGramSide - 1) / kGramSide * 2; }

inline int64_t gram_tiles_bytes(const GramArguments &a) {
  return a.rounded ? 2 * gram_panels(a) * gram_steps(a) * 1024 : avx512::kernels().gram_packed_bytes(a);
}

// Where panel `panel` of sixteen features lies: its left tiles, or behind those of all panels its right ones.
FLYWEIGHT_INLINE uint8_t *gram_panel(const GramArguments &a, int64_t panel, bool right) {
  return static_cast<uint8_t *>(a.packed) + ((right ? gram_panels(a) : 0) + panel) * gram_steps(a) * 1024;
}

inline void gram_pack_tiles(const GramArguments &a, int64_t panel_begin, int64_t panel_end) {
  if (!a.rounded) return avx512::kernels().gram_pack(a, panel_begin, panel_end);
  alignas(64) static constexpr uint16_t kInterleave[32] = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i interleave = _mm512_load_si512(kInterleave);
  for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
    uint8_t *left = gram_panel(a, panel, false), *right = gram_panel(a, panel, true);
    const int64_t features = a.width - panel * 16;
    const auto input = [&](int64_t token) {
      if (token >= a.rows || features <= 0) return splat(0.0f);
      const float *from = a.x + token * a.x_stride + panel * 16;
      return features >= 16 ? load(from) : load_first(from, features);
    };
    for (int64_t step = 0; step < gram_steps(a); ++step, left += 1024, right += 1024) {
      F32x16 pairs[16];
      for (int64_t pair = 0; pair < 16; ++pair) {
        const int64_t token = step * 32 + 2 * pair;
        pairs[pair] = _mm512_castsi512_ps(_mm512_permutexvar_epi16(interleave, to_bfloat16(input(token), input(token + 1))));
        _mm512_storeu_ps(right + pair * 64, pairs[pair]);
      }
      transpose(pairs); // a pair of tokens moves as one number
      for (int64_t feature = 0; feature < 16; ++feature) _mm512_storeu_ps(left + feature * 64, pairs[feature]);
    }
  }
}

// One 32 x 32 block of the result, whose upper left corner is at features i and j.
inline void gram_block_tiles(const GramArguments &a, int64_t i, int64_t j, int64_t rows, int64_t columns) {
  float *sums = a.sums + i * a.sums_stride + j;
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t column = 0; column < columns; column += 16) __builtin_prefetch(sums + row * a.sums_stride + column, 1, 2);
  const uint8_t *left[2] = {gram_panel(a, i / 16, false), gram_panel(a, i / 16 + 1, false)};
  const uint8_t *right[2] = {gram_panel(a, j / 16, true), gram_panel(a, j / 16 + 1, true)};
  zero_tile<0>(), zero_tile<1>(), zero_tile<2>(), zero_tile<3>();
  for (int64_t at = 0; at < gram_steps(a) * 1024; at += 1024) {
    load_tile<4>(left[0] + at, 64);
    load_tile<6>(right[0] + at, 64);
    dot_tile_pairs<0, 4, 6>();
    load_tile<7>(right[1] + at, 64);
    dot_tile_pairs<1, 4, 7>();
    load_tile<5>(left[1] + at, 64);
    dot_tile_pairs<2, 5, 6>();
    dot_tile_pairs<3, 5, 7>();
  }
  alignas(64) float products[32 * 32];
  store_tile<0>(products, 128), store_tile<1>(products + 16, 128), store_tile<2>(products + 512, 128), store_tile<3>(products + 528, 128);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t column = 0; column < columns; column += 16) {
      const int64_t count = columns - column < 16 ? columns - column : 16;
      float *sum = sums + row * a.sums_stride + column;
      store_first(sum, add(load_first(sum, count), load(products + row * 32 + column)), count);
    }
}

inline void gram_tiles(const GramArguments &a, int64_t i_begin, int64_t i_end, int64_t j_begin, int64_t j_end, float *workspace) {
  if (!a.rounded) return avx512::kernels().gram(a, i_begin, i_end, j_begin, j_end, workspace);
  TilesInUse tiles;
  tiles.configure(tile_shape(16, 16, 64));
  for (int64_t j = j_begin; j < j_end; j += kGramSide)
    for (int64_t i = i_begin; i < i_end && i <= j; i += kGramSide)
      gram_block_tiles(a, i, j, i_end - i < kGramSide ? i_end - i : kGramSide, j_end - j < kGramSide ? j_end - j : kGramSide);
}
