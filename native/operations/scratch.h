// What every operation shares: room for its scratch and the cutting of items into ranges for the thread pool.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "aligned_buffer.h"
#include "thread_pool.h"

namespace flyweight {

// Below this many multiplications (or touched numbers) waking another thread costs more than it brings.
inline constexpr int64_t kSerialWork = 1 << 17;

inline int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return ceil_divide(a, b) * b; }

// Scratch of the calling thread, kept from call to call; the pool's threads get slices of it.
class Arena {
public:
  explicit Arena(int64_t bytes) {
    if (static_cast<int64_t>(buffer().size()) < bytes) buffer() = AlignedBuffer(static_cast<size_t>(bytes + bytes / 4));
    next_ = buffer().as<std::byte>();
  }
  template <class T> T *take(int64_t count) {
    T *start = reinterpret_cast<T *>(next_);
    next_ += round_up(count * static_cast<int64_t>(sizeof(T)), 64);
    return start;
  }

private:
  static AlignedBuffer &buffer() {
    static thread_local AlignedBuffer kept;
    return kept;
  }
  std::byte *next_;
};

// Splits `count` items into ranges and runs them; work_per_item decides whether other threads are woken at all.
template <class Function> void over_ranges(int64_t count, int64_t work_per_item, int64_t granule, Function &&function) {
  const int64_t threads = count * work_per_item < kSerialWork ? 1 : thread_count();
  const int64_t length = std::max(granule, round_up(ceil_divide(count, threads * 4), granule));
  if (threads == 1) return function(int64_t{0}, count, 0);
  parallel_for(ceil_divide(count, length), [&](int64_t task, int worker) { function(task * length, std::min(count, (task + 1) * length), worker); });
}

} // namespace flyweight
