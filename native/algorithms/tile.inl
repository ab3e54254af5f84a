// Register tiles: ROWS inputs against PANELS panels of sixteen outputs, all partial sums in registers.

// How far before its use a stream of weights is asked for; the hardware alone was seen to reach four fifths of the bandwidth.
constexpr int64_t kReadAhead = 1024;

// Where a tile of results lies and what it starts from: `columns` of its PANELS * 16 exist.
struct TileOutput {
  float *y;
  int64_t y_stride, columns;
  bool fresh;        // start from the bias, or from zero; else from what y holds
  const float *bias; // of the first column, or null

  FLYWEIGHT_INLINE void next_panel() { y += 16, columns -= 16, bias = bias ? bias + 16 : nullptr; }
};

template <int ROWS, int PANELS>
FLYWEIGHT_INLINE void start_tile(F32x16 (&tile)[ROWS][PANELS], const TileOutput &out) {
  for (int p = 0; p < PANELS; ++p) {
    // The rows of y lie far apart, where no hardware prefetcher follows: ask now for those of the next tile.
    for (int r = 0; r < ROWS; ++r) __builtin_prefetch(out.y + (r + ROWS) * out.y_stride + 16 * p, 1);
    const int64_t left = out.columns - 16 * p < 16 ? out.columns - 16 * p : 16;
    if (out.fresh) {
      const F32x16 start = out.bias ? load_first(out.bias + 16 * p, left) : splat(0.0f);
      for (int r = 0; r < ROWS; ++r) tile[r][p] = start;
    } else {
      for (int r = 0; r < ROWS; ++r) tile[r][p] = load_first(out.y + r * out.y_stride + 16 * p, left);
    }
  }
}

template <int ROWS, int PANELS>
FLYWEIGHT_INLINE void finish_tile(const F32x16 (&tile)[ROWS][PANELS], const TileOutput &out) {
  for (int p = 0; p < PANELS; ++p) {
    const int64_t left = out.columns - 16 * p < 16 ? out.columns - 16 * p : 16;
    for (int r = 0; r < ROWS; ++r) store_first(out.y + r * out.y_stride + 16 * p, tile[r][p], left);
  }
}

template <int ROWS, int PANELS>
FLYWEIGHT_INLINE void splat_tile(F32x16 (&tile)[ROWS][PANELS], float value) {
  for (int r = 0; r < ROWS; ++r)
    for (int p = 0; p < PANELS; ++p) tile[r][p] = splat(value);
}

// Asks for the step of codes at `next` of every panel. Past the end of a weight this does no harm. A tile of several panels
// fills the first-level cache already: what comes next waits in the second.
template <int PANELS, Storage STORAGE> FLYWEIGHT_INLINE void ask_ahead(const uint8_t *next, int64_t panel_bytes) {
  constexpr int kNearness = PANELS == 1 ? 3 : 2;
  constexpr int64_t kBytes = code_bytes(STORAGE, codes_per_step(STORAGE));
#pragma GCC unroll 4
  for (int p = 0; p < PANELS; ++p) {
    __builtin_prefetch(next + p * panel_bytes, 0, kNearness);
    if constexpr (kBytes > 64) __builtin_prefetch(next + p * panel_bytes + 64, 0, kNearness);
    if constexpr (kBytes > 128) __builtin_prefetch(next + p * panel_bytes + 128, 0, kNearness);
  }
}

// y += x w, in float32. Step k of panel p lies at w + k * w_step + p * w_panel.
struct FloatTile {
  const float *x;
  int64_t x_stride;
  const float *w;
  int64_t w_step, w_panel, depth;
  TileOutput out;

