#include "operations.h"

#include <algorithm>
#include <cstring>

#include "thread_pool.h"

namespace flyweight {
namespace {

constexpr int64_t kTogether = 8;         // elements that fill exactly `bits` bytes, and one 64-bit word when unpacked
constexpr int64_t kElementsPerTask = 1 << 18;

// Eight 4-bit elements: each half-byte to a byte of its own, then the offset of 8 taken away.
uint64_t spread_half_bytes(uint32_t packed) {
  uint64_t x = packed;
  x = (x | x << 16) & 0x0000FFFF0000FFFFull;
  x = (x | x << 8) & 0x00FF00FF00FF00FFull;
  x = ((x | x << 4) & 0x0F0F0F0F0F0F0F0Full) ^ 0x0808080808080808ull;
  return x | (x & 0x0808080808080808ull) * 0x1E;
}

uint64_t eight_elements(const uint8_t *from, int bits) {
  uint64_t packed = 0, result = 0;
  std::memcpy(&packed, from, static_cast<size_t>(bits));
  for (int i = 0; i < kTogether; ++i) {
    const uint64_t value = (packed >> (i * bits) & ((1u << bits) - 1)) - (1u << (bits - 1));
    result |= (value & 0xFF) << (8 * i);
  }
  return result;
}

void unpack_row(const uint8_t *packed, int bits, int64_t columns, int8_t *codes) {
  const int64_t whole = columns / kTogether * kTogether;
  int64_t at = 0;
  if (bits == 4)
    for (; at < whole; at += kTogether) {
      uint32_t word;
      std::memcpy(&word, packed + at / 2, 4);
      const uint64_t eight = spread_half_bytes(word);
      std::memcpy(codes + at, &eight, 8);
    }
  for (; at < whole; at += kTogether) {
    const uint64_t eight = eight_elements(packed + at / 8 * bits, bits);
    std::memcpy(codes + at, &eight, 8);
  }
  if (at == columns) return;
  // The last bytes of a row may be fewer than eight elements need: never read past them.
  uint8_t last[8] = {};
  std::memcpy(last, packed + at / 8 * bits, static_cast<size_t>(((columns - at) * bits + 7) / 8));
  const uint64_t eight = eight_elements(last, bits);
  std::memcpy(codes + at, &eight, static_cast<size_t>(columns - at));
}

} // namespace

void unpack_codes(const uint8_t *packed, int64_t row_bytes, int bits, int64_t rows, int64_t columns, int8_t *codes) {
  const int64_t step = std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(1, columns));
  parallel_for((rows + step - 1) / step, [&](int64_t task, int) {
    for (int64_t row = task * step; row < std::min(rows, (task + 1) * step); ++row)
      unpack_row(packed + row * row_bytes, bits, columns, codes + row * columns);
  });
}

} // namespace flyweight
