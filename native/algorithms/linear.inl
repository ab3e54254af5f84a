// y = x w^T + bias over a block of panels and rows: makes inputs ready, cuts the work into tiles that fit the caches.

constexpr int64_t kPlainDepth = 256; // inputs of float32 weights per pass: a strip of two panels then fits in 32 KiB
constexpr int64_t kPairDepth = 512;  // inputs of bfloat16 weights per pass
constexpr int64_t kCodeDepth = 1024; // inputs of integer codes per pass
constexpr int64_t kOnePassRows = 48; // up to this many rows, one pass over bfloat16 or int8 inputs

// The scale of `count` inputs, absmax / 127, and what to multiply them with.
inline float activation_scale(const float *x, int64_t count, float *scale_out) {
  // `poison` is NaN as soon as one input is NaN or infinite: no maximum and no rounding shall hide it.
  F32x16 biggest = splat(0.0f), poison = splat(0.0f);
  for (int64_t i = 0; i < count; i += 16) {
    const F32x16 values = count - i >= 16 ? load(x + i) : load_first(x + i, count - i);
    biggest = max(biggest, abs(values));
    poison = add(poison, mul(values, splat(0.0f)));
  }
  const float absmax = largest(biggest), scale = absmax / 127.0f;
  // A group of zeros, or of numbers so small that their reciprocal overflows, contributes nothing.
  *scale_out = (absmax > 1e-30f ? scale : 0.0f) + sum(poison);
  return absmax > 1e-30f ? 127.0f / absmax : 0.0f;
}

inline void quantize_segment(const float *x, int64_t count, float inverse, float *quantized) {
  for (int64_t i = 0; i < count; i += 16) {
    const F32x16 values = count - i >= 16 ? load(x + i) : load_first(x + i, count - i);
    store(quantized + i, min(max(round_even(mul(values, splat(inverse))), splat(-127.0f)), splat(127.0f)));
  }
}

// Length of a segment in inputs: the last of each weight group may be shorter.
FLYWEIGHT_INLINE int64_t segment_length(const PackedWeight &w, int64_t segment) {
  const int64_t start = (segment % w.segments_per_scale) * w.segment;
  return w.group - start < w.segment ? w.group - start : w.segment;
}
FLYWEIGHT_INLINE int64_t segment_start(const PackedWeight &w, int64_t segment) {
  return segment / w.segments_per_scale * w.group + segment % w.segments_per_scale * w.segment;
}

FLYWEIGHT_INLINE int64_t segments_per_pass(const PackedWeight &w, int64_t depth) {
  return depth > w.padded_segment ? depth / w.padded_segment : 1;
}

struct Span {
  int64_t first, count;
};

// The inputs that inputs or segments [begin, end) of a float32 pass stand for.
FLYWEIGHT_INLINE Span pass_inputs(const PackedWeight &w, int64_t begin, int64_t end) {
  if (!is_integer(w.storage)) return {begin, end - begin};
  const int64_t first = segment_start(w, begin);
  return {first, segment_start(w, end - 1) + segment_length(w, end - 1) - first};
}

inline void prepare_int8(const PackedWeight &w, const LinearInput &in, int64_t row) {
  const float *x = in.x + row * in.x_stride;
  int8_t *out = static_cast<int8_t *>(in.values) + row * in.values_stride;
  float quantized[kLongestSegment + 16];
  for (int64_t s = 0; s < w.num_segments; s += w.segments_per_activation_scale) {
    const int64_t last = s + w.segments_per_activation_scale < w.num_segments ? s + w.segments_per_activation_scale : w.num_segments;
    const int64_t begin = segment_start(w, s), end = segment_start(w, last - 1) + segment_length(w, last - 1);
    float *scale = in.scales + row * in.num_activation_scales + s / w.segments_per_activation_scale;
    const float inverse = activation_scale(x + begin, end - begin, scale);
    for (int64_t segment = s; segment < last; ++segment) {
      const int64_t length = segment_length(w, segment);
      quantize_segment(x + segment_start(w, segment), length, inverse, quantized);
      const float *from = quantized;
      int8_t *to = out + segment * w.padded_segment;
      int32_t total = 0;
      int64_t i = 0;
      F32x16 sums = splat(0.0f);
      for (; i + 16 <= length; i += 16) {
        const F32x16 values = load(from + i);
        store_int8(to + i, values);
        sums = add(sums, values);
      }
      total = static_cast<int32_t>(sum(sums));
      for (; i < length; ++i) total += to[i] = static_cast<int8_t>(from[i]);
      for (; i < w.padded_segment; ++i) to[i] = 0;
      in.integer_sums[row * w.num_segments + segment] = total;
    }
  }
}

