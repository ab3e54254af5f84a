// Register tiles of attention: some rows (queries of one key/value head) against vectors of the cache as they lie there.
// For scores a vector holds sixteen keys, for sums sixteen numbers of a value. Every row is summed in the same order
// however many rows stand beside it.

constexpr int64_t kTileUnits = kKeyTile / kCacheUnit;

// The units of one tile of keys and, for the prefetch, of the next (or null). Beyond `count` the last one repeats.
struct CacheUnits {
  int64_t count;
  const uint8_t *unit[kTileUnits];
  const uint8_t *next[kTileUnits];
};

struct Float32Words {
  using Input = float;
  using Weight = F32x16;
  static constexpr int64_t kPerStep = 1, kBytes = 64;
  static FLYWEIGHT_INLINE Weight weight(const uint8_t *p) { return load(reinterpret_cast<const float *>(p)); }
  static FLYWEIGHT_INLINE F32x16 dot(F32x16 acc, Weight w, const Input *x) { return fma(splat(*x), w, acc); }
};

struct Float16Words {
  using Input = float;
  using Weight = F32x16;
  static constexpr int64_t kPerStep = 1, kBytes = 32;
  static FLYWEIGHT_INLINE Weight weight(const uint8_t *p) { return load_float16(reinterpret_cast<const uint16_t *>(p)); }
  static FLYWEIGHT_INLINE F32x16 dot(F32x16 acc, Weight w, const Input *x) { return fma(splat(*x), w, acc); }
};

struct PairWords {
  using Input = std::conditional_t<kFloatInputs, float, uint16_t>;
  using Weight = BfPairs;
  static constexpr int64_t kPerStep = 2, kBytes = 64;
  static FLYWEIGHT_INLINE Weight weight(const uint8_t *p) { return load_pairs(p); }
  static FLYWEIGHT_INLINE F32x16 dot(F32x16 acc, Weight w, const Input *x) { return dot_pairs(acc, w, load_pair(x)); }
};

// scores[row][key] = sum over the head of x[row] times key; row r of x at r * x_stride.
template <class Words, int ROWS>
FLYWEIGHT_INLINE void score_tile(const CacheLayout &layout, const CacheUnits &units, const typename Words::Input *x, int64_t x_stride,
                                 float *scores) {
  for (int64_t first = 0; first < 2 * units.count; first += kAttendVectors) {
    F32x16 tile[ROWS][kAttendVectors];
    const uint8_t *panel[kAttendVectors], *next[kAttendVectors];
    for (int p = 0; p < kAttendVectors; ++p) {
      const int64_t vector = first + p, within = vector % 2 * layout.panel_bytes;
      panel[p] = units.unit[vector / 2] + within, next[p] = units.next[vector / 2] ? units.next[vector / 2] + within : nullptr;
      for (int r = 0; r < ROWS; ++r) tile[r][p] = splat(0.0f);
    }
    const int64_t steps = layout.padded_dim / Words::kPerStep;
    for (int64_t k = 0; k < steps; ++k) {
      typename Words::Weight weights[kAttendVectors];
#pragma GCC unroll 4
      for (int p = 0; p < kAttendVectors; ++p) {
        weights[p] = Words::weight(panel[p] + k * Words::kBytes);
        if (next[0]) __builtin_prefetch(next[p] + k * Words::kBytes, 0, 2);
      }
#pragma GCC unroll 4
      for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
        for (int p = 0; p < kAttendVectors; ++p) tile[r][p] = Words::dot(tile[r][p], weights[p], x + r * x_stride + k * Words::kPerStep);
      }
    }
    for (int r = 0; r < ROWS; ++r)
      for (int p = 0; p < kAttendVectors; ++p) store(scores + r * kKeyTile + (first + p) * 16, tile[r][p]);
  }
}

// sums[row] += sum over the tile's tokens of weights[row][token] times value; row r of the weights at r * kKeyTile.
template <class Words, int ROWS, int VECTORS>
FLYWEIGHT_INLINE void value_strip(const CacheLayout &layout, const CacheUnits &units, const typename Words::Input *weights, float *sums,
                                  int64_t column) {
  F32x16 tile[ROWS][VECTORS];
  for (int r = 0; r < ROWS; ++r)
    for (int p = 0; p < VECTORS; ++p) tile[r][p] = load(sums + r * layout.padded_dim + column + 16 * p);
  const int64_t step_bytes = layout.padded_dim / 16 * Words::kBytes, offset = layout.values + column / 16 * Words::kBytes;
  for (int64_t u = 0; u < units.count; ++u) {
    const uint8_t *step = units.unit[u] + offset, *next = units.next[u] ? units.next[u] + offset : nullptr;
    const typename Words::Input *x = weights + u * kCacheUnit;
    for (int64_t k = 0; k < kCacheUnit; k += Words::kPerStep, step += step_bytes) {
      typename Words::Weight values[VECTORS];
#pragma GCC unroll 4
      for (int p = 0; p < VECTORS; ++p) {
        values[p] = Words::weight(step + p * Words::kBytes);
        if (next) __builtin_prefetch(next + k / Words::kPerStep * step_bytes + p * Words::kBytes, 0, 2);
      }
#pragma GCC unroll 4
      for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
        for (int p = 0; p < VECTORS; ++p) tile[r][p] = Words::dot(tile[r][p], values[p], x + r * kKeyTile + k);
      }
    }
  }
  for (int r = 0; r < ROWS; ++r)
    for (int p = 0; p < VECTORS; ++p) store(sums + r * layout.padded_dim + column + 16 * p, tile[r][p]);
}

template <class Words, int ROWS>
FLYWEIGHT_INLINE void value_tile(const CacheLayout &layout, const CacheUnits &units, const typename Words::Input *weights, float *sums) {
  int64_t column = 0;
  for (; column + 16 * kAttendVectors <= layout.padded_dim; column += 16 * kAttendVectors)
    value_strip<Words, ROWS, kAttendVectors>(layout, units, weights, sums, column);
  for (; column < layout.padded_dim; column += 16) value_strip<Words, ROWS, 1>(layout, units, weights, sums, column);
}
