// Choosing a token from one row of logits: sparse edits, a mask of what is allowed, the largest, the few that the filters keep, one draw.
//
// Shares are whole numbers: e^s in units of 2^-34 of the largest. Their sums are exact in any order, so the choice is the
// same on every instruction set and in the numpy twin, bit for bit. No step sorts the vocabulary.

constexpr int64_t kSampleBlock = 64;               // logits that share one maximum
constexpr float kShareUnit = 17179869184.0f;       // 2^34: a share of 1
constexpr float kEdgeMargin = 0.01f;               // far above what the exponential's rounding can turn around

struct SampleRoom {
  float *edited, *maxima, *shares;
  int32_t *tokens;
  uint32_t *keys;
};

inline int64_t sample_blocks(int64_t vocab) { return (vocab + kSampleBlock - 1) / kSampleBlock; }

inline int64_t sample_workspace(int64_t vocab) { return 4 * (vocab + 16) + sample_blocks(vocab) + 16; }

inline SampleRoom sample_room(float *workspace, int64_t vocab) {
  SampleRoom room{};
  room.edited = workspace;
  room.shares = workspace + (vocab + 16);
  room.tokens = reinterpret_cast<int32_t *>(workspace + 2 * (vocab + 16));
  room.keys = reinterpret_cast<uint32_t *>(workspace + 3 * (vocab + 16));
  room.maxima = workspace + 4 * (vocab + 16);
  return room;
}

// The largest of every block. False if a logit is NaN or plus infinity; minus infinity forbids a token and is allowed.
inline bool find_maxima(const float *x, int64_t count, float *maxima) {
  const float infinity = std::numeric_limits<float>::infinity();
  F32x16 faults = splat(0.0f);
  bool tail_is_good = true;
  for (int64_t begin = 0; begin < count; begin += kSampleBlock, ++maxima) {
    if (count - begin >= kSampleBlock) {
      F32x16 most = splat(-infinity);
      for (int64_t i = begin; i < begin + kSampleBlock; i += 16) {
        const F32x16 values = load(x + i);
        faults = max(faults, where_less(values, splat(infinity), splat(0.0f), splat(1.0f)));
        most = max(most, values);
      }
      *maxima = largest(most);
      continue;
    }
    *maxima = -infinity;
    for (int64_t i = begin; i < count; ++i) {
      tail_is_good = tail_is_good && x[i] < infinity;
      if (x[i] > *maxima) *maxima = x[i];
    }
  }
  return tail_is_good && largest(faults) == 0.0f;
}

// The first token with the largest logit.
inline int64_t find_largest(const float *x, int64_t count, const float *maxima) {
  int64_t best = 0;
  for (int64_t block = 1; block < sample_blocks(count); ++block)
    if (maxima[block] > maxima[best]) best = block;
  for (int64_t i = best * kSampleBlock; i < count; ++i)
    if (x[i] == maxima[best]) return i;
  return -1; // all are minus infinity and NaN was refused: cannot happen for a finite largest
}

// e to the x for x <= 0 in units of 2^-34, a whole number; 0 from about -24.3 down. No fused multiply-add, on purpose:
// each product and sum is rounded by itself.
FLYWEIGHT_INLINE F32x16 share(F32x16 x) {
  const F32x16 clamped = max(x, splat(-60.0f));
  const F32x16 whole = round_even(mul(clamped, splat(1.44269504f)));
  const F32x16 rest = add(sub(clamped, mul(whole, splat(0.693359375f))), mul(whole, splat(2.12194440e-4f)));
  F32x16 polynomial = splat(1.9875691500e-4f);
  polynomial = add(mul(polynomial, rest), splat(1.3981999507e-3f));
  polynomial = add(mul(polynomial, rest), splat(8.3334519073e-3f));
  polynomial = add(mul(polynomial, rest), splat(4.1665795894e-2f));
  polynomial = add(mul(polynomial, rest), splat(1.6666665459e-1f));
  polynomial = add(mul(polynomial, rest), splat(5.0000001201e-1f));
  polynomial = add(mul(polynomial, mul(rest, rest)), add(rest, splat(1.0f)));
  return round_even(mul(mul(polynomial, power_of_two(whole)), splat(kShareUnit)));
}

FLYWEIGHT_INLINE F32x16 scaled(F32x16 x, float most, float inverse_temperature) { return mul(sub(x, splat(most)), splat(inverse_temperature)); }