inline void prepare_bfloat16(const PackedWeight &w, const LinearInput &in, int64_t row) {
  const float *x = in.x + row * in.x_stride;
  uint16_t *out = static_cast<uint16_t *>(in.values) + row * in.values_stride;
  if (!is_integer(w.storage)) {
    int64_t i = 0;
    for (; i + 16 <= w.in_features; i += 16) store_bfloat16(out + i, load(x + i));
    for (; i < w.in_features; ++i) out[i] = bfloat16_of_float(x[i]);
    for (; i < (w.in_features + 1) / 2 * 2; ++i) out[i] = 0;
    return;
  }
  for (int64_t segment = 0; segment < w.num_segments; ++segment) {
    const int64_t start = segment_start(w, segment), length = segment_length(w, segment);
    uint16_t *to = out + segment * w.padded_segment;
    F32x16 sums = splat(0.0f);
    for (int64_t i = 0; i < length; i += 16) {
      uint16_t ordered[16];
      store_bfloat16_pairs(ordered, length - i >= 16 ? load(x + start + i) : load_first(x + start + i, length - i));
      __builtin_memcpy(to + i, ordered, w.padded_segment - i >= 16 ? 32 : 16);
      sums = add(sums, load_bfloat16(ordered));
    }
    in.float_sums[row * w.num_segments + segment] = sum(sums);
  }
}

// bfloat16: rounded, in the order of the weight's pairs. int8: quantized per activation group to absmax / 127. Both have the padding of the weight, filled with zeros.
inline void prepare_input(const PackedWeight &w, const LinearInput &in, int64_t row_begin, int64_t row_end) {
  for (int64_t row = row_begin; row < row_end; ++row) {
    if (w.compute == Compute::kInt8) prepare_int8(w, in, row);
    if (w.compute == Compute::kBfloat16) prepare_bfloat16(w, in, row);
  }
}

// Inputs [begin, end) of one panel as floats [input][lane].
inline void expand_plain(const PackedWeight &w, const uint8_t *panel, int64_t begin, int64_t end, float *out) {
  if (w.storage == Storage::kFloat16) {
    const uint16_t *halves = reinterpret_cast<const uint16_t *>(panel);
    for (int64_t k = begin; k < end; ++k) store(out + (k - begin) * 16, load_float16(halves + k * 16));
    return;
  }
  for (int64_t k = begin; k < end; k += 2) { // begin is even; the scratch has room for one more
    const BfPairs pairs = load_pairs(panel + k / 2 * 64);
    store(out + (k - begin) * 16, even_of_pairs(pairs));
    store(out + (k + 1 - begin) * 16, odd_of_pairs(pairs));
  }
}

// (code - zero point) * scale for segment `segment` of one panel.
template <Storage STORAGE>
void expand_segment(const PackedWeight &w, int64_t panel, int64_t segment, float *out) {
  constexpr int64_t kStep = codes_per_step(STORAGE);
  const int64_t length = segment_length(w, segment);
  const uint8_t *codes = w.values + panel * w.panel_bytes + code_bytes(STORAGE, segment * w.padded_segment);
  const int64_t offset = (panel * w.num_scales + segment / w.segments_per_scale) * 16;
  const F32x16 scale = load_scales(w, offset);
  F32x16 zero = splat(static_cast<float>(code_offset(STORAGE)));
  if (w.zero_points) zero = add(zero, load_zero_points(w, offset));
  for (int64_t step = 0; step < length; step += kStep, codes += code_bytes(STORAGE, kStep)) {
    U8x64 quads[kStep / 4];
    load_codes<STORAGE>(codes, quads[0], quads[1]);
    if constexpr (kStep == 16) load_codes<STORAGE, 1>(codes, quads[2], quads[3]);
    for (int64_t i = 0; i < kStep && step + i < length; ++i)
      store(out + (step + i) * 16, mul(sub(to_float(field(quads[i / 4], static_cast<int>(8 * (i % 4)), 255)), zero), scale));
  }
}

// Floats that linear() wants as workspace: expanded weights of one strip.
inline int64_t linear_workspace(const PackedWeight &w) {
  if (w.compute != Compute::kFloat32 || w.storage == Storage::kFloat32) return 0;
  const int64_t depth = is_integer(w.storage) ? segments_per_pass(w, kPlainDepth) * w.segment : kPlainDepth + 2;
  return depth * 16 * (kFewRowsPanels > kWidePanels ? kFewRowsPanels : kWidePanels);
}

struct Strip {
  int64_t panel, panels, row_begin, rows;
  TileOutput out;
  bool last; // no panels of the caller's come after these
};

