// Attention of many rows where the cache holds floating point numbers: one tile of keys, or of values, becomes float32 once
// for all rows and is multiplied as a matrix. Every sum has the order of attention_tiles.inl: the results are the same to the bit.

// Keys of a tile as [panel of sixteen][number][key], or values as [token][number].
inline void expand_cache(const CacheLayout &layout, const CacheUnits &units, bool keys, float *to) {
  const int64_t part_bytes = 2 * layout.panel_bytes, offset = keys ? 0 : layout.values;
  for (int64_t u = 0; u < units.count; ++u) {
    const uint8_t *from = units.unit[u] + offset, *next = units.next[u] ? units.next[u] + offset : from;
    const int64_t vectors = keys ? 1 : layout.padded_dim / 16; // of one step
    int64_t vector = 0;
    for (int64_t i = 0; i < part_bytes; i += 64) {
      __builtin_prefetch(next + i, 0, 2);
      if (layout.type == CacheType::kFloat32) {
        store(to, load(reinterpret_cast<const float *>(from + i))), to += 16;
      } else if (layout.type == CacheType::kFloat16) {
        store(to, load_float16(reinterpret_cast<const uint16_t *>(from + i)));
        store(to + 16, load_float16(reinterpret_cast<const uint16_t *>(from + i + 32)));
        to += 32;
      } else {
        // Two numbers of sixteen keys lie side by side, or two tokens of sixteen numbers.
        const BfPairs pairs = load_pairs(from + i);
        store(to, even_of_pairs(pairs)), store(to + vectors * 16, odd_of_pairs(pairs));
        to += 16;
        if (++vector == vectors) vector = 0, to += vectors * 16;
      }
    }
  }
}

// scores = queries times keys, rows of the queries layout.padded_dim apart.
inline void score_expanded(const CacheLayout &layout, const CacheUnits &units, const float *keys, const float *queries, int64_t rows, float *scores) {
  FloatTile tile{};
  tile.x = queries, tile.x_stride = layout.padded_dim;
  tile.w_step = 16, tile.depth = layout.padded_dim;
  for (int64_t panel = 0; panel < 2 * units.count; ++panel) {
    tile.w = keys + panel * 16 * layout.padded_dim;
    tile.out = {scores + panel * 16, kKeyTile, 16, true, nullptr};
    run_rows<1, kMaxRows>(tile, rows);
  }
}

// sums += weights times values
inline void add_expanded(const CacheLayout &layout, const CacheUnits &units, const float *values, const float *weights, int64_t rows, float *sums) {
  FloatTile tile{};
  tile.x = weights, tile.x_stride = kKeyTile;
  tile.w_step = layout.padded_dim, tile.depth = units.count * kCacheUnit;
  for (int64_t column = 0; column < layout.padded_dim; column += 16) {
    tile.w = values + column;
    tile.out = {sums + column, layout.padded_dim, 16, false, nullptr};
    run_rows<1, kMaxRows>(tile, rows);
  }
}
