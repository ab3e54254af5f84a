// y = x w^T + bias on tile registers: how the work of one task is cut so that the caches keep up with the tiles.
//
// A block of columns keeps its sums in the second-level cache while the inputs go by in passes of a few hundred; in a
// pass each strip of two panels is made ready once, into the first-level cache, and meets all rows, 32 at a time. Results
// are written once. However the work is cut, what adds up to one output is added in the order of the inputs: a row's
// result does not depend on the other rows.
//
// What one strip of one pass does is the matter of PairTiles and QuadTiles, in the files that follow.

constexpr int64_t kSumsFloats = 1 << 17;  // sums of one block of columns: a quarter of a second-level cache
constexpr int64_t kStripColumns = 32;
constexpr int64_t kMostTileRows = 1024;   // rows of one task
constexpr int64_t kFewestTileRows = 8;    // from here on tiles are faster than the vector kernels

// The columns of one strip in y, from the first row on.
struct StripOutput {
  float *y;
  int64_t y_stride, columns;

  // sums: rows x 32, all rows
  void write(int64_t first, int64_t rows, const float *sums) const {
    for (int64_t row = first; row < first + rows; ++row) {
      float *to = y + row * y_stride;
      if (columns == kStripColumns) {
        store(to, load(sums + row * kStripColumns)), store(to + 16, load(sums + row * kStripColumns + 16));
        continue;
      }
      for (int64_t p = 0; 16 * p < columns; ++p) store_first(to + 16 * p, load(sums + row * kStripColumns + 16 * p), columns - 16 * p < 16 ? columns - 16 * p : 16);
    }
  }
};

inline void start_sums(const float *bias, int64_t rows, int64_t columns, float *sums) {
  F32x16 start[2] = {splat(0.0f), splat(0.0f)};
  for (int64_t p = 0; bias && 16 * p < columns; ++p) start[p] = load_first(bias + 16 * p, columns - 16 * p < 16 ? columns - 16 * p : 16);
  for (int64_t row = 0; row < rows; ++row) store(sums + row * kStripColumns, start[0]), store(sums + row * kStripColumns + 16, start[1]);
}

// Panels [panel_begin, panel_end) of at most kMostTileRows rows. `strip` knows the weight, its inputs and its room.
template <class Strip>
void walk_tiles(Strip &strip, const PackedWeight &w, const LinearOutput &out, int64_t panel_begin, int64_t panel_end, int64_t row_begin, int64_t rows, float *sums) {
  const int64_t full = rows / 32 * 32, rest = rows - full, padded_rows = (rows + 31) / 32 * 32;
  const int64_t strips_at_once = kSumsFloats / (padded_rows * kStripColumns), passes = strip.num_passes();
  const TileShape full_shape = tile_shape(16, 16, strip.depth_bytes()), rest_shape = tile_shape(rest < 16 ? rest : 16, rest > 16 ? rest - 16 : 16, strip.depth_bytes());
  TilesInUse tiles;
  tiles.configure(full ? full_shape : rest_shape);
  for (int64_t first = panel_begin; first < panel_end; first += 2 * strips_at_once) {
    const int64_t last = first + 2 * strips_at_once < panel_end ? first + 2 * strips_at_once : panel_end, strips = (last - first + 1) / 2;
    const auto columns_from = [&](int64_t panel) {
      const int64_t end = last * 16 < w.out_features ? last * 16 : w.out_features;
      return end - panel * 16 < kStripColumns ? end - panel * 16 : kStripColumns;
    };
    for (int64_t s = 0; s < strips; ++s)
      start_sums(out.bias ? out.bias + (first + 2 * s) * 16 : nullptr, rows, columns_from(first + 2 * s), sums + s * padded_rows * kStripColumns);
    for (int64_t pass = 0; pass < passes; ++pass)
      for (int64_t s = 0; s < strips; ++s) {
        const int64_t panel = first + 2 * s;
        float *strip_sums = sums + s * padded_rows * kStripColumns;
        const StripOutput result{out.y + row_begin * out.y_stride + panel * 16, out.y_stride, columns_from(panel)};
        strip.begin(pass, panel, last - panel < 2 ? 1 : 2);
        for (int64_t row = 0; row < full; row += 32) {
          strip.template run<2>(row, 32, strip_sums + row * kStripColumns);
          if (pass + 1 == passes) result.write(row, 32, strip_sums);
        }
        if (!rest) continue;
        if (full) tiles.configure(rest_shape);
        if (rest > 16) strip.template run<2>(full, rest, strip_sums + full * kStripColumns);
        else strip.template run<1>(full, rest, strip_sums + full * kStripColumns);
        if (full) tiles.configure(full_shape);
        if (pass + 1 == passes) result.write(full, rest, strip_sums);
      }
  }
}
