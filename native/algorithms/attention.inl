// Attention over a paged cache: one task is some queries of one sequence against one key/value head, keys tile by tile
// with a running maximum and sum (the "online softmax" of FlashAttention, arXiv:2205.14135).

constexpr int64_t kKeyTile = 64; // keys per step; their transposed copy stays in the first-level cache up to head_dim 128

struct AttendWorkspace {
  float *queries, *keys, *values, *scores, *sums, *largest, *totals; // see attend_place
};

FLYWEIGHT_INLINE int64_t padded_head(const AttendArguments &a) { return (a.head_dim + 15) / 16 * 16; }

// Cuts the workspace: queries rows x head, keys head x tile, values tile x head, scores rows x tile, sums rows x head.
inline int64_t attend_place(const AttendArguments &a, int64_t max_queries, float *base, AttendWorkspace *place) {
  const int64_t rows = max_queries * (a.num_heads / a.num_kv_heads), head = padded_head(a);
  const int64_t sizes[7] = {rows * head, head * kKeyTile, kKeyTile * head, rows * kKeyTile, rows * head, rows, rows};
  float **targets[7] = {&place->queries, &place->keys, &place->values, &place->scores, &place->sums, &place->largest, &place->totals};
  int64_t used = 0;
  for (int i = 0; i < 7; ++i) {
    if (base) *targets[i] = base + used;
    used += (sizes[i] + 15) / 16 * 16;
  }
  return used;
}

inline int64_t attend_workspace(const AttendArguments &a, int64_t max_queries) {
  AttendWorkspace unused;
  return attend_place(a, max_queries, nullptr, &unused);
}

// One cached vector as floats, zeros up to the padded length.
FLYWEIGHT_INLINE void load_cached(const void *cache, CacheType type, int64_t offset, int64_t length, int64_t padded, float *out) {
  if (type == CacheType::kFloat32) {
    const float *from = static_cast<const float *>(cache) + offset;
    for (int64_t i = 0; i < padded; i += 16) store(out + i, length - i >= 16 ? load(from + i) : load_first(from + i, length - i));
    return;
  }
  const uint16_t *from = static_cast<const uint16_t *>(cache) + offset;
  int64_t i = 0;
  for (; i + 16 <= length; i += 16) store(out + i, type == CacheType::kFloat16 ? load_float16(from + i) : load_bfloat16(from + i));
  if (i == length) return;
  store(out + i, splat(0.0f));
  for (; i < length; ++i) out[i] = type == CacheType::kFloat16 ? float_of_half(from[i]) : float_of_bfloat16(from[i]);
}

// Where the vectors of keys [first_key, end_key) of one tile begin in the caches; returns how many there are.
FLYWEIGHT_INLINE int64_t locate_tile(const AttendArguments &a, const int32_t *block_table, int64_t kv_head, int64_t first_key, int64_t end_key,
                                     int64_t *offsets) {
  int64_t block = first_key / a.block_size, within = first_key % a.block_size, t = 0;
  for (; t < kKeyTile && first_key + t < end_key; ++t) {
    offsets[t] = ((block_table[block] * a.block_size + within) * a.num_kv_heads + kv_head) * a.head_dim;
    if (++within == a.block_size) ++block, within = 0;
  }
  return t;
}

// One head's vectors lie far apart, where no hardware prefetcher follows.
FLYWEIGHT_INLINE void prefetch_vector(const AttendArguments &a, int64_t offset) {
  const int64_t element = a.cache_type == CacheType::kFloat32 ? 4 : 2;
  for (int64_t byte = 0; byte < a.head_dim * element; byte += 64) {
    __builtin_prefetch(static_cast<const char *>(a.keys) + offset * element + byte, 0, 2);
    __builtin_prefetch(static_cast<const char *>(a.values) + offset * element + byte, 0, 2);
  }
}

