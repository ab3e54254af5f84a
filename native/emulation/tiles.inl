// The words of AMX in software, for vocabulary/amx.inl: each tile is sixteen rows of 64 bytes.

struct Tiles {
  TileShape shape{};
  uint8_t bytes[8][16][64]{};
};
inline thread_local Tiles tiles_in_software;

inline void tile_release() { tiles_in_software = {}; }
inline void tile_configure(const TileShape &shape) { tiles_in_software = {.shape = shape}; }

template <int TILE> void zero_tile() { __builtin_memset(tiles_in_software.bytes[TILE], 0, sizeof tiles_in_software.bytes[TILE]); }
template <int TILE> void load_tile(const void *p, int64_t row_stride_bytes) {
  zero_tile<TILE>();
  for (int64_t row = 0; row < tiles_in_software.shape.rows[TILE]; ++row)
    __builtin_memcpy(tiles_in_software.bytes[TILE][row], static_cast<const uint8_t *>(p) + row * row_stride_bytes, tiles_in_software.shape.row_bytes[TILE]);
}
template <int TILE> void store_tile(void *p, int64_t row_stride_bytes) {
  for (int64_t row = 0; row < tiles_in_software.shape.rows[TILE]; ++row)
    __builtin_memcpy(static_cast<uint8_t *>(p) + row * row_stride_bytes, tiles_in_software.bytes[TILE][row], tiles_in_software.shape.row_bytes[TILE]);
}

// Adds to every sum what `product` makes of four bytes of inputs and four of weights.
template <class Sum, int SUMS, int INPUTS, int WEIGHTS, class Product> void dot_tiles(Product product) {
  auto &bytes = tiles_in_software.bytes;
  for (int m = 0; m < tiles_in_software.shape.rows[INPUTS]; ++m)
    for (int n = 0; n < 16; ++n) {
      Sum sum;
      __builtin_memcpy(&sum, &bytes[SUMS][m][4 * n], 4);
      for (int k = 0; k < tiles_in_software.shape.row_bytes[INPUTS] / 4; ++k) sum = product(sum, &bytes[INPUTS][m][4 * k], &bytes[WEIGHTS][k][4 * n]);
      __builtin_memcpy(&bytes[SUMS][m][4 * n], &sum, 4);
    }
}
template <int SUMS, int INPUTS, int WEIGHTS> void dot_tile_pairs() {
  dot_tiles<float, SUMS, INPUTS, WEIGHTS>([](float sum, const uint8_t *inputs, const uint8_t *weights) {
    uint16_t x[2], w[2];
    __builtin_memcpy(x, inputs, 4), __builtin_memcpy(w, weights, 4);
    for (int i = 0; i < 2; ++i) sum += float_of_bfloat16(x[i]) * float_of_bfloat16(w[i]);
    return sum;
  });
}
template <int SUMS, int INPUTS, int WEIGHTS> void dot_tile_quads() {
  dot_tiles<int32_t, SUMS, INPUTS, WEIGHTS>([](int32_t sum, const uint8_t *inputs, const uint8_t *weights) {
    for (int i = 0; i < 4; ++i) sum += static_cast<int8_t>(inputs[i]) * static_cast<int8_t>(weights[i]);
    return sum;
  });
}

FLYWEIGHT_INLINE __m256i to_bfloat16(F32x16 a) { return emulation::to_bfloat16(a); }
FLYWEIGHT_INLINE __m512i to_bfloat16(F32x16 first, F32x16 second) {
  return _mm512_inserti64x4(_mm512_castsi256_si512(to_bfloat16(first)), to_bfloat16(second), 1);
}
