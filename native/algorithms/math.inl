// Elementary functions, sixteen at a time.

// e to the x, within 2 units in the last place; 0 below -87.3 and for minus infinity, the largest power at 88.3 and above.
FLYWEIGHT_INLINE F32x16 exponential(F32x16 x) {
  const F32x16 lowest = splat(-87.336544f);
  const F32x16 clamped = max(lowest, min(splat(88.02f), x)); // in this order a NaN goes through
  const F32x16 whole = round_even(mul(clamped, splat(1.44269504f)));
  // ln 2 in two parts, so that the remainder keeps its bits.
  F32x16 rest = fma(whole, splat(-0.693359375f), clamped);
  rest = fma(whole, splat(2.12194440e-4f), rest);
  F32x16 polynomial = splat(1.9875691500e-4f);
  polynomial = fma(polynomial, rest, splat(1.3981999507e-3f));
  polynomial = fma(polynomial, rest, splat(8.3334519073e-3f));
  polynomial = fma(polynomial, rest, splat(4.1665795894e-2f));
  polynomial = fma(polynomial, rest, splat(1.6666665459e-1f));
  polynomial = fma(polynomial, rest, splat(5.0000001201e-1f));
  polynomial = fma(polynomial, mul(rest, rest), add(rest, splat(1.0f)));
  return where_less(x, lowest, splat(0.0f), mul(polynomial, power_of_two(whole)));
}

// e to the power of x - top, times 2 to the power of bits, rounded to whole numbers, for x up to top: within 3e-6 of itself before it is
// rounded. NaN gives 0. Two vectors in step keep more of the processor's pipes busy than one after the other.
FLYWEIGHT_INLINE void round_powers_of_two(F32x16 x, F32x16 y, float top, float bits, I32x16 (&whole)[2]) {
  const F32x16 shift = splat(12582912.0f); // adding 3 * 2^22 leaves the nearest whole number in the lowest bits
  F32x16 power[2] = {sub(x, splat(top)), sub(y, splat(top))}, shifted[2], rest[2], polynomial[2];
  for (int i = 0; i < 2; ++i) power[i] = max(fma(power[i], splat(1.44269504f), splat(bits)), splat(-2.0f)); // in this order NaN becomes -2
  for (int i = 0; i < 2; ++i) shifted[i] = add(power[i], shift);
  for (int i = 0; i < 2; ++i) rest[i] = sub(power[i], sub(shifted[i], shift));
  for (int i = 0; i < 2; ++i) polynomial[i] = fma(splat(9.5701022e-3f), rest[i], splat(5.5917863e-2f));
  for (int i = 0; i < 2; ++i) polynomial[i] = fma(polynomial[i], rest[i], splat(2.4024744e-1f));
  for (int i = 0; i < 2; ++i) polynomial[i] = fma(polynomial[i], rest[i], splat(6.9312179e-1f));
  for (int i = 0; i < 2; ++i) polynomial[i] = fma(polynomial[i], rest[i], splat(9.9999928e-1f));
  for (int i = 0; i < 2; ++i) whole[i] = to_integer(scale_by_power(polynomial[i], shifted[i]));
}

// Near zero by a polynomial in the square, elsewhere through the exponential; odd, so computed on the magnitude.
FLYWEIGHT_INLINE F32x16 hyperbolic_tangent(F32x16 x) {
  const F32x16 size = abs(x), square = mul(x, x);
  F32x16 small = splat(-5.70498872745e-3f);
  small = fma(small, square, splat(2.06390887954e-2f));
  small = fma(small, square, splat(-5.37397155531e-2f));
  small = fma(small, square, splat(1.33314422036e-1f));
  small = fma(small, square, splat(-3.33332819422e-1f));
  small = fma(mul(small, square), x, x);
  const F32x16 large = sub(splat(1.0f), div(splat(2.0f), add(exponential(add(size, size)), splat(1.0f))));
  const F32x16 signed_large = where_less(x, splat(0.0f), sub(splat(0.0f), large), large);
  return where_less(size, splat(0.625f), small, signed_large);
}

FLYWEIGHT_INLINE F32x16 silu(F32x16 x) { return div(x, add(splat(1.0f), exponential(sub(splat(0.0f), x)))); }

FLYWEIGHT_INLINE F32x16 gelu_tanh(F32x16 x) {
  const F32x16 cubic = fma(mul(mul(x, x), x), splat(0.044715f), x);
  return mul(mul(splat(0.5f), x), add(splat(1.0f), hyperbolic_tangent(mul(splat(0.7978845608f), cubic))));
}

// Through the library's error function: no served architecture has it on a hot path.
FLYWEIGHT_INLINE F32x16 gelu(F32x16 x) {
  float lanes[16];
  store(lanes, x);
  for (float &value : lanes) value = 0.5f * value * (1.0f + std::erf(value * 0.70710678f));
  return load(lanes);
}