// Copies a tile: values as they are, keys transposed. Rows beyond num_keys are zero: their scores are masked, and zero
// times zero adds nothing.
inline void gather_tile(const AttendArguments &a, const int64_t *offsets, int64_t num_keys, const int64_t *next_offsets, int64_t num_next,
                        const AttendWorkspace &place) {
  const int64_t head = padded_head(a);
  for (int64_t group = 0; group < kKeyTile; group += 16) {
    for (int64_t t = group; t < group + 16; ++t) {
      if (t < num_next) prefetch_vector(a, next_offsets[t]);
      if (t < num_keys) load_cached(a.values, a.cache_type, offsets[t], a.head_dim, head, place.values + t * head);
      else
        for (int64_t i = 0; i < head; i += 16) store(place.values + t * head + i, splat(0.0f));
    }
    for (int64_t i = 0; i < head; i += 16) {
      F32x16 rows[16];
      for (int64_t t = 0; t < 16; ++t) {
        rows[t] = splat(0.0f);
        if (group + t >= num_keys) continue;
        const int64_t offset = offsets[group + t] + i, left = a.head_dim - i;
        if (left < 16) {
          float lanes[16];
          load_cached(a.keys, a.cache_type, offset, left, 16, lanes);
          rows[t] = load(lanes);
        } else if (a.cache_type == CacheType::kFloat32) {
          rows[t] = load(static_cast<const float *>(a.keys) + offset);
        } else if (a.cache_type == CacheType::kFloat16) {
          rows[t] = load_float16(static_cast<const uint16_t *>(a.keys) + offset);
        } else {
          rows[t] = load_bfloat16(static_cast<const uint16_t *>(a.keys) + offset);
        }
      }
      transpose(rows);
      for (int64_t d = 0; d < 16; ++d) store(place.keys + (i + d) * kKeyTile + group, rows[d]);
    }
  }
}

// Turns one row of scores into weights; keys [begin, end) of the tile are visible. Returns what old sums are scaled by.
FLYWEIGHT_INLINE float soften_row(float *scores, int64_t begin, int64_t end, float softcap, float *largest_so_far, float *total) {
  const float minus_infinity = -__builtin_inff();
  F32x16 biggest = splat(minus_infinity);
  for (int64_t t = 0; t < kKeyTile; t += 16) {
    F32x16 values = load(scores + t);
    if (softcap > 0.0f) values = mul(splat(softcap), hyperbolic_tangent(div(values, splat(softcap))));
    store(scores + t, values);
  }
  for (int64_t t = 0; t < begin; ++t) scores[t] = minus_infinity;
  for (int64_t t = end > begin ? end : begin; t < kKeyTile; ++t) scores[t] = minus_infinity;
  for (int64_t t = 0; t < kKeyTile; t += 16) biggest = max(biggest, load(scores + t));
  const float before = *largest_so_far, here = largest(biggest), now = before > here ? before : here;
  if (end <= begin) { // nothing visible yet: no weight, and no exponential of infinity minus infinity
    for (int64_t t = 0; t < kKeyTile; t += 16) store(scores + t, splat(0.0f));
    return 1.0f;
  }
  F32x16 sums = splat(0.0f);
  for (int64_t t = 0; t < kKeyTile; t += 16) {
    const F32x16 weights = exponential(sub(load(scores + t), splat(now)));
    store(scores + t, weights);
    sums = add(sums, weights);
  }
  float lanes[16];
  store(lanes, exponential(splat(before - now)));
  *largest_so_far = now;
  *total = *total * lanes[0] + sum(sums);
  return lanes[0];
}

