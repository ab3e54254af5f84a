// The column loop of GPTQ (arXiv:2210.17323, algorithm 1) over the columns of one group, sixteen rows side by side. Where
// ratios are given it runs for each of them, and every row keeps the scale under which it lost least.
//
// A column is brought up to date when its turn comes: w_i -= err_0 U[0,i], then err_1 U[1,i], and so on. These are the
// very operations of the textbook loop, which updates all later columns after each one, in the same order for every
// weight; products and sums are rounded apart. So codes agree bit by bit with the twin, on every instruction set.
//
// Two candidates run side by side: each waits for its divisions and roundings, and the other fills the gap.

constexpr int kGptqCandidates = 2;
constexpr int kGptqSums = kMaxRows * kWidePanels >= 16 ? 8 : 4; // columns times candidates that stay in registers

struct GptqWorkspace {
  float *weights, *best_codes;       // width x 16 lanes
  float *errors, *codes;             // width x candidates x 16 lanes
  float *scales, *zero_points, *losses; // candidates x 16 lanes
};

inline int64_t gptq_workspace(const GptqArguments &a) { return (2 + 2 * kGptqCandidates) * a.width * 16 + 3 * kGptqCandidates * 16; }

inline GptqWorkspace gptq_place(const GptqArguments &a, float *workspace) {
  const int64_t plane = a.width * 16, wide = kGptqCandidates * plane;
  float *end = workspace + 2 * plane + 2 * wide;
  return {workspace, workspace + plane, workspace + 2 * plane, workspace + 2 * plane + wide, end, end + kGptqCandidates * 16, end + 2 * kGptqCandidates * 16};
}

// The columns of a run less the errors of all columns before it.
template <int CANDIDATES> void gptq_apply(const GptqWorkspace &place, const float *factors, int64_t begin, F32x16 (&run)[kGptqRun][CANDIDATES]) {
  constexpr int COLUMNS = kGptqSums / CANDIDATES;
  for (int first = 0; first < kGptqRun; first += COLUMNS) {
    F32x16 sums[COLUMNS][CANDIDATES];
    for (int c = 0; c < COLUMNS; ++c)
      for (int k = 0; k < CANDIDATES; ++k) sums[c][k] = run[first + c][k];
    const float *factor = factors + first, *errors = place.errors;
    for (int64_t j = 0; j < begin; ++j, factor += kGptqRun, errors += CANDIDATES * 16) {
      F32x16 error[CANDIDATES];
#pragma GCC unroll 2
      for (int k = 0; k < CANDIDATES; ++k) error[k] = load(errors + k * 16);
#pragma GCC unroll 8
      for (int c = 0; c < COLUMNS; ++c)
#pragma GCC unroll 2
        for (int k = 0; k < CANDIDATES; ++k) sums[c][k] = sub(sums[c][k], mul(error[k], splat(factor[c])));
    }
    for (int c = 0; c < COLUMNS; ++c)
      for (int k = 0; k < CANDIDATES; ++k) run[first + c][k] = sums[c][k];
  }
}

inline bool any_less(F32x16 x, F32x16 y) { return largest(where_less(x, y, splat(1.0f), splat(0.0f))) > 0.0f; }

// Rounds all columns under the candidates' scales and zero points; losses go to the place. False as soon as no candidate can
// be better than `best` in any lane (null: nothing is known yet): losses only grow.
template <int CANDIDATES> bool gptq_columns(const GptqArguments &a, const GptqWorkspace &place, const F32x16 *best) {
  F32x16 scale[CANDIDATES], zero[CANDIDATES], loss[CANDIDATES];
  for (int k = 0; k < CANDIDATES; ++k) scale[k] = load(place.scales + k * 16), zero[k] = load(place.zero_points + k * 16), loss[k] = splat(0.0f);
  const F32x16 least = splat(a.minimum), most = splat(a.maximum);
  for (int64_t begin = 0; begin < a.width; begin += kGptqRun) {
    const int64_t count = a.width - begin < kGptqRun ? a.width - begin : kGptqRun;
    const float *factors = a.factors + begin * a.width;
    F32x16 run[kGptqRun][CANDIDATES];
    for (int64_t c = 0; c < kGptqRun; ++c)
      for (int k = 0; k < CANDIDATES; ++k) run[c][k] = c < count ? load(place.weights + (begin + c) * 16) : splat(0.0f);
    gptq_apply<CANDIDATES>(place, factors, begin, run);
    for (int64_t c = 0; c < count; ++c) {
      const int64_t column = begin + c;
      const F32x16 diagonal = splat(factors[column * kGptqRun + c]);
      F32x16 weight[CANDIDATES];
      for (int k = 0; k < CANDIDATES; ++k) weight[k] = run[c][k];
      for (int64_t j = begin; j < column; ++j) {
        const F32x16 factor = splat(factors[j * kGptqRun + c]);
        for (int k = 0; k < CANDIDATES; ++k) weight[k] = sub(weight[k], mul(load(place.errors + (j * CANDIDATES + k) * 16), factor));
      }
      for (int k = 0; k < CANDIDATES; ++k) {
        const F32x16 code = min(max(add(round_even(div(weight[k], scale[k])), zero[k]), least), most);
        const F32x16 error = div(sub(weight[k], mul(sub(code, zero[k]), scale[k])), diagonal);
        store(place.codes + (column * CANDIDATES + k) * 16, code);
        store(place.errors + (column * CANDIDATES + k) * 16, error);
        loss[k] = add(loss[k], mul(error, error));
      }
    }
    if (best) {
      bool hopeful = false;
      for (int k = 0; k < CANDIDATES; ++k) hopeful = hopeful || any_less(loss[k], *best);
      if (!hopeful) return false;
    }
  }
  for (int k = 0; k < CANDIDATES; ++k) store(place.losses + k * 16, loss[k]);
  return true;
}