// Adds sixteen whole numbers to sixteen sums; double holds them exactly.
FLYWEIGHT_INLINE void add_lanes(double (&sums)[16], F32x16 values) {
  float lanes[16];
  store(lanes, values);
  for (int i = 0; i < 16; ++i) sums[i] += static_cast<double>(lanes[i]);
}

inline uint64_t add_up(const double (&sums)[16]) {
  uint64_t total = 0;
  for (const double sum : sums) total += static_cast<uint64_t>(sum);
  return total;
}

// The sum of the shares of all logits.
inline uint64_t total_share(const float *x, int64_t count, float most, float inverse_temperature) {
  double sums[16] = {};
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) add_lanes(sums, share(scaled(load(x + i), most, inverse_temperature)));
  uint64_t total = add_up(sums);
  if (i < count) {
    float lanes[16];
    store(lanes, share(scaled(load_first(x + i, count - i), most, inverse_temperature)));
    for (int64_t j = i; j < count; ++j) total += static_cast<uint64_t>(lanes[j - i]);
  }
  return total;
}

// Replaces logits by their shares.
inline void to_shares(float *x, int64_t count, float most, float inverse_temperature) {
  for (int64_t i = 0; i < count; i += 16) {
    const int64_t left = count - i < 16 ? count - i : 16;
    store_first(x + i, share(scaled(load_first(x + i, left), most, inverse_temperature)), left);
  }
}

inline uint64_t sum_of(const float *shares, int64_t count) {
  double sums[16] = {};
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) add_lanes(sums, load(shares + i));
  uint64_t total = add_up(sums);
  for (; i < count; ++i) total += static_cast<uint64_t>(shares[i]);
  return total;
}

