// Attention over a paged cache: one task is some queries of one sequence against the keys and values of one head, tile by
// tile with a running maximum and sum (the "online softmax" of FlashAttention, arXiv:2205.14135). Tiles and chunks begin at
// fixed positions, and the chunks of a context are merged from the first to the last whoever computed them: a query's
// result does not depend on its neighbours nor on the number of threads; nor on how its prompt was cut, unless tiles are rounded
// for many rows (attention_rounded.inl), which batch-invariant mode does not do.

struct AttendPlace {
  float *queries, *query_scales, *group_sums; // queries also as bfloat16 or in two int8 parts
  float *scores;
  void *weights;                              // bfloat16 or two int8 parts; float32 weights stay in scores
  float *weight_scales, *weight_offsets;
  float *sums, *largest, *totals;             // of this chunk
  float *merged_sums, *merged_largest, *merged_totals;
  float *expanded;                            // a tile of keys or values in float32, or of both in whole numbers
  bool expands;                               // the task has enough rows for that: queries and weights are then float32
  bool rounds;                                // it has enough for whole numbers too; what follows is for them alone
  int16_t *whole_queries;
  float *tops, *whole_scales, *decays;        // see rescale_rows
  float *tile_scales;
  bool wide() const { return kExpandedRows > 0 && expands; }
};

inline bool expands_tiles(const CacheLayout &layout, int64_t rows) { return kExpandedRows > 0 && rows >= kExpandedRows && !is_integer(layout.type); }

inline bool rounds_tiles(const AttendArguments &a, int64_t rows) {
  return kRoundedRows > 0 && rows >= kRoundedRows && a.layout.type == CacheType::kBfloat16 && !a.batch_invariant;
}

// Cuts the workspace (or, at null, measures it) for so many rows.
inline int64_t attend_place(const AttendArguments &a, int64_t rows, float *base, AttendPlace *place) {
  const CacheLayout &layout = a.layout;
  const int64_t head = layout.padded_dim, whole = rounds_tiles(a, rows);
  float *weights = nullptr, *whole_queries = nullptr;
  const int64_t sizes[19] = {rows * head, rows, rows * layout.key_groups, rows * kKeyTile, rows * kKeyTile / 2, rows, rows,
                             rows * head, rows, rows, rows * head, rows, rows, expands_tiles(layout, rows) || whole ? kKeyTile * head : 0,
                             whole * rows * head / 2, whole * rows, whole * rows, whole * rows, whole * rounded_scales(layout)};
  float **targets[19] = {&place->queries, &place->query_scales, &place->group_sums, &place->scores, &weights, &place->weight_scales,
                         &place->weight_offsets, &place->sums, &place->largest, &place->totals, &place->merged_sums, &place->merged_largest,
                         &place->merged_totals, &place->expanded, &whole_queries, &place->tops, &place->whole_scales, &place->decays, &place->tile_scales};
  int64_t used = 0;
  for (int i = 0; i < 19; ++i) {
    if (base) *targets[i] = base + used;
    used += (sizes[i] + 15) / 16 * 16;
  }
  place->weights = weights, place->expands = expands_tiles(layout, rows), place->rounds = whole;
  place->whole_queries = reinterpret_cast<int16_t *>(whole_queries);
  return used;
}

inline int64_t attend_workspace(const AttendArguments &a, int64_t max_queries) {
  AttendPlace unused;
  return attend_place(a, max_queries * (a.num_heads / a.layout.num_kv_heads), nullptr, &unused);
}

// Which keys of one tile a row sees: [0, first_end) and [begin, end), first_end <= begin.
struct VisibleKeys {
  int64_t first_end, begin, end;
  bool none() const { return first_end == 0 && begin >= end; }
};

// Whole numbers of 16 bits in two parts, 256 * high + low with both within int8; returns the whole numbers.
FLYWEIGHT_INLINE F32x16 store_parts(F32x16 x, F32x16 inverse, int8_t *high, int8_t *low) {
  const F32x16 whole = round_even(mul(x, inverse));
  const F32x16 upper = round_even(fma(whole, splat(0.00390625f), splat(0.0009765625f))); // a tie goes up, to low = -128
  store_int8(high, upper);
  store_int8(low, sub(whole, mul(upper, splat(256.0f))));
  return whole;
}
constexpr float kMostParts = 32512.0f; // 256 * 127

