// Norm, rotary positions, gated activations and addition, row by row.

// x / rms(x) * (weight + weight_offset)
inline void rms_norm(const float *x, const float *weight, float *out, int64_t width, float epsilon, float weight_offset,
                     int64_t row_begin, int64_t row_end) {
  const F32x16 offset = splat(weight_offset);
  for (int64_t row = row_begin; row < row_end; ++row) {
    const float *from = x + row * width;
    float *to = out + row * width;
    F32x16 squares = splat(0.0f);
    for (int64_t i = 0; i < width; i += 16) {
      const F32x16 values = width - i >= 16 ? load(from + i) : load_first(from + i, width - i);
      squares = fma(values, values, squares);
    }
    const F32x16 factor = splat(1.0f / std::sqrt(sum(squares) / static_cast<float>(width) + epsilon));
    for (int64_t i = 0; i < width; i += 16) {
      const int64_t left = width - i;
      if (left >= 16) store(to + i, mul(mul(load(from + i), factor), add(load(weight + i), offset)));
      else store_first(to + i, mul(mul(load_first(from + i, left), factor), add(load_first(weight + i, left), offset)), left);
    }
  }
}

// Rotates dimension i with dimension i + rotary_dim / 2 of every head; the dimensions from rotary_dim on are copied.
inline void rope(const float *x, const float *cosine, const float *sine, float *out, int64_t num_heads, int64_t head_dim,
                 int64_t rotary_dim, int64_t row_begin, int64_t row_end) {
  const int64_t half = rotary_dim / 2;
  for (int64_t row = row_begin; row < row_end; ++row)
    for (int64_t head = 0; head < num_heads; ++head) {
      const float *from = x + (row * num_heads + head) * head_dim;
      float *to = out + (row * num_heads + head) * head_dim;
      for (int64_t i = 0; i < half; i += 16) {
        const int64_t left = half - i < 16 ? half - i : 16;
        const F32x16 first = load_first(from + i, left), second = load_first(from + half + i, left);
        const F32x16 c = load_first(cosine + row * half + i, left), s = load_first(sine + row * half + i, left);
        store_first(to + i, sub(mul(first, c), mul(second, s)), left);
        store_first(to + half + i, add(mul(second, c), mul(first, s)), left);
      }
      if (to != from)
        for (int64_t i = rotary_dim; i < head_dim; ++i) to[i] = from[i];
    }
}

template <F32x16 (*FUNCTION)(F32x16)>
void act_mul_with(const float *gate_up, float *out, int64_t out_stride, int64_t width, int64_t row_begin, int64_t row_end) {
  for (int64_t row = row_begin; row < row_end; ++row) {
    const float *gate = gate_up + row * 2 * width, *up = gate + width;
    float *to = out + row * out_stride;
    for (int64_t i = 0; i < width; i += 16) {
      const int64_t left = width - i < 16 ? width - i : 16;
      store_first(to + i, mul(FUNCTION(load_first(gate + i, left)), load_first(up + i, left)), left);
    }
  }
}

inline void act_mul(const float *gate_up, float *out, int64_t out_stride, int64_t width, Activation activation, int64_t row_begin, int64_t row_end) {
  switch (activation) {
  case Activation::kSilu: return act_mul_with<silu>(gate_up, out, out_stride, width, row_begin, row_end);
  case Activation::kGeluTanh: return act_mul_with<gelu_tanh>(gate_up, out, out_stride, width, row_begin, row_end);
  case Activation::kGelu: return act_mul_with<gelu>(gate_up, out, out_stride, width, row_begin, row_end);
  }
}

// The product is rounded before the sum, on every instruction set.
inline void add_scaled(const float *x, const float *y, float *out, float alpha, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i += 16) {
    const int64_t left = end - i < 16 ? end - i : 16;
    store_first(out + i, add(load_first(x + i, left), mul(splat(alpha), load_first(y + i, left))), left);
  }
}

inline void cap(const float *x, float *out, float scale, float softcap, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i += 16) {
    const int64_t left = end - i < 16 ? end - i : 16;
    F32x16 values = mul(splat(scale), load_first(x + i, left));
    if (softcap > 0.0f) values = mul(splat(softcap), hyperbolic_tangent(div(values, splat(softcap))));
    store_first(out + i, values, left);
  }
}
