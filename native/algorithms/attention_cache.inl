// Writing keys and values into the cache; cache_layout.h says where each number lies.

// The largest bfloat16 not above x, and the smallest not below x >= 0.
FLYWEIGHT_INLINE uint16_t bfloat16_below(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  return static_cast<uint16_t>((x < 0.0f ? bits + 0xffffu : bits) >> 16);
}
FLYWEIGHT_INLINE uint16_t bfloat16_above(float x) { return static_cast<uint16_t>((std::bit_cast<uint32_t>(x) + 0xffffu) >> 16); }

// How numbers become codes: x is near offset + scale * code.
struct CodeScale {
  uint16_t scale_bits, offset_bits;
  float offset, inverse;
};

// Lanes beyond the n first repeat lane 0.
FLYWEIGHT_INLINE F32x16 load_repeated(const float *p, int64_t n) {
  if (n >= 16) return load(p);
  float lanes[16];
  for (int64_t i = 0; i < 16; ++i) lanes[i] = p[i < n ? i : 0];
  return load(lanes);
}

// Fits `steps` + 1 codes to count numbers. Where one is not finite scale and offset are NaN, so that no reader overlooks it; where
// all are (almost) one number the scale is zero.
FLYWEIGHT_INLINE CodeScale fit_codes(const float *x, int64_t count, float steps) {
  F32x16 most = load_repeated(x, count), least = most, alarm = splat(0.0f);
  for (int64_t i = 0; i < count; i += 16) {
    const F32x16 values = load_repeated(x + i, count - i);
    most = max(most, values), least = min(least, values), alarm = add(alarm, sub(values, values));
  }
  if (!(sum(alarm) == 0.0f)) return {0x7fc0, 0x7fc0, 0.0f, 0.0f};
  CodeScale fitted{};
  fitted.offset_bits = bfloat16_below(-largest(sub(splat(0.0f), least)));
  fitted.offset = float_of_bfloat16(fitted.offset_bits);
  const float scale = (largest(most) - fitted.offset) / steps;
  if (!(scale > 1e-30f)) return fitted;
  fitted.scale_bits = bfloat16_above(scale);
  fitted.inverse = 1.0f / float_of_bfloat16(fitted.scale_bits);
  return fitted;
}

// Writes codes for whole vectors: those beyond count are not defined.
FLYWEIGHT_INLINE void make_codes(const CodeScale &fitted, const float *x, int64_t count, float steps, uint8_t *codes) {
  for (int64_t i = 0; i < count; i += 16) {
    const F32x16 wanted = round_even(mul(sub(load_repeated(x + i, count - i), splat(fitted.offset)), splat(fitted.inverse)));
    store_int8(reinterpret_cast<int8_t *>(codes + i), sub(min(max(wanted, splat(0.0f)), splat(steps)), splat(128.0f)));
    for (int64_t j = i; j < i + 16; ++j) codes[j] ^= 0x80u;
  }
}

FLYWEIGHT_INLINE uint16_t narrow(CacheType type, float x) { return type == CacheType::kFloat16 ? half_of_float(x) : bfloat16_of_float(x); }

