#include "linear_handle.h"

#include <algorithm>

#include "scalar_convert.h"
#include "thread_pool.h"

namespace flyweight {
namespace {

float element_as_float(const void *weight, Storage source, int64_t index) {
  if (source == Storage::kFloat32) return static_cast<const float *>(weight)[index];
  const uint16_t half = static_cast<const uint16_t *>(weight)[index];
  return source == Storage::kFloat16 ? float_of_half(half) : float_of_bfloat16(half);
}

int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

} // namespace

LinearHandle LinearHandle::plain(const void *weight, Storage source, int64_t out_features, int64_t in_features, Compute compute) {
  LinearHandle handle;
  PackedWeight &w = handle.weight_;
  w.in_features = in_features, w.out_features = out_features, w.compute = compute;
  w.storage = compute == Compute::kBfloat16 ? Storage::kBfloat16 : source;
  w.group = w.segment = w.padded_segment = in_features;
  w.num_segments = w.num_scales = w.segments_per_scale = w.segments_per_activation_scale = 1;
  const int64_t depth = w.storage == Storage::kBfloat16 ? ceil_divide(in_features, 2) * 2 : in_features;
  w.panel_bytes = depth * kLanes * (w.storage == Storage::kFloat32 ? 4 : 2);
  handle.values_ = AlignedBuffer(static_cast<size_t>(handle.num_panels() * w.panel_bytes));
  w.values = handle.values_.as<uint8_t>();
  parallel_for(handle.num_panels(), [&](int64_t panel, int) {
    uint8_t *bytes = handle.values_.as<uint8_t>() + panel * w.panel_bytes;
    const int64_t lanes = std::min(kLanes, out_features - panel * kLanes);
    for (int64_t lane = 0; lane < lanes; ++lane)
      for (int64_t k = 0; k < in_features; ++k) {
        const int64_t index = (panel * kLanes + lane) * in_features + k;
        if (w.storage == Storage::kFloat32) reinterpret_cast<float *>(bytes)[k * kLanes + lane] = element_as_float(weight, source, index);
        else if (w.storage == Storage::kFloat16) reinterpret_cast<uint16_t *>(bytes)[k * kLanes + lane] = static_cast<const uint16_t *>(weight)[index];
        else
          reinterpret_cast<uint16_t *>(bytes)[(k / 2 * kLanes + lane) * 2 + k % 2] =
              source == Storage::kBfloat16 ? static_cast<const uint16_t *>(weight)[index] : bfloat16_of_float(element_as_float(weight, source, index));
      }
  });
  return handle;
}

LinearHandle LinearHandle::int_group(const int8_t *codes, const float *scales, const int8_t *zero_points, int64_t out_features,
                                     int64_t in_features, int64_t group, int64_t activation_group, bool four_bits, Compute compute) {
  LinearHandle handle;
  PackedWeight &w = handle.weight_;
  w.in_features = in_features, w.out_features = out_features, w.compute = compute;
  w.storage = four_bits ? Storage::kUint4 : Storage::kUint8;
  w.group = group, w.num_scales = in_features / group;
  w.segment = std::min({group, activation_group, kLongestSegment}), w.padded_segment = ceil_divide(w.segment, kCodesPerStep) * kCodesPerStep;
  w.segments_per_scale = ceil_divide(group, w.segment), w.num_segments = w.num_scales * w.segments_per_scale;
  w.segments_per_activation_scale = activation_group < group ? 1 : activation_group / group * w.segments_per_scale;
  w.panel_bytes = w.num_segments * w.padded_segment * kLanes / (four_bits ? 2 : 1);
  handle.values_ = AlignedBuffer(static_cast<size_t>(handle.num_panels() * w.panel_bytes));
  handle.scales_ = AlignedBuffer(static_cast<size_t>(handle.num_panels() * w.num_scales * kLanes) * sizeof(float));
  if (zero_points) handle.zero_points_ = AlignedBuffer(handle.scales_.size());
  w.values = handle.values_.as<uint8_t>(), w.scales = handle.scales_.as<float>();
  w.zero_points = zero_points ? handle.zero_points_.as<float>() : nullptr;
  parallel_for(handle.num_panels(), [&](int64_t panel, int) {
    uint8_t *bytes = handle.values_.as<uint8_t>() + panel * w.panel_bytes;
    const int64_t lanes = std::min(kLanes, out_features - panel * kLanes);
    for (int64_t lane = 0; lane < lanes; ++lane) {
      const int64_t row = panel * kLanes + lane;
      for (int64_t g = 0; g < w.num_scales; ++g) {
        const int64_t at = (panel * w.num_scales + g) * kLanes + lane;
        handle.scales_.as<float>()[at] = scales[row * w.num_scales + g];
        if (zero_points) handle.zero_points_.as<float>()[at] = zero_points[row * w.num_scales + g];
      }
      for (int64_t segment = 0; segment < w.num_segments; ++segment) {
        const int64_t in_group = segment % w.segments_per_scale * w.segment, length = std::min(w.segment, group - in_group);
        const int8_t *from = codes + row * in_features + segment / w.segments_per_scale * group + in_group;
        for (int64_t i = 0; i < length; ++i) {
          const int64_t k = segment * w.padded_segment + i;
          if (four_bits) {
            const uint8_t value = static_cast<uint8_t>(from[i] + 8);
            bytes[(k / 8 * kLanes + lane) * 4 + k % 4] |= static_cast<uint8_t>(value << (k % 8 < 4 ? 0 : 4));
          } else {
            bytes[(k / 4 * kLanes + lane) * 4 + k % 4] = static_cast<uint8_t>(from[i] + 128);
          }
        }
      }
    }
  });
  return handle;
}

} // namespace flyweight