template <int PANELS, int MAX_ROWS>
void linear_float32(const PackedWeight &w, const LinearInput &in, const Strip &strip, int64_t begin, int64_t end, float *workspace) {
  FloatTile tile;
  const Span span = pass_inputs(w, begin, end);
  tile.x = in.x + strip.row_begin * in.x_stride + span.first, tile.x_stride = in.x_stride;
  tile.depth = span.count, tile.out = strip.out;
  tile.w_step = 16;
  const uint8_t *panel = w.values + strip.panel * w.panel_bytes;
  if (!is_integer(w.storage)) {
    tile.w = reinterpret_cast<const float *>(panel) + begin * 16, tile.w_panel = w.panel_bytes / 4;
    if (w.storage != Storage::kFloat32) {
      tile.w = workspace, tile.w_panel = (kPlainDepth + 2) * 16;
      for (int64_t p = 0; p < strip.panels; ++p) expand_plain(w, panel + p * w.panel_bytes, begin, end, workspace + p * tile.w_panel);
    }
    return run_strip<PANELS, MAX_ROWS>(tile, strip.rows, strip.panels);
  }
  // Without their padding the segments of a pass follow one another, as the inputs do.
  tile.w = workspace, tile.w_panel = segments_per_pass(w, kPlainDepth) * w.segment * 16;
  for (int64_t p = 0; p < strip.panels; ++p)
    for (int64_t s = begin; s < end; ++s) {
      float *to = workspace + p * tile.w_panel + (segment_start(w, s) - span.first) * 16;
      if (w.storage == Storage::kUint4) expand_segment<Storage::kUint4>(w, strip.panel + p, s, to);
      else if (w.storage == Storage::kUint6) expand_segment<Storage::kUint6>(w, strip.panel + p, s, to);
      else expand_segment<Storage::kUint8>(w, strip.panel + p, s, to);
    }
  run_strip<PANELS, MAX_ROWS>(tile, strip.rows, strip.panels);
}

template <int PANELS, int MAX_ROWS>
void place_segments(SegmentTile &tile, const PackedWeight &w, const Strip &strip, int64_t begin, int64_t end) {
  tile.weight = &w, tile.w = w.values + strip.panel * w.panel_bytes, tile.first_scale = strip.panel * w.num_scales * 16;
  tile.segment_begin = begin, tile.segment_end = end;
  tile.out = strip.out;
  // One tile of rows over one panel reads a stream. Several tiles find the codes in a cache, all but the first: each asks
  // for a part of the next strip, so that memory never waits for arithmetic.
  const int64_t step_bytes = code_bytes(w.storage, codes_per_step(w.storage)), tiles = (strip.rows + MAX_ROWS - 1) / MAX_ROWS;
  const uint8_t *codes = tile.w + code_bytes(w.storage, begin * w.padded_segment);
  if (PANELS == 1 && tiles == 1) tile.ahead = codes + kReadAhead, tile.ahead_step = step_bytes;
  else if (strip.last) tile.ahead = codes, tile.ahead_step = 0;
  else tile.ahead = codes + strip.panels * w.panel_bytes, tile.ahead_step = step_bytes / tiles;
}

template <Storage STORAGE, bool ONE_ORDER, int PANELS, int MAX_ROWS>
void linear_code_pairs(const PackedWeight &w, const LinearInput &in, const Strip &strip, int64_t begin, int64_t end) {
  CodePairTile<STORAGE, ONE_ORDER> tile;
  place_segments<PANELS, MAX_ROWS>(tile, w, strip, begin, end);
  tile.x = static_cast<const uint16_t *>(in.values) + strip.row_begin * in.values_stride, tile.x_stride = in.values_stride;
  tile.sums = in.float_sums + strip.row_begin * w.num_segments, tile.sums_stride = w.num_segments;
  run_strip<PANELS, MAX_ROWS>(tile, strip.rows, strip.panels);
}

template <Storage STORAGE, int PANELS, int MAX_ROWS>
void linear_code_quads(const PackedWeight &w, const LinearInput &in, const Strip &strip, int64_t begin, int64_t end) {
  CodeQuadTile<STORAGE> tile;
  place_segments<PANELS, MAX_ROWS>(tile, w, strip, begin, end);
  tile.x = static_cast<const int8_t *>(in.values) + strip.row_begin * in.values_stride, tile.x_stride = in.values_stride;
  tile.input_scales = in.scales + strip.row_begin * in.num_activation_scales, tile.input_scales_stride = in.num_activation_scales;
  tile.sums = in.integer_sums + strip.row_begin * w.num_segments, tile.sums_stride = w.num_segments;
  run_strip<PANELS, MAX_ROWS>(tile, strip.rows, strip.panels);
}

// How a strip is cut into tiles. kStream: a few rows of integer codes, one panel after the other, each read once. kFew: a few
// rows of anything else, several panels side by side. kWide: many rows.
enum class Cut { kStream, kFew, kWide };