FLYWEIGHT_INLINE void prepare_query(const AttendArguments &a, const AttendPlace &place, int64_t row, const float *from) {
  const CacheLayout &layout = a.layout;
  const int64_t head = layout.padded_dim;
  float lanes[16], *floats = place.queries + row * head;
  uint16_t *halves = reinterpret_cast<uint16_t *>(place.queries) + row * head;
  F32x16 biggest = splat(0.0f), alarm = splat(0.0f);
  for (int64_t i = 0; i < head; i += 16) {
    const F32x16 values = mul(load_first(from + i, a.layout.head_dim - i < 16 ? a.layout.head_dim - i : 16), splat(a.scale));
    if (layout.type == CacheType::kBfloat16 && (kFloatInputs || place.wide())) store(floats + i, nearest_bfloat16(values));
    else if (layout.type == CacheType::kBfloat16) store_bfloat16(halves + i, values);
    else if (!is_integer(layout.type)) store(floats + i, values);
    biggest = max(biggest, abs(values)), alarm = add(alarm, sub(values, values));
  }
  if (place.rounds) round_query(a, from, place.whole_queries + row * head, place.query_scales + row);
  if (!is_integer(layout.type)) return;
  const float absmax = largest(biggest);
  const bool finite = sum(alarm) == 0.0f;
  place.query_scales[row] = finite ? absmax / kMostParts : __builtin_nanf("");
  const F32x16 inverse = splat(finite && absmax > 1e-30f ? kMostParts / absmax : 0.0f);
  int8_t *parts = reinterpret_cast<int8_t *>(place.queries) + row * 2 * head;
  for (int64_t group = 0; group < layout.key_groups; ++group) {
    F32x16 total = splat(0.0f);
    for (int64_t i = group * kKeyGroup; i < head && i < (group + 1) * kKeyGroup; i += 16) {
      store(lanes, mul(load_first(from + i, a.layout.head_dim - i < 16 ? a.layout.head_dim - i : 16), splat(a.scale)));
      if (!finite)
        for (float &lane : lanes) lane = 0.0f;
      total = add(total, store_parts(load(lanes), inverse, parts + i, parts + head + i));
    }
    place.group_sums[row * layout.key_groups + group] = sum(total);
  }
}

// Caps scores, and hides those that the row does not see.
FLYWEIGHT_INLINE void hide_scores(const AttendArguments &a, float *scores, const VisibleKeys &visible, int64_t width) {
  const float minus_infinity = -__builtin_inff();
  if (a.softcap > 0.0f)
    for (int64_t t = 0; t < width; t += 16)
      store(scores + t, mul(splat(a.softcap), hyperbolic_tangent(div(load(scores + t), splat(a.softcap)))));
  for (int64_t t = visible.first_end; t < visible.begin; ++t) scores[t] = minus_infinity;
  for (int64_t t = visible.end > visible.begin ? visible.end : visible.begin; t < width; ++t) scores[t] = minus_infinity;
}

// Turns one row of scores into weights of at most 1; returns what old sums are scaled by.
FLYWEIGHT_INLINE float soften_row(const AttendArguments &a, float *scores, const VisibleKeys &visible, int64_t width, float *largest_so_far) {
  if (visible.none()) { // no weight, and no exponential of infinity minus infinity
    for (int64_t t = 0; t < width; t += 16) store(scores + t, splat(0.0f));
    return 1.0f;
  }
  hide_scores(a, scores, visible, width);
  F32x16 biggest = splat(-__builtin_inff());
  for (int64_t t = 0; t < width; t += 16) biggest = max(biggest, load(scores + t));
  const float before = *largest_so_far, here = largest(biggest), now = before > here ? before : here;
  for (int64_t t = 0; t < width; t += 16) store(scores + t, exponential(sub(load(scores + t), splat(now))));
  *largest_so_far = now;
  if (before == now) return 1.0f;
  float lanes[16];
  store(lanes, exponential(splat(before - now)));
  return lanes[0];
}

