// The column loop of GPTQ (arXiv:2210.17323, algorithm 1) inside one block of columns, sixteen rows side by side.
//
// A column is brought up to date when its turn comes: w_i -= err_0 U[0,i], then err_1 U[1,i], and so on. These are the
// very operations of the textbook loop, which updates all later columns after each one, in the same order for every
// weight; products and sums are rounded apart. So codes agree bit by bit with the twin, on every instruction set.

constexpr int64_t kColumnsAtOnce = 8; // columns whose updates from earlier errors run side by side

struct GptqWorkspace {
  float *weights, *errors; // width x 16 lanes
  float *scales, *zero_points; // num_groups x 16 lanes
};

inline int64_t gptq_workspace(const GptqArguments &a) { return (2 * a.width + 2 * a.num_groups) * 16; }

// Takes the errors of columns [from, to) out of columns [begin, end).
inline void apply_errors(const GptqArguments &a, const GptqWorkspace &place, int64_t from, int64_t to, int64_t begin, int64_t end) {
  for (int64_t column = begin; column < end; column += kColumnsAtOnce) {
    const int64_t count = end - column < kColumnsAtOnce ? end - column : kColumnsAtOnce;
    const float *factors = a.inverse_cholesky + column;
    if (count == kColumnsAtOnce) {
      F32x16 weights[kColumnsAtOnce];
      for (int64_t c = 0; c < kColumnsAtOnce; ++c) weights[c] = load(place.weights + (column + c) * 16);
      for (int64_t j = from; j < to; ++j) {
        const F32x16 error = load(place.errors + j * 16);
#pragma GCC unroll 8
        for (int64_t c = 0; c < kColumnsAtOnce; ++c) weights[c] = sub(weights[c], mul(error, splat(factors[j * a.width + c])));
      }
      for (int64_t c = 0; c < kColumnsAtOnce; ++c) store(place.weights + (column + c) * 16, weights[c]);
      continue;
    }
    for (int64_t c = 0; c < count; ++c) {
      F32x16 weight = load(place.weights + (column + c) * 16);
      for (int64_t j = from; j < to; ++j) weight = sub(weight, mul(load(place.errors + j * 16), splat(factors[j * a.width + c])));
      store(place.weights + (column + c) * 16, weight);
    }
  }
}

// The min-max rule on columns [begin, end) as they stand.
inline void choose_scales(const GptqArguments &a, const GptqWorkspace &place, int64_t begin, int64_t end, int64_t group) {
  F32x16 low = splat(0.0f), high = splat(0.0f);
  for (int64_t i = begin; i < end; ++i) {
    const F32x16 weight = load(place.weights + i * 16);
    low = min(low, weight), high = max(high, weight);
  }
  float lows[16], highs[16];
  store(lows, low), store(highs, high);
  for (int lane = 0; lane < 16; ++lane) {
    const float range = a.maximum - a.minimum, size = -lows[lane] > highs[lane] ? -lows[lane] : highs[lane];
    float scale = a.symmetric ? size / (range / 2.0f) : (highs[lane] - lows[lane]) / range;
    if (a.scale_type == CacheType::kFloat16) scale = float_of_half(half_of_float(scale));
    if (a.scale_type == CacheType::kBfloat16) scale = float_of_bfloat16(bfloat16_of_float(scale));
    if (scale < 0x1p-24f) scale = 1.0f; // the smallest float16: no stored scale may be zero
    float zero = 0.0f;
    if (!a.symmetric) {
      zero = __builtin_rintf(a.minimum - lows[lane] / scale);
      zero = zero < a.minimum ? a.minimum : zero > a.maximum ? a.maximum : zero;
    }
    place.scales[group * 16 + lane] = scale, place.zero_points[group * 16 + lane] = zero;
  }
}

