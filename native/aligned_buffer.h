// Memory on a cache-line boundary, of a size fixed at birth, zeros at first.
#pragma once

#include <cstddef>
#include <cstring>
#include <memory>
#include <new>

namespace flyweight {

class AlignedBuffer {
public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(size_t bytes)
      : bytes_(bytes), data_(bytes ? static_cast<std::byte *>(::operator new(bytes, std::align_val_t{64})) : nullptr) {
    if (bytes) std::memset(data_.get(), 0, bytes);
  }
  size_t size() const { return bytes_; }
  template <class T> T *as() { return reinterpret_cast<T *>(data_.get()); }
  template <class T> const T *as() const { return reinterpret_cast<const T *>(data_.get()); }

private:
  struct Release {
    void operator()(std::byte *p) const { ::operator delete(p, std::align_val_t{64}); }
  };
  size_t bytes_ = 0;
  std::unique_ptr<std::byte, Release> data_;
};

} // namespace flyweight
