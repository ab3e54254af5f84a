// Attention of many rows over a bfloat16 cache where no instruction multiplies bfloat16: a tile of keys and values becomes whole
// numbers of 16 bits once for all rows, queries and weights too, and products run in pairs, twice as many in an instruction as in
// float32. Sums of 64 products are exact; the rounding is finer than that of bfloat16 for all but the smallest numbers of a vector:
//
//   queries  12 bits of magnitude, a scale for each row
//   keys     13 bits, a scale for each key and 64 numbers
//   weights  13 bits, of the largest weight of the row in this tile
//   values   12 bits, a scale for each number of the head over the keys of this tile
//
// A sum of 64 products stays below 2^31: 64 * 4095 * 8192. A tile that holds something not finite is left to the float32 way.
constexpr int64_t kRoundedSum = 64;
constexpr float kMostQuery = 4095.0f, kMostKey = 8191.0f, kMostValue = 4095.0f;
constexpr float kWeightBits = 13.0f;

// The place of one tile, cut from AttendPlace::expanded and AttendPlace::tile_scales.
struct RoundedTile {
  uint8_t *keys, *values; // [panel][step][key][2], [step][vector][number][2]
  float *key_scales;      // [panel][segment of 64 numbers][key]
  float *value_scales;    // [number]
};

inline int64_t rounded_segments(const CacheLayout &layout) { return (layout.padded_dim + kRoundedSum - 1) / kRoundedSum; }
inline int64_t rounded_scales(const CacheLayout &layout) { return kKeyTile * rounded_segments(layout) + layout.padded_dim; }

inline RoundedTile rounded_tile(const CacheLayout &layout, float *expanded, float *scales) {
  uint8_t *bytes = reinterpret_cast<uint8_t *>(expanded);
  return {bytes, bytes + kKeyTile * layout.padded_dim * 2, scales, scales + kKeyTile * rounded_segments(layout)};
}

// The largest magnitudes of the even and odd numbers of every lane, then the scale that takes them to `most`; false where one is not finite.
FLYWEIGHT_INLINE bool scale_of_largest(BfPairs largest_pairs, float most, F32x16 *scale, F32x16 *inverse) {
  const F32x16 biggest = max(even_of_pairs(largest_pairs), odd_of_pairs(largest_pairs));
  *scale = mul(biggest, splat(1.0f / most));
  const F32x16 alive = max(biggest, splat(1e-30f));
  *inverse = where_less(splat(1e-30f), biggest, div(splat(most), alive), splat(0.0f));
  const F32x16 even = even_of_pairs(largest_pairs), odd = odd_of_pairs(largest_pairs);
  return sum(add(sub(even, even), sub(odd, odd))) == 0.0f;
}