// The weights as the products want them; returns their sum. Rounded weights are summed rounded: they then share out exactly 1.
FLYWEIGHT_INLINE float place_weights(const CacheLayout &layout, const AttendPlace &place, const CacheUnits &units, int64_t row, int64_t width) {
  float *scores = place.scores + row * kKeyTile;
  F32x16 total = splat(0.0f);
  if (layout.type == CacheType::kBfloat16) {
    uint16_t *halves = static_cast<uint16_t *>(place.weights) + row * kKeyTile;
    for (int64_t t = 0; t < width; t += 16) {
      const F32x16 rounded = nearest_bfloat16(load(scores + t));
      if (kFloatInputs || place.wide()) store(scores + t, rounded);
      else store_bfloat16(halves + t, rounded);
      total = add(total, rounded);
    }
    return sum(total);
  }
  if (!is_integer(layout.type)) {
    for (int64_t t = 0; t < width; t += 16) total = add(total, load(scores + t));
    return sum(total);
  }
  F32x16 biggest = splat(0.0f), offsets = splat(0.0f);
  for (int64_t t = 0; t < width; t += 16) {
    const uint16_t *scales = reinterpret_cast<const uint16_t *>(units.unit[t / kCacheUnit] + layout.value_scales) + t % kCacheUnit;
    const F32x16 weights = load(scores + t);
    total = add(total, weights);
    offsets = fma(weights, load_bfloat16(scales + kCacheUnit), offsets);
    const F32x16 scaled = mul(weights, load_bfloat16(scales));
    const F32x16 known = where_less(splat(-1.0f), scaled, scaled, splat(0.0f)); // a NaN is in the offsets already
    store(scores + t, known);
    biggest = max(biggest, known);
  }
  const float most = largest(biggest);
  const F32x16 inverse = splat(most > 1e-30f ? kMostParts / most : 0.0f);
  int8_t *parts = static_cast<int8_t *>(place.weights) + row * 2 * kKeyTile;
  for (int64_t t = 0; t < width; t += 16) store_parts(load(scores + t), inverse, parts + t, parts + kKeyTile + t);
  place.weight_scales[row] = most / kMostParts, place.weight_offsets[row] = sum(offsets);
  return sum(total);
}

template <class Words, int ROWS>
FLYWEIGHT_INLINE int64_t rows_of_floats(const CacheLayout &layout, const AttendPlace &place, const CacheUnits &units, int64_t row, int64_t rows, bool scores) {
  using Input = typename Words::Input;
  for (; row + ROWS <= rows; row += ROWS) {
    if (scores) {
      score_tile<Words, ROWS>(layout, units, reinterpret_cast<const Input *>(place.queries) + row * layout.padded_dim, layout.padded_dim, place.scores + row * kKeyTile);
    } else {
      const void *weights = std::is_same_v<Input, float> ? place.scores : place.weights;
      value_tile<Words, ROWS>(layout, units, static_cast<const Input *>(weights) + row * kKeyTile, place.sums + row * layout.padded_dim);
    }
  }
  if constexpr (ROWS > 1) return rows_of_floats<Words, ROWS / 2>(layout, place, units, row, rows, scores);
  return row;
}

template <bool SMALL, int ROWS>
FLYWEIGHT_INLINE int64_t rows_of_codes(const CacheLayout &layout, const AttendPlace &place, const CacheUnits &units, int64_t row, int64_t rows, bool scores) {
  for (; row + ROWS <= rows; row += ROWS) {
    if (scores)
      score_codes<SMALL, ROWS>(layout, units, reinterpret_cast<const int8_t *>(place.queries) + row * 2 * layout.padded_dim,
                               place.group_sums + row * layout.key_groups, place.query_scales + row, place.scores + row * kKeyTile);
    else
      value_codes<SMALL, ROWS>(layout, units, static_cast<const int8_t *>(place.weights) + row * 2 * kKeyTile, place.weight_scales + row,
                               place.weight_offsets + row, place.sums + row * layout.padded_dim);
  }
  if constexpr (ROWS > 1) return rows_of_codes<SMALL, ROWS / 2>(layout, place, units, row, rows, scores);
  return row;
}

