// Weights to integer codes, to nearest: scales and zero points of the int_group format from the range of each group. Every
// operation is the twin's, rounded to float32 on its own, so that codes and scales are the same on every instruction set.

constexpr float kSmallestScale = 0x1p-24f; // the smallest float16 above zero; below it a scale becomes 1

// Sixteen weights from `at` on; beyond `count` zeros.
FLYWEIGHT_INLINE F32x16 load_weights(const RoundingArguments &a, int64_t at, int64_t count) {
  if (a.source == Storage::kFloat32) {
    const float *from = static_cast<const float *>(a.weight) + at;
    return count >= 16 ? load(from) : load_first(from, count);
  }
  const uint16_t *from = static_cast<const uint16_t *>(a.weight) + at;
  uint16_t few[16] = {};
  if (count < 16) {
    __builtin_memcpy(few, from, static_cast<size_t>(count) * 2);
    from = few;
  }
  return a.source == Storage::kBfloat16 ? load_bfloat16(from) : load_float16(from);
}

// The scale as it is stored, and the float that it stands for.
inline float put_scale(const RoundingArguments &a, int64_t at, float scale) {
  const bool small = a.scale_storage == Storage::kFloat16;
  const uint16_t half = small ? half_of_float(scale) : bfloat16_of_float(scale);
  if (a.scale_storage != Storage::kFloat32) scale = small ? float_of_half(half) : float_of_bfloat16(half);
  const bool is_zero = scale < kSmallestScale;
  if (is_zero) scale = 1.0f;
  if (a.scale_storage == Storage::kFloat32) static_cast<float *>(a.scales)[at] = scale;
  else static_cast<uint16_t *>(a.scales)[at] = !is_zero ? half : small ? half_of_float(1.0f) : bfloat16_of_float(1.0f);
  return scale;
}

inline float within(float value, float low, float high) { return value < low ? low : value > high ? high : value; }

inline void round_group(const RoundingArguments &a, int64_t first, int64_t at) {
  // `poison` is NaN as soon as one weight is NaN or infinite: no maximum shall hide it.
  F32x16 largest_up = splat(0.0f), largest_down = splat(0.0f), poison = splat(0.0f);
  for (int64_t i = 0; i < a.group; i += 16) {
    const F32x16 weights = load_weights(a, first + i, a.group - i);
    largest_up = max(largest_up, weights), largest_down = max(largest_down, sub(splat(0.0f), weights));
    poison = add(poison, mul(weights, splat(0.0f)));
  }
  const float high = largest(largest_up), low = -largest(largest_down), span = a.maximum - a.minimum, unknown = sum(poison);
  const float range = a.symmetric ? (high > -low ? high : -low) / (span / 2.0f) : (high - low) / span;
  const float scale = put_scale(a, at, range + unknown);
  float zero = 0.0f;
  if (!a.symmetric) {
    zero = within(std::nearbyintf(a.minimum - low / scale), a.minimum, a.maximum);
    a.zero_points[at] = std::isnan(zero) ? int8_t{0} : static_cast<int8_t>(zero);
  }
  for (int64_t i = 0; i < a.group; i += 16) {
    F32x16 codes = add(round_even(div(load_weights(a, first + i, a.group - i), splat(scale))), splat(zero));
    codes = min(max(codes, splat(a.minimum)), splat(a.maximum));
    if (a.group - i >= 16) {
      store_int8(a.codes + first + i, codes);
      continue;
    }
    int8_t few[16];
    store_int8(few, codes);
    __builtin_memcpy(a.codes + first + i, few, static_cast<size_t>(a.group - i));
  }
}

inline void round_weights(const RoundingArguments &a, int64_t row_begin, int64_t row_end) {
  const int64_t groups = a.width / a.group;
  for (int64_t at = row_begin * groups; at < row_end * groups; ++at) round_group(a, at * a.group, at);
}