inline void attend(const AttendArguments &a, const AttendTask &task, float *workspace) {
  const int64_t group = a.num_heads / a.num_kv_heads, head = padded_head(a);
  const int64_t queries = task.query_end - task.query_begin, rows = queries * group;
  AttendWorkspace place;
  attend_place(a, queries, workspace, &place);
  const int64_t first_token = a.query_starts[task.sequence] + task.query_begin;
  const int64_t new_tokens = a.query_starts[task.sequence + 1] - a.query_starts[task.sequence];
  const int64_t first_position = a.context_lengths[task.sequence] - new_tokens + task.query_begin;
  const int64_t last_position = first_position + queries - 1;
  for (int64_t row = 0; row < rows; ++row) {
    const float *from = a.q + ((first_token + row / group) * a.num_heads + task.kv_head * group + row % group) * a.head_dim;
    for (int64_t i = 0; i < head; i += 16) {
      const int64_t left = a.head_dim - i < 16 ? a.head_dim - i : 16;
      store(place.queries + row * head + i, mul(load_first(from + i, left), splat(a.scale)));
      store(place.sums + row * head + i, splat(0.0f));
    }
    place.largest[row] = -__builtin_inff(), place.totals[row] = 0.0f;
  }
  const int64_t oldest = a.window > 0 && first_position - a.window + 1 > 0 ? first_position - a.window + 1 : 0;
  const int32_t *block_table = a.block_tables + task.sequence * a.max_blocks;
  int64_t offsets[2][kKeyTile]; // of this tile and of the next
  int64_t key = oldest / kKeyTile * kKeyTile, num_next = locate_tile(a, block_table, task.kv_head, key, last_position + 1, offsets[0]);
  for (int64_t turn = 0; key <= last_position; key += kKeyTile, turn = 1 - turn) {
    const int64_t num_keys = num_next;
    num_next = locate_tile(a, block_table, task.kv_head, key + kKeyTile, last_position + 1, offsets[1 - turn]);
    gather_tile(a, offsets[turn], num_keys, offsets[1 - turn], num_next, place);
    for (int64_t column = 0; column < kKeyTile; column += 16 * kWidePanels) {
      FloatTile tile;
      tile.x = place.queries, tile.x_stride = head, tile.w = place.keys + column, tile.w_step = kKeyTile, tile.w_panel = 16;
      tile.depth = a.head_dim, tile.out = {place.scores + column, kKeyTile, 16 * kWidePanels, true, nullptr};
      run_rows<kWidePanels, kMaxRows>(tile, rows);
    }
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t position = first_position + row / group;
      const int64_t oldest_here = a.window > 0 && position - a.window + 1 > 0 ? position - a.window + 1 : 0;
      const int64_t begin = oldest_here > key ? oldest_here - key : 0, end = position + 1 - key;
      const float factor = soften_row(place.scores + row * kKeyTile, begin < kKeyTile ? begin : kKeyTile, end < kKeyTile ? end : kKeyTile,
                                      a.softcap, place.largest + row, place.totals + row);
      if (factor != 1.0f)
        for (int64_t i = 0; i < head; i += 16) store(place.sums + row * head + i, mul(load(place.sums + row * head + i), splat(factor)));
    }
    for (int64_t column = 0; column < head; column += 16 * kWidePanels) {
      FloatTile tile;
      tile.x = place.scores, tile.x_stride = kKeyTile, tile.w = place.values + column, tile.w_step = head, tile.w_panel = 16;
      tile.depth = num_keys, tile.out = {place.sums + column, head, 16 * kWidePanels, false, nullptr};
      const int64_t panels = (head - column) / 16;
      run_strip<kWidePanels, kMaxRows>(tile, rows, panels < kWidePanels ? panels : kWidePanels);
    }
  }
  for (int64_t row = 0; row < rows; ++row) {
    float *to = a.out + ((first_token + row / group) * a.num_heads + task.kv_head * group + row % group) * a.head_dim;
    const F32x16 factor = splat(1.0f / place.totals[row]);
    for (int64_t i = 0; i < a.head_dim; i += 16) {
      const int64_t left = a.head_dim - i < 16 ? a.head_dim - i : 16;
      store_first(to + i, mul(load(place.sums + row * head + i), factor), left);
    }
  }
}