// Queries times keys of one tile, or weights times values.
inline void multiply_tile(const CacheLayout &layout, const AttendPlace &place, const CacheUnits &units, int64_t rows, bool scores) {
  if (place.wide()) {
    expand_cache(layout, units, scores, place.expanded);
    if (scores) return score_expanded(layout, units, place.expanded, place.queries, rows, place.scores);
    return add_expanded(layout, units, place.expanded, place.scores, rows, place.sums);
  }
  switch (layout.type) {
  case CacheType::kFloat32: rows_of_floats<Float32Words, kAttendRows>(layout, place, units, 0, rows, scores); return;
  case CacheType::kFloat16: rows_of_floats<Float16Words, kAttendRows>(layout, place, units, 0, rows, scores); return;
  case CacheType::kBfloat16: rows_of_floats<PairWords, kAttendRows>(layout, place, units, 0, rows, scores); return;
  case CacheType::kInt8: rows_of_codes<false, kCodeRows>(layout, place, units, 0, rows, scores); return;
  case CacheType::kInt4: rows_of_codes<true, kCodeRows>(layout, place, units, 0, rows, scores); return;
  }
}

// One tile of keys and values for every row of a task; `visible` says which of its keys a row sees.
template <class Visible>
inline void attend_tile(const AttendArguments &a, const AttendPlace &place, const CacheUnits &units, int64_t rows, const Visible &visible) {
  const CacheLayout &layout = a.layout;
  const int64_t head = layout.padded_dim, width = units.count * kCacheUnit;
  multiply_tile(layout, place, units, rows, true);
  for (int64_t row = 0; row < rows; ++row) {
    const float factor = soften_row(a, place.scores + row * kKeyTile, visible(row), width, place.largest + row);
    const float total = place_weights(layout, place, units, row, width);
    place.totals[row] = place.totals[row] * factor + total;
    if (factor != 1.0f)
      for (int64_t i = 0; i < head; i += 16) store(place.sums + row * head + i, mul(load(place.sums + row * head + i), splat(factor)));
  }
  multiply_tile(layout, place, units, rows, false);
}

// The same in whole numbers.
template <class Visible>
inline void attend_rounded_tile(const AttendArguments &a, const AttendPlace &place, const CacheUnits &units, const RoundedTile &tile, int64_t rows,
                                const Visible &visible) {
  const int64_t width = units.count * kCacheUnit;
  int16_t *weights = static_cast<int16_t *>(place.weights);
  score_rounded(a.layout, units, tile, place.whole_queries, place.query_scales, rows, place.scores);
  for (int64_t row = 0; row < rows; ++row) {
    float *scores = place.scores + row * kKeyTile;
    hide_scores(a, scores, visible(row), width);
    F32x16 biggest = splat(-__builtin_inff());
    for (int64_t t = 0; t < width; t += 16) biggest = max(load(scores + t), biggest);
    place.tops[row] = largest(biggest);
  }
  rescale_rows(rows, place.tops, place.largest, place.decays, place.whole_scales);
  for (int64_t row = 0; row < rows; ++row) {
    const float total = round_weights(width, place.scores + row * kKeyTile, place.tops[row], weights + row * kKeyTile);
    place.whole_scales[row] += place.query_scales[row] - place.query_scales[row]; // a query that is not finite must show
    place.totals[row] = place.totals[row] * place.decays[row] + total * place.whole_scales[row];
  }
  add_rounded(a.layout, units, tile, weights, place.whole_scales, place.decays, rows, place.sums);
}

// Adds a later chunk's softmax to that of all earlier ones.
FLYWEIGHT_INLINE void merge_row(int64_t head, float *sums, float *largest, float *total, const float *chunk_sums, float chunk_largest, float chunk_total) {
  if (chunk_total == 0.0f) return; // it saw no key
  if (*total == 0.0f) {
    for (int64_t i = 0; i < head; i += 16) store(sums + i, load(chunk_sums + i));
    *largest = chunk_largest, *total = chunk_total;
    return;
  }
  const float now = *largest > chunk_largest ? *largest : chunk_largest;
  float lanes[16] = {*largest - now, chunk_largest - now};
  store(lanes, exponential(load(lanes)));
  for (int64_t i = 0; i < head; i += 16) store(sums + i, fma(load(chunk_sums + i), splat(lanes[1]), mul(load(sums + i), splat(lanes[0]))));
  *total = *total * lanes[0] + chunk_total * lanes[1];
  *largest = now;
}