FLYWEIGHT_INLINE void write_key(const CacheLayout &layout, const float *k, uint8_t *unit, int64_t token) {
  const int64_t panel = token / 16, lane = token % 16;
  uint8_t *to = unit + panel * layout.panel_bytes;
  if (layout.type == CacheType::kFloat32) {
    for (int64_t d = 0; d < layout.head_dim; ++d) __builtin_memcpy(to + d * 64 + lane * 4, k + d, 4);
  } else if (!is_integer(layout.type)) {
    const int64_t pair = layout.type == CacheType::kBfloat16 ? 2 : 1;
    for (int64_t d = 0; d < layout.head_dim; ++d) {
      const uint16_t half = narrow(layout.type, k[d]);
      __builtin_memcpy(to + (d / pair * 16 + lane) * pair * 2 + d % pair * 2, &half, 2);
    }
  } else {
    const bool four_bits = layout.type == CacheType::kInt4;
    const float steps = four_bits ? 15.0f : 255.0f;
    for (int64_t group = 0; group < layout.key_groups; ++group) {
      const int64_t begin = group * kKeyGroup, left = layout.head_dim - begin, count = left < kKeyGroup ? left : kKeyGroup;
      const CodeScale fitted = fit_codes(k + begin, count, steps);
      uint8_t *scales = unit + layout.key_scales + (panel * layout.key_groups + group) * 64 + lane * 2;
      __builtin_memcpy(scales, &fitted.scale_bits, 2);
      __builtin_memcpy(scales + 32, &fitted.offset_bits, 2);
      uint8_t codes[kKeyGroup] = {};
      make_codes(fitted, k + begin, count, steps, codes);
      for (int64_t d = 0; d < count; d += four_bits ? 8 : 4) {
        uint32_t word, upper = 0;
        __builtin_memcpy(&word, codes + d, 4);
        if (four_bits) __builtin_memcpy(&upper, codes + d + 4, 4);
        word |= upper << 4;
        __builtin_memcpy(to + (begin + d) / (four_bits ? 8 : 4) * 64 + lane * 4, &word, 4);
      }
    }
  }
}

FLYWEIGHT_INLINE void write_value(const CacheLayout &layout, const float *v, uint8_t *unit, int64_t token) {
  uint8_t *to = unit + layout.values;
  if (layout.type == CacheType::kFloat32) {
    __builtin_memcpy(to + token * layout.padded_dim * 4, v, static_cast<size_t>(layout.head_dim) * 4);
  } else if (!is_integer(layout.type)) {
    const int64_t pair = layout.type == CacheType::kBfloat16 ? 2 : 1;
    for (int64_t d = 0; d < layout.head_dim; ++d) {
      const uint16_t half = narrow(layout.type, v[d]);
      __builtin_memcpy(to + ((token / pair * layout.padded_dim + d) * pair + token % pair) * 2, &half, 2);
    }
  } else {
    const bool four_bits = layout.type == CacheType::kInt4;
    const float steps = four_bits ? 15.0f : 255.0f;
    const CodeScale fitted = fit_codes(v, layout.head_dim, steps);
    __builtin_memcpy(unit + layout.value_scales + token * 2, &fitted.scale_bits, 2);
    __builtin_memcpy(unit + layout.value_scales + 64 + token * 2, &fitted.offset_bits, 2);
    const int64_t step = four_bits ? 8 : 4;
    const uint32_t shift = token % step >= 4 ? 4u : 0u, kept = four_bits ? 0xf0u >> shift : 0u;
    for (int64_t begin = 0; begin < layout.head_dim; begin += 16) {
      uint8_t codes[16];
      const int64_t count = layout.head_dim - begin < 16 ? layout.head_dim - begin : 16;
      make_codes(fitted, v + begin, count, steps, codes);
      uint8_t *bytes = to + (token / step * layout.padded_dim + begin) * 4 + token % 4;
      for (int64_t d = 0; d < count; ++d) bytes[4 * d] = static_cast<uint8_t>((bytes[4 * d] & kept) | (codes[d] << shift));
    }
  }
}

// One caller per head: neighbouring tokens share bytes and cache lines.
inline void cache_write(const CacheLayout &layout, const float *k, const float *v, uint8_t *cache, const int64_t *slots, int64_t tokens,
                        int64_t head_begin, int64_t head_end) {
  for (int64_t head = head_begin; head < head_end; ++head) {
    // The first token of a unit begins it anew: what an earlier owner left (it may be NaN) must not be multiplied by zero.
    for (int64_t token = 0; token < tokens; ++token)
      if (slots[token] % kCacheUnit == 0) __builtin_memset(cache + layout.unit(slots[token], head), 0, static_cast<size_t>(layout.unit_bytes));
    for (int64_t token = 0; token < tokens; ++token) {
      const int64_t at = (token * layout.num_kv_heads + head) * layout.head_dim;
      uint8_t *unit = cache + layout.unit(slots[token], head);
      write_key(layout, k + at, unit, slots[token] % kCacheUnit);
      write_value(layout, v + at, unit, slots[token] % kCacheUnit);
    }
  }
}
