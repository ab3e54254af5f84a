// What tile registers can do at best: nothing but products, all four sums in turn, operands that stay where they are.

template <class Multiply> int64_t multiply_tiles(int64_t repeats, uint16_t operand, float *sink, Multiply &&multiply) {
  alignas(64) uint16_t operands[16 * 32];
  for (uint16_t &value : operands) value = operand;
  alignas(64) float sums[16 * 16];
  TilesInUse tiles;
  tiles.configure(tile_shape(16, 16, 64));
  zero_tile<0>(), zero_tile<1>(), zero_tile<2>(), zero_tile<3>();
  load_tile<4>(operands, 64), load_tile<5>(operands, 64), load_tile<6>(operands, 64), load_tile<7>(operands, 64);
  for (int64_t i = 0; i < repeats; ++i) multiply();
  store_tile<0>(sums, 64);
  store(sink, load(sums));
  return repeats * 4 * 16 * 16 * 2; // times the inputs of one tile
}

inline int64_t multiply_tiles_int8(int64_t repeats, float *sink) {
  return 64 * multiply_tiles(repeats, 0x0101, sink, [] { dot_tile_quads<0, 4, 6>(), dot_tile_quads<1, 4, 7>(), dot_tile_quads<2, 5, 6>(), dot_tile_quads<3, 5, 7>(); });
}

inline int64_t multiply_tiles_bfloat16(int64_t repeats, float *sink) {
  return 32 * multiply_tiles(repeats, 0x3f80, sink, [] { dot_tile_pairs<0, 4, 6>(), dot_tile_pairs<1, 4, 7>(), dot_tile_pairs<2, 5, 6>(), dot_tile_pairs<3, 5, 7>(); });
}