// Where a query's head begins in q and out.
FLYWEIGHT_INLINE int64_t row_offset(const AttendArguments &a, const AttendTask &task, int64_t row) {
  const int64_t group = a.num_heads / a.layout.num_kv_heads, query = row / group;
  const int64_t token = task.is_common() ? a.query_starts[task.shared->sequences[query]] : a.query_starts[task.sequence] + task.query_begin + query;
  return (token * a.num_heads + task.kv_head * group + row % group) * a.layout.head_dim;
}

FLYWEIGHT_INLINE void finish_row(const AttendArguments &a, const AttendTask &task, int64_t row, const float *sums, float largest, float total) {
  float factor = 1.0f / total;
  if (a.sinks) {
    const int64_t group = a.num_heads / a.layout.num_kv_heads;
    const float sink = a.sinks[task.kv_head * group + row % group], now = largest > sink ? largest : sink;
    float lanes[16] = {largest - now, sink - now};
    store(lanes, exponential(load(lanes)));
    factor = lanes[0] / (total * lanes[0] + lanes[1]);
  }
  float *to = a.out + row_offset(a, task, row);
  for (int64_t i = 0; i < a.layout.head_dim; i += 16)
    store_first(to + i, mul(load(sums + i), splat(factor)), a.layout.head_dim - i < 16 ? a.layout.head_dim - i : 16);
}

// One chunk's results of a row as they wait for the merge: sums, then the maximum and the total.
inline int64_t partial_floats(const CacheLayout &layout) { return layout.padded_dim + 16; }

// Where shared keys leave the result of one chunk for one row of the heads of a group.
inline float *shared_record(const AttendArguments &a, const AttendTask &task, int64_t chunk, int64_t row) {
  const int64_t rows = task.shared->count * (a.num_heads / a.layout.num_kv_heads);
  return a.partials + task.shared->partials + ((task.kv_head * task.shared->chunks() + chunk) * rows + row) * partial_floats(a.layout);
}

inline void attend_merge(const AttendArguments &a, const AttendTask &task) {
  const int64_t group = a.num_heads / a.layout.num_kv_heads, rows = (task.query_end - task.query_begin) * group, head = a.layout.padded_dim;
  const int64_t record = partial_floats(a.layout), begin = task.shared ? 0 : task.first_chunk;
  for (int64_t row = 0; row < rows; ++row) {
    const auto result_of = [&](int64_t chunk) {
      if (chunk < task.first_chunk) return shared_record(a, task, chunk, task.place * group + row);
      return a.partials + task.partials + ((chunk - task.first_chunk) * rows + row) * record;
    };
    float *first = result_of(begin);
    for (int64_t chunk = begin + 1; chunk < task.chunk_end; ++chunk) {
      const float *next = result_of(chunk);
      merge_row(head, first, first + head, first + head + 1, next, next[head], next[head + 1]);
    }
    finish_row(a, task, row, first, first[head], first[head + 1]);
  }
}

