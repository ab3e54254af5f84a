// Integer codes and their scales as they lie in a panel; PackedWeight in kernel_table.h says how.

// Sixteen scales, one for each output of a panel; `at` counts them from the first of the weight.
FLYWEIGHT_INLINE F32x16 load_scales(const PackedWeight &w, int64_t at) {
  if (w.scale_storage == Storage::kFloat32) return load(static_cast<const float *>(w.scales) + at);
  const uint16_t *halves = static_cast<const uint16_t *>(w.scales) + at;
  return w.scale_storage == Storage::kBfloat16 ? load_bfloat16(halves) : load_float16(halves);
}
FLYWEIGHT_INLINE F32x16 load_zero_points(const PackedWeight &w, int64_t at) { return load_bfloat16(w.zero_points + at); }

// The values of eight inputs, one a byte: `low` those of the first four, `high` of the others. A step of six bits holds two
// EIGHTS, every other step one.
template <Storage STORAGE, int EIGHT = 0> FLYWEIGHT_INLINE void load_codes(const uint8_t *step, U8x64 &low, U8x64 &high) {
  const U8x64 bytes = load_bytes(step + 64 * EIGHT);
  if constexpr (STORAGE == Storage::kUint8) {
    low = bytes, high = load_bytes(step + 64);
  } else {
    low = low_halves(bytes), high = high_halves(bytes);
  }
  if constexpr (STORAGE == Storage::kUint6) {
    const U8x64 upper = load_bytes(step + 128);
    low = either(low, upper_bits<2 * EIGHT>(upper)), high = either(high, upper_bits<2 * EIGHT + 1>(upper));
  }
}