// The min-max rule over a range of `ratio` times what the weights span, as the int_group format has it.
inline void gptq_scale(const GptqArguments &a, const float *lows, const float *highs, float ratio, float *scales, float *zero_points) {
  const float range = a.maximum - a.minimum;
  for (int lane = 0; lane < 16; ++lane) {
    const float low = lows[lane] * ratio, high = highs[lane] * ratio, size = -low > high ? -low : high;
    float scale = a.symmetric ? size / (range / 2.0f) : (high - low) / range;
    if (a.scale_type == CacheType::kFloat16) scale = float_of_half(half_of_float(scale));
    if (a.scale_type == CacheType::kBfloat16) scale = float_of_bfloat16(bfloat16_of_float(scale));
    if (scale < 0x1p-24f) scale = 1.0f; // the smallest float16: no stored scale may be zero
    float zero = 0.0f;
    if (!a.symmetric) {
      zero = __builtin_rintf(a.minimum - low / scale);
      zero = zero < a.minimum ? a.minimum : zero > a.maximum ? a.maximum : zero;
    }
    scales[lane] = scale, zero_points[lane] = zero;
  }
}

struct GptqBest {
  F32x16 loss, scale, zero_point;
};

// Tries ratios [first, first + CANDIDATES) and keeps, in each lane, what is better than `best`.
template <int CANDIDATES>
void gptq_try(const GptqArguments &a, const GptqWorkspace &place, const float *lows, const float *highs, int64_t first, GptqBest &best) {
  for (int k = 0; k < CANDIDATES; ++k) gptq_scale(a, lows, highs, a.ratios[first + k], place.scales + k * 16, place.zero_points + k * 16);
  if (!gptq_columns<CANDIDATES>(a, place, first ? &best.loss : nullptr)) return;
  for (int k = 0; k < CANDIDATES; ++k) {
    const F32x16 loss = load(place.losses + k * 16), scale = load(place.scales + k * 16), zero = load(place.zero_points + k * 16);
    const float *codes = place.codes + k * 16;
    if (first + k == 0) {
      best = {loss, scale, zero};
      for (int64_t i = 0; i < a.width; ++i) store(place.best_codes + i * 16, load(codes + i * CANDIDATES * 16));
      continue;
    }
    if (!any_less(loss, best.loss)) continue;
    for (int64_t i = 0; i < a.width; ++i)
      store(place.best_codes + i * 16, where_less(loss, best.loss, load(codes + i * CANDIDATES * 16), load(place.best_codes + i * 16)));
    best.scale = where_less(loss, best.loss, scale, best.scale);
    best.zero_point = where_less(loss, best.loss, zero, best.zero_point);
    best.loss = where_less(loss, best.loss, loss, best.loss);
  }
}

inline void gptq_sixteen_rows(const GptqArguments &a, const GptqWorkspace &place, int64_t row, int64_t rows) {
  for (int64_t i = 0; i < a.width; ++i)
    for (int64_t lane = 0; lane < 16; ++lane) place.weights[i * 16 + lane] = lane < rows ? a.weight[(row + lane) * a.weight_stride + i] : 0.0f;
  float losses[16];
  const float *codes = place.best_codes;
  if (a.num_ratios == 0) {
    for (int64_t lane = 0; lane < 16; ++lane) {
      place.scales[lane] = lane < rows ? a.scales[row + lane] : 1.0f;
      place.zero_points[lane] = lane < rows ? a.zero_points[row + lane] : 0.0f;
    }
    gptq_columns<1>(a, place, nullptr);
    codes = place.codes;
    store(losses, load(place.losses));
  } else {
    F32x16 low = splat(0.0f), high = splat(0.0f);
    for (int64_t i = 0; i < a.width; ++i) low = min(low, load(place.weights + i * 16)), high = max(high, load(place.weights + i * 16));
    float lows[16], highs[16], found[16];
    store(lows, low), store(highs, high);
    GptqBest best{};
    int64_t first = 0;
    for (; first + kGptqCandidates <= a.num_ratios; first += kGptqCandidates) gptq_try<kGptqCandidates>(a, place, lows, highs, first, best);
    for (; first < a.num_ratios; ++first) gptq_try<1>(a, place, lows, highs, first, best);
    store(found, best.scale);
    for (int64_t lane = 0; lane < rows; ++lane) a.scales[row + lane] = found[lane];
    store(found, best.zero_point);
    for (int64_t lane = 0; lane < rows; ++lane) a.zero_points[row + lane] = found[lane];
    store(losses, best.loss);
  }
  for (int64_t lane = 0; lane < rows; ++lane) {
    a.losses[row + lane] = losses[lane];
    for (int64_t i = 0; i < a.width; ++i) a.codes[(row + lane) * a.codes_stride + i] = static_cast<int8_t>(codes[i * 16 + lane]);
  }
}

inline void gptq_group(const GptqArguments &a, int64_t row_begin, int64_t row_end, float *workspace) {
  const GptqWorkspace place = gptq_place(a, workspace);
  for (int64_t row = row_begin; row < row_end; row += 16) gptq_sixteen_rows(a, place, row, row_end - row < 16 ? row_end - row : 16);
}