  template <int ROWS, int PANELS> void run() const {
    F32x16 tile[ROWS][PANELS];
    start_tile(tile, out);
    const float *step = w;
    for (int64_t k = 0; k < depth; ++k, step += w_step) {
      F32x16 weights[PANELS];
#pragma GCC unroll 4
      for (int p = 0; p < PANELS; ++p) weights[p] = load(step + p * w_panel);
#pragma GCC unroll 12
      for (int r = 0; r < ROWS; ++r) {
        const F32x16 input = splat(x[r * x_stride + k]);
#pragma GCC unroll 4
        for (int p = 0; p < PANELS; ++p) tile[r][p] = fma(input, weights[p], tile[r][p]);
      }
    }
    finish_tile(tile, out);
  }
  FLYWEIGHT_INLINE void advance(int64_t rows) { x += rows * x_stride, out.y += rows * out.y_stride; }
  FLYWEIGHT_INLINE void next_panel() { w += w_panel, out.next_panel(); }
};

// y += x w, in bfloat16 products and float32 sums; `pairs` pairs of inputs.
struct PairTile {
  const uint16_t *x;
  int64_t x_stride;
  const uint8_t *w;
  int64_t w_panel, pairs;
  TileOutput out;

  template <int ROWS, int PANELS> void run() const {
    F32x16 tile[ROWS][PANELS];
    start_tile(tile, out);
    for (int64_t k = 0; k < pairs; ++k) {
      BfPairs weights[PANELS];
#pragma GCC unroll 4
      for (int p = 0; p < PANELS; ++p) {
        if constexpr (ROWS <= kFewRows) __builtin_prefetch(w + k * 64 + p * w_panel + kReadAhead);
        weights[p] = load_pairs(w + k * 64 + p * w_panel);
      }
#pragma GCC unroll 12
      for (int r = 0; r < ROWS; ++r) {
        const BfInput input = load_pair(x + r * x_stride + 2 * k);
#pragma GCC unroll 4
        for (int p = 0; p < PANELS; ++p) tile[r][p] = dot_pairs(tile[r][p], weights[p], input);
      }
    }
    finish_tile(tile, out);
  }
  FLYWEIGHT_INLINE void advance(int64_t rows) { x += rows * x_stride, out.y += rows * out.y_stride; }
  FLYWEIGHT_INLINE void next_panel() { w += w_panel, out.next_panel(); }
};

// What the two integer tiles share: segments [segment_begin, segment_end) of PANELS panels.
struct SegmentTile {
  const PackedWeight *weight;
  const uint8_t *w;            // the first panel
  int64_t first_scale;         // of the first panel
  int64_t segment_begin, segment_end;
  const uint8_t *ahead;        // codes of the first panel that are asked for ahead of their use, `ahead_step` bytes on with
  int64_t ahead_step;          // every step of codes
  TileOutput out;

  FLYWEIGHT_INLINE void next_panel() {
    w += weight->panel_bytes, ahead += weight->panel_bytes, first_scale += weight->num_scales * 16;
    out.next_panel();
  }
  FLYWEIGHT_INLINE int64_t scale_offset(int64_t segment, int panel) const {
    return first_scale + (panel * weight->num_scales + segment / weight->segments_per_scale) * 16;
  }
  // The rows before have asked for their share of what comes next; the following ones ask for theirs.
  FLYWEIGHT_INLINE void advance_ahead() { ahead += (segment_end - segment_begin) * (weight->padded_segment / codes_per_step(weight->storage)) * ahead_step; }
};

