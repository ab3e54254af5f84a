// What half_bytes.inl and bytes.inl do for a linear: which calls take them, how they are cut, how much room is needed.

constexpr int64_t kByteTaskRows = 192; // of one task: inputs and results of a pass then stay in a second-level cache of 512 KiB
constexpr int64_t kByteStreamRows = 2; // up to this many rows of codes of eight bits widening the inputs apart is not worth it

inline int64_t byte_linear_workspace(const PackedWeight &w) {
  if (w.compute != Compute::kInt8 || w.storage == Storage::kUint6) return linear_workspace(w);
  if (w.storage == Storage::kUint4) return segments_per_pass(w, kSpreadDepth) * w.padded_segment * 4;
  const int64_t room = kByteTaskRows * w.padded_segment; // one segment of all rows at least
  return ((room > kWideInputs ? room : kWideInputs) + 16 * kByteTaskRows) / 2;
}

// Segments of one pass.
inline int64_t byte_depth(const PackedWeight &w, int64_t rows, bool spread) {
  if (w.storage == Storage::kUint8) return segments_per_pass(w, kWideInputs / rows);
  return spread ? segments_per_pass(w, kSpreadDepth) : w.num_segments;
}

inline void byte_linear(const PackedWeight &w, const LinearInput &in, const LinearOutput &out, int64_t panel_begin, int64_t panel_end,
                        int64_t row_begin, int64_t row_end, float *workspace) {
  const int64_t rows = row_end - row_begin;
  // Six bits need nothing else: four products of them fit in 16 bits, which is what dot_small_eights makes of them.
  if (w.compute != Compute::kInt8 || w.storage == Storage::kUint6 || (w.storage == Storage::kUint8 && rows <= kByteStreamRows))
    return linear(w, in, out, panel_begin, panel_end, row_begin, row_end, workspace);
  // A few tiles of rows take codes of four bits as they are packed, in one stream; for more of them they are spread out once.
  const bool spread = rows > kOnePassRows;
  const int64_t depth = byte_depth(w, rows, spread);
  int16_t *widened = reinterpret_cast<int16_t *>(workspace);
  for (int64_t begin = 0; begin < w.num_segments; begin += depth) {
    const int64_t end = begin + depth < w.num_segments ? begin + depth : w.num_segments;
    const int64_t count = (end - begin) * w.padded_segment, stride = count + 16; // rows apart by a power of two would share few cache lines
    if (w.storage == Storage::kUint8)
      for (int64_t row = 0; row < rows; ++row)
        widen_inputs(static_cast<const int8_t *>(in.values) + (row_begin + row) * in.values_stride + begin * w.padded_segment, count, widened + row * stride);
    for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
      const int64_t columns = w.out_features - panel * 16 < 16 ? w.out_features - panel * 16 : 16;
      const TileOutput tile{out.y + row_begin * out.y_stride + panel * 16, out.y_stride, columns, begin == 0, out.bias ? out.bias + panel * 16 : nullptr};
      const Strip strip{panel, 1, row_begin, rows, tile, panel + 1 == panel_end};
      if (w.storage == Storage::kUint8) byte_strip(w, in, strip, begin, end, widened, stride);
      else if (spread) half_byte_strip<true>(w, in, strip, begin, end, reinterpret_cast<uint8_t *>(workspace));
      else half_byte_strip<false>(w, in, strip, begin, end, nullptr);
    }
  }
}