inline F32x16 quantize_column(const GptqArguments &a, const GptqWorkspace &place, int64_t column, F32x16 weight, float *codes, F32x16 loss) {
  const F32x16 scale = load(place.scales + a.group_index[column] * 16), zero = load(place.zero_points + a.group_index[column] * 16);
  const F32x16 code = min(max(add(round_even(div(weight, scale)), zero), splat(a.minimum)), splat(a.maximum));
  const F32x16 difference = sub(weight, mul(sub(code, zero), scale));
  const F32x16 error = div(difference, splat(a.inverse_cholesky[column * a.width + column]));
  store(codes, code);
  store(place.errors + column * 16, error);
  return add(loss, mul(mul(error, error), splat(0.5f)));
}

inline void gptq_sixteen_rows(const GptqArguments &a, const GptqWorkspace &place, int64_t row, int64_t rows) {
  for (int64_t i = 0; i < a.width; ++i)
    for (int64_t lane = 0; lane < 16; ++lane) place.weights[i * 16 + lane] = lane < rows ? a.weight[(row + lane) * a.weight_stride + i] : 0.0f;
  for (int64_t g = 0; g < a.num_groups; ++g)
    for (int64_t lane = 0; lane < 16; ++lane) {
      const bool given = lane < rows && !a.recompute;
      place.scales[g * 16 + lane] = given ? a.scales[(row + lane) * a.num_groups + g] : 1.0f;
      place.zero_points[g * 16 + lane] = given ? a.zero_points[(row + lane) * a.num_groups + g] : 0.0f;
    }
  F32x16 loss = splat(0.0f);
  int64_t begin = 0;
  while (begin < a.width) {
    int64_t end = a.width, seen = 0; // errors of the columns before `seen` are already in the run's columns
    if (a.recompute) {
      end = begin + 1;
      while (end < a.width && a.group_index[end] == a.group_index[begin]) ++end;
      apply_errors(a, place, 0, begin, begin, end);
      choose_scales(a, place, begin, end, a.group_index[begin]);
      seen = begin;
    }
    for (int64_t column = begin; column < end; column += kColumnsAtOnce) {
      const int64_t last = column + kColumnsAtOnce < end ? column + kColumnsAtOnce : end;
      apply_errors(a, place, seen, column, column, last);
      for (int64_t i = column; i < last; ++i) {
        F32x16 weight = load(place.weights + i * 16);
        for (int64_t j = column; j < i; ++j) weight = sub(weight, mul(load(place.errors + j * 16), splat(a.inverse_cholesky[j * a.width + i])));
        store(place.weights + i * 16, weight);
        float codes[16];
        loss = quantize_column(a, place, i, weight, codes, loss);
        for (int64_t lane = 0; lane < rows; ++lane) a.codes[(row + lane) * a.width + i] = static_cast<int8_t>(codes[lane]);
      }
    }
    begin = end;
  }
  float losses[16];
  store(losses, loss);
  for (int64_t lane = 0; lane < rows; ++lane) {
    a.losses[row + lane] = losses[lane];
    for (int64_t i = 0; i < a.width; ++i) {
      a.weight[(row + lane) * a.weight_stride + i] = place.weights[i * 16 + lane];
      a.errors[(row + lane) * a.width + i] = place.errors[i * 16 + lane];
    }
    if (a.recompute)
      for (int64_t g = 0; g < a.num_groups; ++g) {
        a.scales[(row + lane) * a.num_groups + g] = place.scales[g * 16 + lane];
        a.zero_points[(row + lane) * a.num_groups + g] = place.zero_points[g * 16 + lane];
      }
  }
}

inline void gptq_block(const GptqArguments &a, int64_t row_begin, int64_t row_end, float *workspace) {
  const GptqWorkspace place{workspace, workspace + a.width * 16, workspace + 2 * a.width * 16, workspace + (2 * a.width + a.num_groups) * 16};
  for (int64_t row = row_begin; row < row_end; row += 16) gptq_sixteen_rows(a, place, row, row_end - row < 16 ? row_end - row : 16);
}