// Integer codes, bfloat16 inputs: float32 sum over a segment, then times its scale. With ONE_ORDER the order of the sum does
// not depend on the size of the tile.
template <Storage STORAGE, bool ONE_ORDER> struct CodePairTile : SegmentTile {
  const uint16_t *x;
  int64_t x_stride;
  const float *sums; // of the rounded inputs of each segment
  int64_t sums_stride;

  static constexpr int64_t kStep = codes_per_step(STORAGE), kStepBytes = code_bytes(STORAGE, kStep);

  // Pair n of one step; prepare_input has put x in the order in which the pairs of eight inputs come out of the codes.
  template <int N, int ROWS, int PANELS, int CHAINS>
  FLYWEIGHT_INLINE void add_pairs(F32x16 (&parts)[CHAINS][ROWS][PANELS], const uint8_t *codes, const uint16_t *inputs) const {
    BfPairs weights[PANELS];
#pragma GCC unroll 4
    for (int p = 0; p < PANELS; ++p) {
      const uint8_t *step = codes + p * weight->panel_bytes;
      if constexpr (STORAGE == Storage::kUint4) {
        weights[p] = pairs_of_half_bytes<N>(load_bytes(step));
      } else if constexpr (STORAGE == Storage::kUint8) {
        weights[p] = pairs_of_bytes<N / 2>(load_bytes(step + 64 * (N % 2)));
      } else {
        U8x64 quads[2];
        load_codes<STORAGE, N / 4>(step, quads[0], quads[1]);
        weights[p] = pairs_of_bytes<N % 4 / 2>(raise_bytes(quads[N % 2], code_offset(Storage::kUint8) - code_offset(STORAGE)));
      }
    }
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r) {
      const BfInput input = load_pair(inputs + 2 * N + r * x_stride);
#pragma GCC unroll 4
      for (int p = 0; p < PANELS; ++p) parts[N % CHAINS][r][p] = dot_pairs(parts[N % CHAINS][r][p], weights[p], input);
    }
  }

  template <int ROWS, int PANELS> void run() const {
    const int64_t padded = weight->padded_segment, steps = padded / kStep, panel_bytes = weight->panel_bytes;
    // A small tile adds to several sets of sums in turn: one alone would wait for each addition to end.
    constexpr int CHAINS = ONE_ORDER || ROWS * PANELS > 6 ? 1 : ROWS * PANELS <= 2 ? 4 : 2;
    F32x16 tile[ROWS][PANELS], parts[CHAINS][ROWS][PANELS];
    start_tile(tile, out);
    const uint8_t *codes = w + segment_begin * steps * kStepBytes, *next = ahead;
    for (int64_t segment = segment_begin; segment < segment_end; ++segment) {
#pragma GCC unroll 4
      for (int chain = 0; chain < CHAINS; ++chain) splat_tile(parts[chain], 0.0f);
      const uint16_t *inputs = x + segment * padded;
      for (int64_t step = 0; step < steps; ++step, codes += kStepBytes, inputs += kStep, next += ahead_step) {
        ask_ahead<PANELS, STORAGE>(next, panel_bytes);
        add_pairs<0>(parts, codes, inputs), add_pairs<1>(parts, codes, inputs), add_pairs<2>(parts, codes, inputs), add_pairs<3>(parts, codes, inputs);
        if constexpr (kStep == 16)
          add_pairs<4>(parts, codes, inputs), add_pairs<5>(parts, codes, inputs), add_pairs<6>(parts, codes, inputs), add_pairs<7>(parts, codes, inputs);
      }
#pragma GCC unroll 4
      for (int p = 0; p < PANELS; ++p) {
        const F32x16 scale = load_scales(*weight, scale_offset(segment, p));
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; ++r) {
          F32x16 value = parts[0][r][p];
          if constexpr (CHAINS == 2) value = add(value, parts[1][r][p]);
          if constexpr (CHAINS == 4) value = add(add(value, parts[1][r][p]), add(parts[2][r][p], parts[3][r][p]));
          if (weight->zero_points) {
            const F32x16 zero = load_zero_points(*weight, scale_offset(segment, p));
            value = sub(value, mul(zero, splat(sums[r * sums_stride + segment])));
          }
          tile[r][p] = fma(value, scale, tile[r][p]);
        }
      }
    }
    finish_tile(tile, out);
  }
  FLYWEIGHT_INLINE void advance(int64_t rows) {
    x += rows * x_stride, out.y += rows * out.y_stride, sums += rows * sums_stride;
    advance_ahead();
  }
};

