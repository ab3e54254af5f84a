// The register tiles of attention for codes: attention_tiles.inl says how they run.
//
// Inputs are 16-bit whole numbers in two int8 parts, 256 * high + low, one row after the other: the
// products are exact, so that every instruction set finds the same numbers.
constexpr int kCodeRows = kAttendRows > 1 ? kAttendRows / 2 : 1;

FLYWEIGHT_INLINE F32x16 join_parts(I32x16 high, I32x16 low) { return fma(to_float(high), splat(256.0f), to_float(low)); }

template <int ROWS> FLYWEIGHT_INLINE void add_quads(I32x16 (&dots)[2 * ROWS][kAttendVectors], const U8x64 (&codes)[kAttendVectors], const int8_t *x, int64_t x_stride, bool small) {
#pragma GCC unroll 4
  for (int r = 0; r < 2 * ROWS; ++r) {
    const QuadInput input = load_quad(x + r * x_stride);
#pragma GCC unroll 4
    for (int p = 0; p < kAttendVectors; ++p) dots[r][p] = small ? dot_small_quads(dots[r][p], codes[p], input) : dot_quads(dots[r][p], codes[p], input);
  }
}

// group_sums: of the whole numbers of each group of 32, row r at r * key_groups; x_scales: what one step of a row's numbers is.
template <bool SMALL, int ROWS>
FLYWEIGHT_INLINE void score_codes(const CacheLayout &layout, const CacheUnits &units, const int8_t *x, const float *group_sums,
                                  const float *x_scales, float *scores) {
  constexpr int64_t kStep = SMALL ? 8 : 4;
  for (int64_t first = 0; first < 2 * units.count; first += kAttendVectors) {
    F32x16 tile[ROWS][kAttendVectors];
    const uint8_t *panel[kAttendVectors], *next[kAttendVectors], *scale[kAttendVectors];
    for (int p = 0; p < kAttendVectors; ++p) {
      const int64_t vector = first + p, within = vector % 2 * layout.panel_bytes;
      panel[p] = units.unit[vector / 2] + within, next[p] = units.next[vector / 2] ? units.next[vector / 2] + within : nullptr;
      scale[p] = units.unit[vector / 2] + layout.key_scales + vector % 2 * layout.key_groups * 64;
      for (int r = 0; r < ROWS; ++r) tile[r][p] = splat(0.0f);
    }
    for (int64_t group = 0; group < layout.key_groups; ++group) {
      I32x16 dots[2 * ROWS][kAttendVectors];
      for (int p = 0; p < kAttendVectors; ++p)
        for (int r = 0; r < 2 * ROWS; ++r) dots[r][p] = splat_integer(0);
      const int64_t begin = group * kKeyGroup, end = begin + kKeyGroup < layout.padded_dim ? begin + kKeyGroup : layout.padded_dim;
      for (int64_t d = begin; d < end; d += kStep) {
        U8x64 codes[kAttendVectors];
#pragma GCC unroll 4
        for (int p = 0; p < kAttendVectors; ++p) {
          codes[p] = load_bytes(panel[p] + d / kStep * 64);
          if (next[0]) __builtin_prefetch(next[p] + d / kStep * 64, 0, 2);
        }
        if constexpr (SMALL) {
          U8x64 part[kAttendVectors];
#pragma GCC unroll 4
          for (int p = 0; p < kAttendVectors; ++p) part[p] = low_halves(codes[p]);
          add_quads<ROWS>(dots, part, x + d, layout.padded_dim, true);
#pragma GCC unroll 4
          for (int p = 0; p < kAttendVectors; ++p) part[p] = high_halves(codes[p]);
          add_quads<ROWS>(dots, part, x + d + 4, layout.padded_dim, true);
        } else {
          add_quads<ROWS>(dots, codes, x + d, layout.padded_dim, false);
        }
      }
      for (int p = 0; p < kAttendVectors; ++p) {
        const uint16_t *scales = reinterpret_cast<const uint16_t *>(scale[p] + group * 64);
        const F32x16 step = load_bfloat16(scales), offset = load_bfloat16(scales + 16);
        for (int r = 0; r < ROWS; ++r) {
          tile[r][p] = fma(join_parts(dots[2 * r][p], dots[2 * r + 1][p]), step, tile[r][p]);
          tile[r][p] = fma(offset, splat(group_sums[r * layout.key_groups + group]), tile[r][p]);
        }
      }
    }
    for (int r = 0; r < ROWS; ++r)
      for (int p = 0; p < kAttendVectors; ++p) store(scores + r * kKeyTile + (first + p) * 16, mul(tile[r][p], splat(x_scales[r])));
  }
}

// sums[row] += scales[row] * (whole-number weights times codes) + offsets[row]; the two parts of row r's weights at 2 * r * kKeyTile.
template <bool SMALL, int ROWS>
FLYWEIGHT_INLINE void value_codes(const CacheLayout &layout, const CacheUnits &units, const int8_t *weights, const float *scales,
                                  const float *offsets, float *sums) {
  constexpr int64_t kStep = SMALL ? 8 : 4;
  const int64_t step_bytes = layout.padded_dim * 4;
  for (int64_t column = 0; column < layout.padded_dim; column += 16 * kAttendVectors) {
    I32x16 dots[2 * ROWS][kAttendVectors];
    int64_t lane[kAttendVectors]; // a strip that is too wide computes its last vector several times
    for (int p = 0; p < kAttendVectors; ++p) {
      lane[p] = column + 16 * p < layout.padded_dim ? column + 16 * p : layout.padded_dim - 16;
      for (int r = 0; r < 2 * ROWS; ++r) dots[r][p] = splat_integer(0);
    }
    for (int64_t u = 0; u < units.count; ++u) {
      const uint8_t *step = units.unit[u] + layout.values, *next = units.next[u] ? units.next[u] + layout.values : nullptr;
      const int8_t *x = weights + u * kCacheUnit;
      for (int64_t k = 0; k < kCacheUnit; k += kStep, step += step_bytes) {
        U8x64 codes[kAttendVectors];
#pragma GCC unroll 4
        for (int p = 0; p < kAttendVectors; ++p) {
          codes[p] = load_bytes(step + lane[p] * 4);
          if (next) __builtin_prefetch(next + k / kStep * step_bytes + lane[p] * 4, 0, 2);
        }
        if constexpr (SMALL) {
          U8x64 part[kAttendVectors];
#pragma GCC unroll 4
          for (int p = 0; p < kAttendVectors; ++p) part[p] = low_halves(codes[p]);
          add_quads<ROWS>(dots, part, x + k, kKeyTile, true);
#pragma GCC unroll 4
          for (int p = 0; p < kAttendVectors; ++p) part[p] = high_halves(codes[p]);
          add_quads<ROWS>(dots, part, x + k + 4, kKeyTile, true);
        } else {
          add_quads<ROWS>(dots, codes, x + k, kKeyTile, false);
        }
      }
    }
    for (int p = 0; p < kAttendVectors && column + 16 * p < layout.padded_dim; ++p)
      for (int r = 0; r < ROWS; ++r) {
        float *sum = sums + r * layout.padded_dim + column + 16 * p;
        store(sum, add(load(sum), fma(join_parts(dots[2 * r][p], dots[2 * r + 1][p]), splat(scales[r]), splat(offsets[r]))));
      }
  }
}