// False, and nothing promised of `to`, where a key or value of the tile is not finite.
inline bool round_cache(const CacheLayout &layout, const CacheUnits &units, const RoundedTile &to) {
  const int64_t steps = layout.padded_dim / 2, segment_steps = kRoundedSum / 2, segments = rounded_segments(layout);
  bool finite = true;
  for (int64_t panel = 0; panel < 2 * units.count; ++panel) {
    const uint8_t *from = units.unit[panel / 2] + panel % 2 * layout.panel_bytes;
    const uint8_t *next = units.next[panel / 2] ? units.next[panel / 2] + panel % 2 * layout.panel_bytes : from;
    uint8_t *words = to.keys + panel * layout.panel_bytes;
    for (int64_t segment = 0; segment < segments; ++segment) {
      const int64_t begin = segment * segment_steps, end = begin + segment_steps < steps ? begin + segment_steps : steps;
      BfPairs biggest = zero_pairs();
      for (int64_t k = begin; k < end; ++k) {
        __builtin_prefetch(next + k * 64, 0, 2);
        biggest = largest_magnitudes(biggest, load_pairs(from + k * 64));
      }
      F32x16 scale, inverse;
      finite &= scale_of_largest(biggest, kMostKey, &scale, &inverse);
      store(to.key_scales + (panel * segments + segment) * 16, scale);
      for (int64_t k = begin; k < end; ++k) store_words(words + k * 64, load_pairs(from + k * 64), inverse);
    }
  }
  const int64_t vectors = layout.padded_dim / 16;
  for (int64_t vector = 0; vector < vectors; ++vector) {
    BfPairs biggest = zero_pairs();
    for (int64_t u = 0; u < units.count; ++u) {
      const uint8_t *from = units.unit[u] + layout.values + vector * 64, *next = units.next[u] ? units.next[u] + layout.values + vector * 64 : from;
      for (int64_t k = 0; k < kCacheUnit / 2; ++k) {
        __builtin_prefetch(next + k * vectors * 64, 0, 2);
        biggest = largest_magnitudes(biggest, load_pairs(from + k * vectors * 64));
      }
    }
    F32x16 scale, inverse;
    finite &= scale_of_largest(biggest, kMostValue, &scale, &inverse);
    store(to.value_scales + vector * 16, scale);
    for (int64_t u = 0; u < units.count; ++u) {
      const uint8_t *from = units.unit[u] + layout.values + vector * 64;
      uint8_t *words = to.values + u * 2 * layout.panel_bytes + vector * 64;
      for (int64_t k = 0; k < kCacheUnit / 2; ++k) store_words(words + k * vectors * 64, load_pairs(from + k * vectors * 64), inverse);
    }
  }
  return finite;
}

// One row of scaled queries; its scale is NaN where one is not finite.
FLYWEIGHT_INLINE void round_query(const AttendArguments &a, const float *from, int16_t *words, float *scale) {
  const auto scaled = [&](int64_t i) __attribute__((always_inline)) { return mul(load_first(from + i, a.layout.head_dim - i < 16 ? a.layout.head_dim - i : 16), splat(a.scale)); };
  F32x16 biggest = splat(0.0f), alarm = splat(0.0f);
  for (int64_t i = 0; i < a.layout.padded_dim; i += 16) {
    const F32x16 values = scaled(i);
    biggest = max(biggest, abs(values)), alarm = add(alarm, sub(values, values));
  }
  const float most = largest(biggest);
  const bool finite = sum(alarm) == 0.0f;
  *scale = finite ? most / kMostQuery : __builtin_nanf("");
  const F32x16 inverse = splat(finite && most > 1e-30f ? kMostQuery / most : 0.0f);
  for (int64_t i = 0; i < a.layout.padded_dim; i += 16) store_int16(words + i, to_integer(finite ? mul(scaled(i), inverse) : splat(0.0f)));
}

// scores = queries times the keys of one panel.
struct RoundedScores {
  const int16_t *x;
  const float *x_scales;
  int64_t head;
  const uint8_t *keys;
  const float *key_scales;
  float *scores;

  template <int ROWS, int PANELS> void run() const {
    F32x16 tile[ROWS];
    for (int r = 0; r < ROWS; ++r) tile[r] = splat(0.0f);
    const float *scale = key_scales;
    for (int64_t begin = 0; begin < head; begin += kRoundedSum, scale += 16) {
      const int64_t end = begin + kRoundedSum < head ? begin + kRoundedSum : head;
      I32x16 dots[ROWS];
#pragma GCC unroll 12
      for (int r = 0; r < ROWS; ++r) dots[r] = splat_integer(0);
      for (int64_t d = begin; d < end; d += 2) {
        const BfPairs pairs = load_pairs(keys + d * 32);
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; ++r) dots[r] = dot_words(dots[r], pairs, load_word_pair(x + r * head + d));
      }
      const F32x16 factor = load(scale);
#pragma GCC unroll 12
      for (int r = 0; r < ROWS; ++r) tile[r] = fma(to_float(dots[r]), factor, tile[r]);
    }
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r) store(scores + r * kKeyTile, mul(tile[r], splat(x_scales[r])));
  }
  FLYWEIGHT_INLINE void advance(int64_t rows) { x += rows * head, x_scales += rows, scores += rows * kKeyTile; }
};