// Integer codes, int8 inputs: exact int32 sum over a segment, then times both scales.
template <Storage STORAGE> struct CodeQuadTile : SegmentTile {
  static constexpr int64_t kStep = codes_per_step(STORAGE), kStepBytes = code_bytes(STORAGE, kStep);
  const int8_t *x;
  int64_t x_stride;
  const float *input_scales;
  int64_t input_scales_stride;
  const int32_t *sums; // of the quantized inputs of each segment
  int64_t sums_stride;

  template <int ROWS, int PANELS> FLYWEIGHT_INLINE void add_quads(I32x16 (&part)[ROWS][PANELS], const U8x64 (&weights)[PANELS], const int8_t *quad) const {
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r) {
      const QuadInput input = load_quad(quad + r * x_stride);
#pragma GCC unroll 4
      for (int p = 0; p < PANELS; ++p)
        part[r][p] = STORAGE == Storage::kUint4 ? dot_small_quads(part[r][p], weights[p], input) : dot_quads(part[r][p], weights[p], input);
    }
  }

  template <int ROWS, int PANELS>
  FLYWEIGHT_INLINE void add_eights(I32x16 (&part)[ROWS][PANELS], const U8x64 (&low)[PANELS], const U8x64 (&high)[PANELS], const int8_t *eight) const {
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r) {
      const QuadInput first = load_quad(eight + r * x_stride), last = load_quad(eight + r * x_stride + 4);
#pragma GCC unroll 4
      for (int p = 0; p < PANELS; ++p) part[r][p] = dot_small_eights(part[r][p], low[p], high[p], first, last);
    }
  }

  // Eight inputs of a step, into `first` and `second` in turn, which may be the same.
  template <int EIGHT, int ROWS, int PANELS>
  FLYWEIGHT_INLINE void add_eight(I32x16 (&first)[ROWS][PANELS], I32x16 (&second)[ROWS][PANELS], const uint8_t *codes, const int8_t *inputs) const {
    U8x64 low[PANELS], high[PANELS];
#pragma GCC unroll 4
    for (int p = 0; p < PANELS; ++p) load_codes<STORAGE, EIGHT>(codes + p * weight->panel_bytes, low[p], high[p]);
    if constexpr (STORAGE == Storage::kUint6) {
      add_eights(EIGHT ? second : first, low, high, inputs + 8 * EIGHT);
    } else {
      add_quads(first, low, inputs);
      add_quads(second, high, inputs + 4);
    }
  }

  template <int ROWS, int PANELS>
  FLYWEIGHT_INLINE void add_step(I32x16 (&first)[ROWS][PANELS], I32x16 (&second)[ROWS][PANELS], const uint8_t *codes, const int8_t *inputs,
                                 const uint8_t *next) const {
    ask_ahead<PANELS, STORAGE>(next, weight->panel_bytes);
    add_eight<0>(first, second, codes, inputs);
    if constexpr (kStep == 16) add_eight<1>(first, second, codes, inputs);
  }

  template <int ROWS, int PANELS> void run() const {
    const int64_t padded = weight->padded_segment, steps = padded / kStep;
    constexpr int CHAINS = ROWS * PANELS <= 3 ? 4 : ROWS * PANELS <= 8 ? 2 : 1; // as in CodePairTile; whole numbers have no order
    F32x16 tile[ROWS][PANELS];
    I32x16 parts[CHAINS][ROWS][PANELS];
    start_tile(tile, out);
    const uint8_t *codes = w + segment_begin * steps * kStepBytes, *next = ahead;
    for (int64_t segment = segment_begin; segment < segment_end; ++segment) {
      // The stored value is the code plus an offset: take offset * sum(x) away at the start, where it costs nothing.
#pragma GCC unroll 12
      for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
        for (int p = 0; p < PANELS; ++p) {
          parts[0][r][p] = splat_integer(-code_offset(STORAGE) * sums[r * sums_stride + segment]);
          if constexpr (CHAINS >= 2) parts[1][r][p] = splat_integer(0);
          if constexpr (CHAINS == 4) parts[2][r][p] = parts[3][r][p] = splat_integer(0);
        }
      const int8_t *inputs = x + segment * padded;
      int64_t step = 0;
      if constexpr (CHAINS == 4)
        for (; step + 2 <= steps; step += 2, codes += 2 * kStepBytes, inputs += 2 * kStep, next += 2 * ahead_step) {
          add_step(parts[0], parts[1], codes, inputs, next);
          add_step(parts[2], parts[3], codes + kStepBytes, inputs + kStep, next + ahead_step);
        }
      for (; step < steps; ++step, codes += kStepBytes, inputs += kStep, next += ahead_step)
        add_step(parts[0], parts[CHAINS > 1 ? 1 : 0], codes, inputs, next);
      const float *input_scale = input_scales + segment / weight->segments_per_activation_scale;
#pragma GCC unroll 4
      for (int p = 0; p < PANELS; ++p) {
        const F32x16 scale = load_scales(*weight, scale_offset(segment, p));
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; ++r) {
          I32x16 whole = parts[0][r][p];
          if constexpr (CHAINS >= 2) whole = add(whole, parts[1][r][p]);
          if constexpr (CHAINS == 4) whole = add(whole, add(parts[2][r][p], parts[3][r][p]));
          F32x16 value = to_float(whole);
          if (weight->zero_points) {
            // Both products are whole numbers below 2^24, so this stays exact.
            const F32x16 zero = load_zero_points(*weight, scale_offset(segment, p));
            value = sub(value, mul(zero, splat(static_cast<float>(sums[r * sums_stride + segment]))));
          }
          tile[r][p] = fma(value, mul(scale, splat(input_scale[r * input_scales_stride])), tile[r][p]);
        }
      }
    }
    finish_tile(tile, out);
  }
  FLYWEIGHT_INLINE void advance(int64_t rows) {
    x += rows * x_stride, out.y += rows * out.y_stride;
    input_scales += rows * input_scales_stride, sums += rows * sums_stride;
    advance_ahead();
  }
};

