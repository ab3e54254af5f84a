// Memory on a cache-line boundary, of a size fixed at birth, zeros at first; large ones on huge pages where the system has them.
#pragma once

#include <cstddef>
#include <cstring>
#include <memory>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace flyweight {

struct AlignedRelease {
  std::align_val_t boundary{64};
  void operator()(std::byte *p) const { ::operator delete(p, boundary); }
};

class AlignedBuffer {
public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(size_t bytes) : bytes_(bytes) {
    if (bytes == 0) return;
    const std::align_val_t boundary{bytes >= 2 * kHugePage ? kHugePage : 64};
    data_ = std::unique_ptr<std::byte, AlignedRelease>(static_cast<std::byte *>(::operator new(bytes, boundary)), AlignedRelease{boundary});
#if defined(__linux__)
    // Weights are read from end to end: with pages of 4 KiB the translation of addresses would be looked up all the time.
    if (bytes >= 2 * kHugePage) madvise(data_.get(), bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
    std::memset(data_.get(), 0, bytes);
  }
  size_t size() const { return bytes_; }
  template <class T> T *as() { return reinterpret_cast<T *>(data_.get()); }
  template <class T> const T *as() const { return reinterpret_cast<const T *>(data_.get()); }

private:
  static constexpr size_t kHugePage = size_t{2} << 20;
  size_t bytes_ = 0;
  std::unique_ptr<std::byte, AlignedRelease> data_;
};

} // namespace flyweight
