// A weight packed for the kernels, in memory of its own or somebody else's: the same image serves every instruction set.
#pragma once

#include <array>

#include "aligned_buffer.h"
#include "kernel_table.h"

namespace flyweight {

// Of what PackedWeight's comment and pack_*() in linear_handle.cpp say. Raise it with every change of what packed bytes mean or
// how many there are: images on disk are kept under this number, and those of another are packed again.
inline constexpr int64_t kLayoutVersion = 2;

// What a packed weight is. Its whole layout, and the lengths of its parts, follow from this alone.
struct PackedKind {
  Storage storage;
  Compute compute;
  int64_t out_features, in_features;
  int64_t group;            // inputs that share a weight scale; in_features where there are none
  int64_t activation_group; // inputs that share a scale when compute is int8; in_features where there are none
  Storage scale_storage;    // how weight scales are kept; kFloat32 where there are none
  bool has_zero_points;
};

class LinearHandle {
public:
  static constexpr size_t kParts = 3; // values, scales, zero points; a part that the kind does not have is empty
  using Parts = std::array<const std::byte *, kParts>;

  // weight: out_features x in_features; `source` says how its elements are stored (float32, float16 or bfloat16).
  static LinearHandle plain(const void *weight, Storage source, int64_t out_features, int64_t in_features, Compute compute);

  // codes: out_features x in_features, signed and within the range that `storage` has; scales and zero_points: out_features x
  // (in_features / group), zero_points may be null. activation_group: inputs that share a scale when compute is int8.
  static LinearHandle int_group(const int8_t *codes, const void *scales, Storage scale_storage, const int8_t *zero_points, int64_t out_features,
                                int64_t in_features, int64_t group, int64_t activation_group, Storage storage, Compute compute);

  // A weight packed earlier. The parts hold part_bytes(kind) bytes each, lie on cache-line boundaries and outlive the handle.
  static LinearHandle view(const PackedKind &kind, const Parts &parts);

  static std::array<int64_t, kParts> part_bytes(const PackedKind &kind);

  const PackedWeight &weight() const { return weight_; }
  const PackedKind &kind() const { return kind_; }
  const Parts &parts() const { return parts_; }
  int64_t nbytes() const;

private:
  explicit LinearHandle(const PackedKind &kind);
  void attach(const Parts &parts);
  void own_parts();

  PackedKind kind_;
  PackedWeight weight_{};
  Parts parts_{};
  std::array<AlignedBuffer, kParts> owned_; // empty in a view
};

} // namespace flyweight
