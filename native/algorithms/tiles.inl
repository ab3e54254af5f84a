// What the tile registers do for a linear: which calls take them, how inputs are made ready, how much room is needed.

// As prepare_bfloat16 in linear.inl, sixteen inputs at a time, and with zeros up to a whole tile.
inline void prepare_pairs(const PackedWeight &w, const LinearInput &in, int64_t row) {
  const float *x = in.x + row * in.x_stride;
  uint16_t *out = static_cast<uint16_t *>(in.values) + row * in.values_stride;
  const auto put = [](uint16_t *to, F32x16 values) { _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), to_bfloat16(values)); };
  const int64_t padded = padded_inputs(w), whole = (padded + kTileInputs - 1) / kTileInputs * kTileInputs;
  if (!is_integer(w.storage)) {
    int64_t i = 0;
    for (; i + 16 <= w.in_features; i += 16) put(out + i, load(x + i));
    for (; i < whole; i += 16) put(out + i, i < w.in_features ? load_first(x + i, w.in_features - i) : splat(0.0f));
    return;
  }
  const __m512i order = _mm512_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
  for (int64_t segment = 0; segment < w.num_segments; ++segment) {
    const int64_t start = segment_start(w, segment), length = segment_length(w, segment);
    F32x16 total = splat(0.0f);
    // A segment may end between two registers: what is written beyond its padding, the next one overwrites.
    for (int64_t i = 0; i < w.padded_segment; i += 16) {
      const int64_t left = length - i;
      const F32x16 values = left >= 16 ? load(x + start + i) : left > 0 ? load_first(x + start + i, left) : splat(0.0f);
      const __m256i halves = to_bfloat16(_mm512_permutexvar_ps(order, values));
      total = add(total, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16)));
      _mm256_storeu_si256(reinterpret_cast<__m256i *>(out + segment * w.padded_segment + i), halves);
    }
    in.float_sums[row * w.num_segments + segment] = sum(total);
  }
  for (int64_t i = padded; i < whole; i += 8) _mm_storeu_si128(reinterpret_cast<__m128i *>(out + i), _mm_setzero_si128());
}

inline void prepare_tile_input(const PackedWeight &w, const LinearInput &in, int64_t row_begin, int64_t row_end) {
  if (w.compute != Compute::kBfloat16) return avx512::kernels().prepare_input(w, in, row_begin, row_end);
  for (int64_t row = row_begin; row < row_end; ++row) prepare_pairs(w, in, row);
}

inline int64_t linear_tiles_workspace(const PackedWeight &w) {
  const int64_t without = avx512::kernels().linear_workspace(w);
  if (w.compute == Compute::kFloat32) return without;
  const int64_t weight_bytes = w.compute == Compute::kInt8 ? 2 * tile_pass_bytes(w) : 2 * kPassInputs * 32;
  const int64_t with = kSumsFloats + weight_bytes / 4;
  return with > without ? with : without;
}

inline void linear_tiles(const PackedWeight &w, const LinearInput &in, const LinearOutput &out, int64_t panel_begin, int64_t panel_end,
                         int64_t row_begin, int64_t row_end, float *workspace) {
  // In bfloat16 a tile adds in another order than a vector, and codes are rounded with their scales: not to be mixed.
  const bool separate = w.compute == Compute::kBfloat16 && in.batch_invariant;
  if (w.compute == Compute::kFloat32 || separate || row_end - row_begin < kFewestTileRows)
    return avx512::kernels().linear(w, in, out, panel_begin, panel_end, row_begin, row_end, workspace);
  uint8_t *room = reinterpret_cast<uint8_t *>(workspace + kSumsFloats);
  for (int64_t row = row_begin; row < row_end; row += kMostTileRows) {
    const int64_t rows = row_end - row < kMostTileRows ? row_end - row : kMostTileRows;
    if (w.compute == Compute::kInt8) {
      QuadTiles strip{.w = w, .in = in, .row_begin = row, .room = room, .cut = cut_segment(w.padded_segment)};
      walk_tiles(strip, w, out, panel_begin, panel_end, row, rows, workspace);
    } else {
      PairTiles strip{.w = w, .x = static_cast<const uint16_t *>(in.values) + row * in.values_stride, .x_stride = in.values_stride, .room = room};
      walk_tiles(strip, w, out, panel_begin, panel_end, row, rows, workspace);
    }
  }
}