inline void attend(const AttendArguments &a, const AttendTask &task, float *workspace) {
  const CacheLayout &layout = a.layout;
  const int64_t group = a.num_heads / layout.num_kv_heads, head = layout.padded_dim;
  const bool common = task.is_common();
  const int64_t queries = common ? task.shared->count : task.query_end - task.query_begin, rows = queries * group, record = partial_floats(layout);
  AttendPlace place;
  attend_place(a, rows, workspace, &place);
  place.rounds = place.rounds && !common; // a neighbour changes no bit
  const RoundedTile tile = rounded_tile(layout, place.expanded, place.tile_scales);
  const int64_t new_tokens = a.query_starts[task.sequence + 1] - a.query_starts[task.sequence];
  const int64_t first_position = common ? task.shared->key_end - 1 : a.context_lengths[task.sequence] - new_tokens + task.query_begin;
  const int64_t last_position = common ? first_position : first_position + queries - 1, own_begin = task.shared && !common ? task.shared->key_end : 0;
  const auto oldest_of = [&](int64_t position) { return a.window > 0 && position >= a.window ? position - a.window + 1 : int64_t{0}; };
  const int64_t oldest = oldest_of(first_position);
  for (int64_t row = 0; row < rows; ++row) {
    prepare_query(a, place, row, a.q + row_offset(a, task, row));
    for (int64_t i = 0; i < head; i += 16) store(place.merged_sums + row * head + i, splat(0.0f));
    place.merged_largest[row] = -__builtin_inff(), place.merged_totals[row] = 0.0f;
  }
  const int32_t *block_table = a.block_tables + task.sequence * a.max_blocks;
  const auto unit_at = [&](int64_t key) {
    const int64_t slot = block_table[key / layout.block_size] * layout.block_size + key % layout.block_size;
    return static_cast<const uint8_t *>(a.cache) + layout.unit(slot, task.kv_head);
  };
  // The next tile from `key` on that anyone sees, or one that begins beyond the last position.
  const auto seen_from = [&](int64_t key) { return key < a.keep_first || key + kKeyTile > oldest ? key : oldest / kKeyTile * kKeyTile; };
  for (int64_t chunk = task.chunk_begin; chunk < task.chunk_end; ++chunk) {
    const bool begun = chunk * kKeyChunk < own_begin; // by the shared keys
    for (int64_t row = 0; row < rows; ++row) {
      const float *from = begun ? shared_record(a, task, chunk, task.place * group + row) : nullptr;
      for (int64_t i = 0; i < head; i += 16) store(place.sums + row * head + i, begun ? load(from + i) : splat(0.0f));
      place.largest[row] = begun ? from[head] : -__builtin_inff(), place.totals[row] = begun ? from[head + 1] : 0.0f;
    }
    const int64_t chunk_end = (chunk + 1) * kKeyChunk;
    for (int64_t key = begun ? own_begin : seen_from(chunk * kKeyChunk); key < chunk_end && key <= last_position;) {
      const int64_t following = seen_from(key + kKeyTile);
      CacheUnits units{};
      for (int64_t u = 0; u < kTileUnits; ++u) {
        const int64_t first = key + u * kCacheUnit, next = following + u * kCacheUnit;
        if (first <= last_position) units.unit[u] = unit_at(first), ++units.count;
        else units.unit[u] = units.unit[units.count - 1];
        units.next[u] = next <= last_position ? unit_at(next) : u ? units.next[u - 1] : nullptr;
      }
      const int64_t width = units.count * kCacheUnit;
      const auto visible_of = [&](int64_t row) {
        const int64_t position = common ? first_position : first_position + row / group;
        const auto within = [&](int64_t at) { return at <= key ? int64_t{0} : at - key < width ? at - key : width; };
        VisibleKeys visible{within(a.keep_first < position + 1 ? a.keep_first : position + 1), within(oldest_of(position)), within(position + 1)};
        if (visible.begin < visible.first_end) visible.begin = visible.first_end;
        return visible;
      };
      if (place.rounds && round_cache(layout, units, tile)) attend_rounded_tile(a, place, units, tile, rows, visible_of);
      else attend_tile(a, place, units, rows, visible_of);
      key = following;
    }
    for (int64_t row = 0; row < rows; ++row) {
      if (task.partials >= 0) {
        float *to = common ? shared_record(a, task, chunk, row) : a.partials + task.partials + ((chunk - task.first_chunk) * rows + row) * record;
        for (int64_t i = 0; i < head; i += 16) store(to + i, load(place.sums + row * head + i));
        to[head] = place.largest[row], to[head + 1] = place.totals[row];
      } else {
        merge_row(head, place.merged_sums + row * head, place.merged_largest + row, place.merged_totals + row, place.sums + row * head, place.largest[row], place.totals[row]);
      }
    }
  }
  if (task.partials >= 0) return;
  for (int64_t row = 0; row < rows; ++row) finish_row(a, task, row, place.merged_sums + row * head, place.merged_largest[row], place.merged_totals[row]);
}