// sums = decays * sums + scales * weights times values, sixteen numbers of the head.
struct RoundedSums {
  const int16_t *weights;
  const float *scales, *decays;
  const uint8_t *values;
  int64_t step_bytes, tokens;
  const float *value_scales;
  float *sums;
  int64_t head;

  template <int ROWS, int PANELS> void run() const {
    F32x16 tile[ROWS];
    for (int r = 0; r < ROWS; ++r) tile[r] = splat(0.0f);
    const uint8_t *step = values;
    for (int64_t begin = 0; begin < tokens; begin += kRoundedSum) {
      const int64_t end = begin + kRoundedSum < tokens ? begin + kRoundedSum : tokens;
      I32x16 dots[ROWS];
#pragma GCC unroll 12
      for (int r = 0; r < ROWS; ++r) dots[r] = splat_integer(0);
      for (int64_t t = begin; t < end; t += 2, step += step_bytes) {
        const BfPairs pairs = load_pairs(step);
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; ++r) dots[r] = dot_words(dots[r], pairs, load_word_pair(weights + r * kKeyTile + t));
      }
#pragma GCC unroll 12
      for (int r = 0; r < ROWS; ++r) tile[r] = add(tile[r], to_float(dots[r]));
    }
    const F32x16 factor = load(value_scales);
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r) {
      float *to = sums + r * head;
      store(to, fma(load(to), splat(decays[r]), mul(tile[r], mul(factor, splat(scales[r])))));
    }
  }
  FLYWEIGHT_INLINE void advance(int64_t rows) { weights += rows * kKeyTile, scales += rows, decays += rows, sums += rows * head; }
};

// What one tile does to the softmax of every row: `tops` are the tile's largest scores, minus infinity where a row sees none of its
// keys. Sums and totals so far are scaled by `decays`, what the tile's whole weights add to them by `scales`.
inline void rescale_rows(int64_t rows, const float *tops, float *largest_so_far, float *decays, float *scales) {
  for (int64_t row = 0; row < rows; row += 16) {
    const F32x16 before = load(largest_so_far + row), here = load(tops + row), now = max(before, here);
    const F32x16 finite = max(now, splat(-3e38f)); // no infinity minus infinity
    store(decays + row, exponential(sub(before, finite)));
    store(scales + row, mul(exponential(sub(here, finite)), splat(1.0f / 8192.0f)));
    store(largest_so_far + row, now);
  }
}

// Turns one row of scores into whole weights of at most 8192; returns their sum.
FLYWEIGHT_INLINE float round_weights(int64_t width, const float *scores, float top, int16_t *weights) {
  I32x16 total = splat_integer(0);
  for (int64_t t = 0; t < width; t += 32) {
    I32x16 whole[2];
    round_powers_of_two(load(scores + t), load(scores + t + 16), top, kWeightBits, whole);
    store_int16(weights + t, whole[0]), store_int16(weights + t + 16, whole[1]);
    total = add(total, add(whole[0], whole[1]));
  }
  return sum(to_float(total));
}

inline void score_rounded(const CacheLayout &layout, const CacheUnits &units, const RoundedTile &from, const int16_t *queries, const float *scales,
                          int64_t rows, float *scores) {
  for (int64_t panel = 0; panel < 2 * units.count; ++panel)
    run_rows<1, kMaxRows>(RoundedScores{queries, scales, layout.padded_dim, from.keys + panel * layout.panel_bytes,
                                        from.key_scales + panel * rounded_segments(layout) * 16, scores + panel * 16}, rows);
}

inline void add_rounded(const CacheLayout &layout, const CacheUnits &units, const RoundedTile &from, const int16_t *weights, const float *scales,
                        const float *decays, int64_t rows, float *sums) {
  for (int64_t column = 0; column < layout.padded_dim; column += 16)
    run_rows<1, kMaxRows>(RoundedSums{weights, scales, decays, from.values + column * 4, layout.padded_dim * 4, units.count * kCacheUnit,
                                      from.value_scales + column, sums + column, layout.padded_dim}, rows);
}