// Floats as integers of the same order.
FLYWEIGHT_INLINE uint32_t key_of(float value) {
  value += 0.0f; // minus zero is zero
  uint32_t bits;
  __builtin_memcpy(&bits, &value, 4);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

FLYWEIGHT_INLINE float value_of(uint32_t key) {
  const uint32_t bits = key & 0x80000000u ? key & 0x7fffffffu : ~key;
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}

struct ShareEdge {
  uint32_t key;    // the largest key such that it and all larger ones weigh at least what is wanted
  uint64_t above;  // what the larger ones weigh
};

// Radix selection, a byte at a time: linear in `count` whatever the values. `keys` is used up. Each key weighs 1, or its
// own value where `by_value`. The whole must weigh at least `wanted`, and `wanted` at least 1.
inline ShareEdge find_edge(uint32_t *keys, int64_t count, uint64_t wanted, bool by_value) {
  ShareEdge edge{0, 0};
  for (int shift = 24; shift >= 0; shift -= 8) {
    uint64_t weights[256] = {};
    for (int64_t i = 0; i < count; ++i)
      weights[(keys[i] >> shift) & 255u] += by_value ? static_cast<uint64_t>(value_of(keys[i])) : 1u;
    uint32_t digit = 255;
    while (digit > 0 && edge.above + weights[digit] < wanted) edge.above += weights[digit--];
    edge.key |= digit << shift;
    int64_t kept = 0;
    for (int64_t i = 0; i < count; ++i)
      if (((keys[i] >> shift) & 255u) == digit) keys[kept++] = keys[i];
    count = kept;
  }
  return edge;
}

// The k-th largest value, 1 <= k <= count: blocks whose maximum is below the k-th largest maximum hold none of the k.
inline float find_kth_largest(const float *x, int64_t count, int64_t k, const SampleRoom &room) {
  const int64_t blocks = sample_blocks(count);
  float floor = -std::numeric_limits<float>::infinity();
  if (k <= blocks) {
    for (int64_t block = 0; block < blocks; ++block) room.keys[block] = key_of(room.maxima[block]);
    floor = value_of(find_edge(room.keys, blocks, static_cast<uint64_t>(k), false).key);
  }
  int64_t found = 0;
  for (int64_t block = 0; block < blocks; ++block) {
    if (room.maxima[block] < floor) continue;
    const int64_t end = (block + 1) * kSampleBlock < count ? (block + 1) * kSampleBlock : count;
    for (int64_t i = block * kSampleBlock; i < end; ++i)
      if (x[i] >= floor) room.keys[found++] = key_of(x[i]);
  }
  return value_of(find_edge(room.keys, found, static_cast<uint64_t>(k), false).key);
}

// Lists the tokens whose scaled logit is at least `floor` and whose logit is at least `least`; `shares` gets the logits.
inline int64_t collect(const float *x, int64_t count, float most, float inverse_temperature, float floor, float least, const SampleRoom &room) {
  int64_t found = 0;
  const auto scale = [&](float value) { return (value - most) * inverse_temperature; };
  for (int64_t block = 0; block < sample_blocks(count); ++block) {
    if (room.maxima[block] < least || scale(room.maxima[block]) < floor) continue;
    const int64_t end = (block + 1) * kSampleBlock < count ? (block + 1) * kSampleBlock : count;
    for (int64_t i = block * kSampleBlock; i < end; ++i)
      if (x[i] >= least && scale(x[i]) >= floor) room.tokens[found] = static_cast<int32_t>(i), room.shares[found++] = x[i];
  }
  return found;
}

// Keeps the fewest of the likeliest that reach `wanted`; of those that tie at the edge, the first.
inline int64_t keep_likeliest(int64_t count, uint64_t wanted, const SampleRoom &room) {
  for (int64_t i = 0; i < count; ++i) room.keys[i] = key_of(room.shares[i]);
  const ShareEdge edge = find_edge(room.keys, count, wanted, true);
  const float least = value_of(edge.key);
  const uint64_t one = static_cast<uint64_t>(least);
  uint64_t ties = one ? (wanted - edge.above + one - 1) / one : 0;
  int64_t kept = 0;
  for (int64_t i = 0; i < count; ++i) {
    const float value = room.shares[i];
    if (value < least || (value == least && ties == 0)) continue;
    if (value == least) --ties;
    room.tokens[kept] = room.tokens[i], room.shares[kept++] = value;
  }
  return kept;
}

inline int64_t keep_at_least(int64_t count, double least, const SampleRoom &room) {
  int64_t kept = 0;
  for (int64_t i = 0; i < count; ++i)
    if (static_cast<double>(room.shares[i]) >= least) room.tokens[kept] = room.tokens[i], room.shares[kept++] = room.shares[i];
  return kept;
}

inline uint64_t share_of_total(double part, uint64_t total) {
  const uint64_t wanted = static_cast<uint64_t>(std::ceil(part * static_cast<double>(total)));
  return wanted < 1 ? 1 : wanted < total ? wanted : total;
}

// What top-k, top-p and min-p leave, in the order of the tokens: room.tokens and room.shares; returns how many.
inline int64_t keep_tokens(const SampleArguments &a, const float *x, float most, const SampleRoom &room) {
  const float none = -std::numeric_limits<float>::infinity(), inverse = a.inverse_temperature;
  const bool has_top_k = a.top_k > 0 && a.top_k < a.vocab;
  int64_t count;
  uint64_t wanted = 0;
  if (has_top_k) {
    count = collect(x, a.vocab, most, inverse, none, find_kth_largest(x, a.vocab, a.top_k, room), room);
    to_shares(room.shares, count, most, inverse);
    if (a.top_p < 1.0) wanted = share_of_total(a.top_p, sum_of(room.shares, count));
  } else if (a.top_p < 1.0) {
    wanted = share_of_total(a.top_p, total_share(x, a.vocab, most, inverse));
    // Deeper until what lies above the depth is enough; what the margin adds cannot be likelier than any of it.
    for (float depth = 3.0f;; depth *= 2.0f) {
      count = collect(x, a.vocab, most, inverse, -depth - kEdgeMargin, none, room);
      to_shares(room.shares, count, most, inverse);
      const float least = kShareUnit * std::exp(-depth);
      uint64_t reached = 0;
      for (int64_t i = 0; i < count; ++i)
        if (room.shares[i] >= least) reached += static_cast<uint64_t>(room.shares[i]);
      if (reached >= wanted || depth > 40.0f) break;
    }
  } else if (a.min_p > 0.0) {
    count = collect(x, a.vocab, most, inverse, static_cast<float>(std::log(a.min_p)) - kEdgeMargin, none, room);
    to_shares(room.shares, count, most, inverse);
  } else {
    count = a.vocab;
    for (int64_t i = 0; i < count; ++i) room.tokens[i] = static_cast<int32_t>(i), room.shares[i] = x[i];
    to_shares(room.shares, count, most, inverse);
  }
  if (wanted) count = keep_likeliest(count, wanted, room);
  if (a.min_p > 0.0) count = keep_at_least(count, a.min_p * static_cast<double>(kShareUnit), room);
  return count;
}

// The place where the running sum first exceeds total * random / 2^64.
inline int64_t pick(const float *shares, int64_t count, uint64_t random) {
  const uint64_t total = sum_of(shares, count);
  uint64_t left = static_cast<uint64_t>((static_cast<unsigned __int128>(random) * total) >> 64);
  for (int64_t begin = 0;; begin += 1024) {
    const int64_t length = count - begin < 1024 ? count - begin : 1024;
    const uint64_t here = sum_of(shares + begin, length);
    if (left >= here) {
      left -= here;
      continue;
    }
    for (int64_t i = begin;; ++i) {
      const uint64_t one = static_cast<uint64_t>(shares[i]);
      if (left < one) return i;
      left -= one;
    }
  }
}

// Makes every logit minus infinity whose bit is 0. Words of all ones, the most frequent where much is allowed, cost a look.
inline void forbid(float *x, int64_t count, const uint32_t *mask) {
  const float none = -std::numeric_limits<float>::infinity();
  for (int64_t begin = 0; begin < count; begin += 32) {
    const uint32_t word = mask[begin / 32];
    if (word == ~uint32_t{0}) continue;
    const int64_t length = count - begin < 32 ? count - begin : 32;
    for (int64_t i = 0; i < length; ++i) x[begin + i] = (word >> i) & 1u ? x[begin + i] : none;
  }
}

// The most likely tokens of all, largest first, ties by token: by insertion, since few are wanted.
inline void list_likeliest(const SampleArguments &a, float most, double log_total, const SampleRoom &room) {
  const int64_t wanted = a.num_top < a.vocab ? a.num_top : a.vocab;
  if (wanted == 0) return;
  const float *x = a.logits;
  const float least = find_kth_largest(x, a.vocab, wanted, room);
  int64_t found = 0, larger = 0;
  for (int64_t i = 0; i < a.vocab; ++i) larger += x[i] > least;
  int64_t ties = wanted - larger;
  for (int64_t i = 0; i < a.vocab && found < wanted; ++i) {
    if (!(x[i] > least) && !(x[i] == least && ties-- > 0)) continue;
    int64_t place = found++;
    for (; place > 0 && x[a.top_tokens[place - 1]] < x[i]; --place) a.top_tokens[place] = a.top_tokens[place - 1];
    a.top_tokens[place] = static_cast<int32_t>(i);
  }
  for (int64_t i = 0; i < found; ++i)
    a.top_log_probabilities[i] = static_cast<float>(static_cast<double>(x[a.top_tokens[i]]) - static_cast<double>(most) - log_total);
}

// The chosen token, or -1 where the logits have NaN, plus infinity or nothing finite.
inline int64_t sample(const SampleArguments &a, float *workspace) {
  const SampleRoom room = sample_room(workspace, a.vocab);
  if (!find_maxima(a.logits, a.vocab, room.maxima)) return -1;
  const int64_t first = find_largest(a.logits, a.vocab, room.maxima);
  if (first < 0 || !(a.logits[first] > -std::numeric_limits<float>::infinity())) return -1;
  double log_total = 0.0;
  const float raw_most = a.logits[first];
  if (a.num_top >= 0) {
    log_total = std::log(static_cast<double>(total_share(a.logits, a.vocab, raw_most, 1.0f)) / static_cast<double>(kShareUnit));
    list_likeliest(a, raw_most, log_total, room);
  }
  const float *x = a.logits;
  int64_t token = first;
  if (a.num_edits || a.mask) {
    __builtin_memcpy(room.edited, a.logits, static_cast<size_t>(a.vocab) * sizeof(float));
    for (int64_t i = 0; i < a.num_edits; ++i) {
      float &value = room.edited[a.edit_tokens[i]];
      value = (value < 0.0f ? value * a.edit_factors[i] : value / a.edit_factors[i]) + a.edit_shifts[i];
    }
    if (a.mask) forbid(room.edited, a.vocab, a.mask);
    x = room.edited;
    if (!find_maxima(x, a.vocab, room.maxima)) return -1;
    token = find_largest(x, a.vocab, room.maxima);
    if (token < 0 || !(x[token] > -std::numeric_limits<float>::infinity())) return -1;
  }
  if (a.inverse_temperature > 0.0f) {
    const int64_t count = keep_tokens(a, x, x[token], room);
    token = room.tokens[pick(room.shares, count, a.random)];
    if (a.num_kept) {
      *a.num_kept = count;
      for (int64_t i = 0; i < count; ++i) a.kept_tokens[i] = room.tokens[i], a.kept_shares[i] = room.shares[i];
    }
  }
  if (a.num_top >= 0) *a.log_probability = static_cast<float>(static_cast<double>(a.logits[token]) - static_cast<double>(raw_most) - log_total);
  return token;
}
