// A weight packed for the kernels, owned: the same image serves every instruction set.
#pragma once

#include "aligned_buffer.h"
#include "kernel_table.h"

namespace flyweight {

class LinearHandle {
public:
  // weight: out_features x in_features; `source` says how its elements are stored (float32, float16 or bfloat16).
  static LinearHandle plain(const void *weight, Storage source, int64_t out_features, int64_t in_features, Compute compute);

  // codes: out_features x in_features, signed and within the range of `bits`; scales and zero_points: out_features x
  // (in_features / group), zero_points may be null. activation_group: inputs that share a scale when compute is int8.
  static LinearHandle int_group(const int8_t *codes, const float *scales, const int8_t *zero_points, int64_t out_features,
                                int64_t in_features, int64_t group, int64_t activation_group, bool four_bits, Compute compute);

  const PackedWeight &weight() const { return weight_; }
  int64_t nbytes() const { return static_cast<int64_t>(values_.size() + scales_.size() + zero_points_.size()); }

private:
  LinearHandle() = default;
  int64_t num_panels() const { return (weight_.out_features + kLanes - 1) / kLanes; }

  PackedWeight weight_{};
  AlignedBuffer values_, scales_, zero_points_;
};

} // namespace flyweight