template <Storage STORAGE> void linear_codes(Cut cut, const PackedWeight &w, const LinearInput &in, const Strip &strip, int64_t begin, int64_t end) {
  if (w.compute == Compute::kInt8) {
    if (cut == Cut::kStream) return linear_code_quads<STORAGE, 1, kStreamRows>(w, in, strip, begin, end);
    return linear_code_quads<STORAGE, kWidePanels, kMaxRows>(w, in, strip, begin, end);
  }
  if (cut == Cut::kStream) return linear_code_pairs<STORAGE, false, 1, kStreamRows>(w, in, strip, begin, end);
  if (cut == Cut::kFew) return linear_code_pairs<STORAGE, true, kFewRowsPanels, kFewRows>(w, in, strip, begin, end);
  linear_code_pairs<STORAGE, true, kWidePanels, kMaxRows>(w, in, strip, begin, end);
}

template <int PANELS, int MAX_ROWS>
void linear_plain(const PackedWeight &w, const LinearInput &in, const Strip &strip, int64_t begin, int64_t end, float *workspace) {
  if (w.compute == Compute::kFloat32) return linear_float32<PANELS, MAX_ROWS>(w, in, strip, begin, end, workspace);
  PairTile tile;
  tile.x = static_cast<const uint16_t *>(in.values) + strip.row_begin * in.values_stride + begin, tile.x_stride = in.values_stride;
  tile.w = w.values + strip.panel * w.panel_bytes + begin / 2 * 64, tile.w_panel = w.panel_bytes, tile.pairs = (end - begin + 1) / 2;
  tile.out = strip.out;
  run_strip<PANELS, MAX_ROWS>(tile, strip.rows, strip.panels);
}

// The way to cut for so many rows. In batch-invariant mode bfloat16 sums of codes do without the stream's second order.
inline Cut cut_of(const PackedWeight &w, const LinearInput &in, int64_t rows) {
  const bool codes = is_integer(w.storage) && w.compute != Compute::kFloat32;
  if (codes && rows <= kStreamRows && !(in.batch_invariant && w.compute == Compute::kBfloat16)) return Cut::kStream;
  return rows <= kFewRows && !(codes && w.compute == Compute::kInt8) ? Cut::kFew : Cut::kWide;
}

// One pass covers a depth, in inputs or segments, whose weights stay in the first-level cache while all rows go by.
inline int64_t depth_of(const PackedWeight &w, Cut cut, int64_t rows) {
  const int64_t length = is_integer(w.storage) ? w.num_segments : w.in_features;
  if (w.compute == Compute::kFloat32) {
    if (cut == Cut::kFew && w.storage == Storage::kFloat32) return length;
    return is_integer(w.storage) ? segments_per_pass(w, kPlainDepth) : kPlainDepth;
  }
  // A few rows need no passes: the second-level cache holds a strip and their inputs.
  if (cut != Cut::kWide || rows <= kOnePassRows) return length;
  return is_integer(w.storage) ? segments_per_pass(w, kCodeDepth) : kPairDepth;
}

inline void linear(const PackedWeight &w, const LinearInput &in, const LinearOutput &out, int64_t panel_begin, int64_t panel_end,
                   int64_t row_begin, int64_t row_end, float *workspace) {
  const int64_t column_end = panel_end * 16 < w.out_features ? panel_end * 16 : w.out_features;
  const Cut cut = cut_of(w, in, row_end - row_begin);
  const int64_t length = is_integer(w.storage) ? w.num_segments : w.in_features, depth = depth_of(w, cut, row_end - row_begin);
  for (int64_t begin = 0; begin < length; begin += depth) {
    const int64_t end = begin + depth < length ? begin + depth : length;
    const int64_t step = cut == Cut::kStream ? 1 : cut == Cut::kFew ? kFewRowsPanels : kWidePanels;
    for (int64_t panel = panel_begin; panel < panel_end; panel += step) {
      const int64_t panels = panel_end - panel < step ? panel_end - panel : step;
      const int64_t columns = column_end - panel * 16 < panels * 16 ? column_end - panel * 16 : panels * 16;
      const TileOutput tile{out.y + row_begin * out.y_stride + panel * 16, out.y_stride, columns, begin == 0, out.bias ? out.bias + panel * 16 : nullptr};
      const Strip strip{panel, panels, row_begin, row_end - row_begin, tile, panel + panels == panel_end};
      const bool codes = w.compute != Compute::kFloat32;
      if (codes && w.storage == Storage::kUint4) linear_codes<Storage::kUint4>(cut, w, in, strip, begin, end);
      else if (codes && w.storage == Storage::kUint6) linear_codes<Storage::kUint6>(cut, w, in, strip, begin, end);
      else if (codes && w.storage == Storage::kUint8) linear_codes<Storage::kUint8>(cut, w, in, strip, begin, end);
      else if (cut == Cut::kFew) linear_plain<kFewRowsPanels, kFewRows>(w, in, strip, begin, end, workspace);
      else linear_plain<kWidePanels, kMaxRows>(w, in, strip, begin, end, workspace);
    }
  }
}