// Heights of tiles that exist, and how one is chosen: rows are cut into nearly equal tiles.
constexpr int kHeights[] = {12, 8, 6, 4, 3, 2, 1};

template <int PANELS, int MAX_ROWS, int AT = 0, class Tile> FLYWEIGHT_INLINE int64_t run_height(const Tile &tile, int64_t wanted, int64_t rows) {
  constexpr int height = kHeights[AT];
  if constexpr (height == 1) {
    tile.template run<1, PANELS>();
    return 1;
  } else {
    // Take the smallest height that is enough, as long as there are so many rows.
    if (height <= MAX_ROWS && height <= rows && wanted > kHeights[AT + 1]) {
      if constexpr (height <= MAX_ROWS) tile.template run<height, PANELS>();
      return height;
    }
    return run_height<PANELS, MAX_ROWS, AT + 1>(tile, wanted, rows);
  }
}

// All rows of one strip of PANELS panels.
template <int PANELS, int MAX_ROWS, class Tile> void run_rows(Tile tile, int64_t rows) {
  while (rows > 0) {
    const int64_t tiles = (rows + MAX_ROWS - 1) / MAX_ROWS;
    const int64_t done = run_height<PANELS, MAX_ROWS>(tile, (rows + tiles - 1) / tiles, rows);
    tile.advance(done);
    rows -= done;
  }
}

// As run_rows, for a strip of at most PANELS panels, which may not fill a tile.
template <int PANELS, int MAX_ROWS, class Tile> void run_strip(Tile tile, int64_t rows, int64_t panels) {
  if constexpr (PANELS > 1)
    for (; panels % PANELS; --panels) {
      run_rows<1, MAX_ROWS>(tile, rows);
      tile.next_panel();
    }
  if (panels > 0) run_rows<PANELS, MAX_ROWS>(tile, rows);
}
