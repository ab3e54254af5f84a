// The words of AMX: eight tile registers, each up to sixteen rows of 64 bytes. They join those of avx512.inl.
//
// Everywhere registers 0 to 3 hold sums (two tiles of rows by two panels), 4 and 5 inputs, 6 and 7 weights. Written as
// assembler, because the compiler's own intrinsics do not say that they touch memory: stores before them may move.

// What LDTILECFG reads: which part of each register is in use.
struct alignas(64) TileShape {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};

// Tiles for `first` and `second` rows of inputs, `depth_bytes` of each row at a time.
inline TileShape tile_shape(int64_t first, int64_t second, int64_t depth_bytes) {
  TileShape shape{};
  shape.palette = 1;
  for (int i = 0; i < 8; ++i) shape.row_bytes[i] = 64, shape.rows[i] = 16;
  shape.rows[0] = shape.rows[1] = shape.rows[4] = static_cast<uint8_t>(first);
  shape.rows[2] = shape.rows[3] = shape.rows[5] = static_cast<uint8_t>(second);
  shape.row_bytes[4] = shape.row_bytes[5] = static_cast<uint16_t>(depth_bytes);
  shape.rows[6] = shape.rows[7] = static_cast<uint8_t>(depth_bytes / 4);
  return shape;
}

#if defined(FLYWEIGHT_EMULATE)
#include "emulation/tiles.inl"
#else
FLYWEIGHT_INLINE void tile_release() { asm volatile("tilerelease" ::: "memory"); }
FLYWEIGHT_INLINE void tile_configure(const TileShape &shape) { asm volatile("ldtilecfg %0" ::"m"(shape) : "memory"); }
template <int TILE> FLYWEIGHT_INLINE void zero_tile() { asm volatile("tilezero %%tmm%c0" ::"i"(TILE)); }
template <int TILE> FLYWEIGHT_INLINE void load_tile(const void *p, int64_t row_stride_bytes) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(p), "r"(row_stride_bytes), "i"(TILE) : "memory");
}
template <int TILE> FLYWEIGHT_INLINE void store_tile(void *p, int64_t row_stride_bytes) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(p), "r"(row_stride_bytes), "i"(TILE) : "memory");
}
template <int SUMS, int INPUTS, int WEIGHTS> FLYWEIGHT_INLINE void dot_tile_pairs() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(SUMS), "i"(INPUTS), "i"(WEIGHTS));
}
template <int SUMS, int INPUTS, int WEIGHTS> FLYWEIGHT_INLINE void dot_tile_quads() { // both signed
  asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(SUMS), "i"(INPUTS), "i"(WEIGHTS));
}

// bfloat16 by the conversion instruction: subnormal numbers become zero, as the products would make them anyway.
FLYWEIGHT_INLINE __m256i to_bfloat16(F32x16 a) { return (__m256i)_mm512_cvtneps_pbh(a); }
// As to_bfloat16, `first` in the lower half.
FLYWEIGHT_INLINE __m512i to_bfloat16(F32x16 first, F32x16 second) { return (__m512i)_mm512_cvtne2ps_pbh(second, first); }
#endif

// The tiles are in use while one of these lives; afterwards nothing of them is left that a task switch had to save.
class TilesInUse {
public:
  TilesInUse() = default;
  TilesInUse(const TilesInUse &) = delete;
  TilesInUse &operator=(const TilesInUse &) = delete;
  ~TilesInUse() { tile_release(); }
  void configure(const TileShape &shape) { tile_configure(shape); }
};
