#include "linear_handle.h"

#include <algorithm>
#include <cstring>

#include "scalar_convert.h"
#include "thread_pool.h"

namespace flyweight {
namespace {

int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t num_panels(const PackedKind &kind) { return ceil_divide(kind.out_features, kLanes); }

PackedWeight layout_of(const PackedKind &kind) {
  PackedWeight w{};
  w.in_features = kind.in_features, w.out_features = kind.out_features, w.storage = kind.storage, w.compute = kind.compute;
  w.group = kind.group;
  if (!is_integer(kind.storage)) {
    w.segment = w.padded_segment = kind.in_features;
    w.num_segments = w.num_scales = w.segments_per_scale = w.segments_per_activation_scale = 1;
    const int64_t depth = kind.storage == Storage::kBfloat16 ? ceil_divide(kind.in_features, 2) * 2 : kind.in_features;
    w.panel_bytes = depth * kLanes * (kind.storage == Storage::kFloat32 ? 4 : 2);
    return w;
  }
  w.num_scales = kind.in_features / kind.group;
  w.segment = std::min({kind.group, kind.activation_group, kLongestSegment});
  w.padded_segment = ceil_divide(w.segment, kCodesPerStep) * kCodesPerStep;
  w.segments_per_scale = ceil_divide(kind.group, w.segment), w.num_segments = w.num_scales * w.segments_per_scale;
  w.segments_per_activation_scale = kind.activation_group < kind.group ? 1 : kind.activation_group / kind.group * w.segments_per_scale;
  w.panel_bytes = w.num_segments * w.padded_segment * kLanes / (kind.storage == Storage::kUint4 ? 2 : 1);
  return w;
}

// One row of a panel whose elements are single words of `Word`, or pairs of 16-bit words that lie side by side.
template <class Word> void pack_words(const uint8_t *rows, int64_t row_bytes, int64_t lanes, int64_t steps, uint8_t *panel) {
  for (int64_t step = 0; step < steps; ++step)
    for (int64_t lane = 0; lane < lanes; ++lane)
      std::memcpy(panel + (step * kLanes + lane) * sizeof(Word), rows + lane * row_bytes + step * sizeof(Word), sizeof(Word));
}

uint16_t as_bfloat16(const void *weight, Storage source, int64_t index) {
  if (source == Storage::kFloat32) return bfloat16_of_float(static_cast<const float *>(weight)[index]);
  const uint16_t half = static_cast<const uint16_t *>(weight)[index];
  return source == Storage::kFloat16 ? bfloat16_of_float(float_of_half(half)) : half;
}

void pack_plain_panel(const PackedWeight &w, const void *weight, Storage source, int64_t panel, uint8_t *bytes) {
  const int64_t lanes = std::min(kLanes, w.out_features - panel * kLanes), width = source == Storage::kFloat32 ? 4 : 2;
  const int64_t first = panel * kLanes * w.in_features;
  const uint8_t *rows = static_cast<const uint8_t *>(weight) + first * width;
  if (w.storage == Storage::kFloat32) return pack_words<uint32_t>(rows, w.in_features * 4, lanes, w.in_features, bytes);
  if (w.storage == Storage::kFloat16) return pack_words<uint16_t>(rows, w.in_features * 2, lanes, w.in_features, bytes);
  uint16_t *pairs = reinterpret_cast<uint16_t *>(bytes);
  int64_t from = 0;
  if (source == Storage::kBfloat16) {
    pack_words<uint32_t>(rows, w.in_features * 2, lanes, w.in_features / 2, bytes);
    from = w.in_features / 2 * 2;
  }
  for (int64_t lane = 0; lane < lanes; ++lane)
    for (int64_t k = from; k < w.in_features; ++k)
      pairs[(k / 2 * kLanes + lane) * 2 + k % 2] = as_bfloat16(weight, source, first + lane * w.in_features + k);
}

// Eight codes of four bits as a packed step holds them: the first four in the low halves of its bytes.
uint32_t small_step(const int8_t *codes) {
  uint64_t eight;
  std::memcpy(&eight, codes, 8);
  eight = (eight & 0x0F0F0F0F0F0F0F0Full) ^ 0x0808080808080808ull;
  return static_cast<uint32_t>(eight) | static_cast<uint32_t>(eight >> 32) << 4;
}

uint32_t wide_half_step(const int8_t *codes) {
  uint32_t four;
  std::memcpy(&four, codes, 4);
  return four ^ 0x80808080u;
}

void pack_codes_panel(const PackedWeight &w, const int8_t *codes, int64_t panel, uint8_t *bytes) {
  const int64_t lanes = std::min(kLanes, w.out_features - panel * kLanes);
  const bool small = w.storage == Storage::kUint4;
  uint32_t *words = reinterpret_cast<uint32_t *>(bytes);
  for (int64_t segment = 0; segment < w.num_segments; ++segment) {
    const int64_t in_group = segment % w.segments_per_scale * w.segment, length = std::min(w.segment, w.group - in_group);
    const int8_t *rows = codes + panel * kLanes * w.in_features + segment / w.segments_per_scale * w.group + in_group;
    const int64_t first = segment * w.padded_segment, whole = length / kCodesPerStep * kCodesPerStep;
    for (int64_t i = 0; i < whole; i += kCodesPerStep) {
      for (int64_t lane = 0; lane < lanes; ++lane) {
        const int8_t *from = rows + lane * w.in_features + i;
        if (small) words[(first + i) / 8 * kLanes + lane] = small_step(from);
        else {
          words[(first + i) / 4 * kLanes + lane] = wide_half_step(from);
          words[((first + i) / 4 + 1) * kLanes + lane] = wide_half_step(from + 4);
        }
      }
    }
    for (int64_t lane = 0; lane < lanes; ++lane)
      for (int64_t i = whole; i < length; ++i) {
        const int64_t k = first + i;
        const int8_t code = rows[lane * w.in_features + i];
        if (small) bytes[(k / 8 * kLanes + lane) * 4 + k % 4] |= static_cast<uint8_t>((code + 8) << (k % 8 < 4 ? 0 : 4));
        else bytes[(k / 4 * kLanes + lane) * 4 + k % 4] = static_cast<uint8_t>(code + 128);
      }
  }
}

template <class T> void pack_scales(const PackedWeight &w, const T *values, int64_t panel, float *packed) {
  const int64_t lanes = std::min(kLanes, w.out_features - panel * kLanes);
  for (int64_t lane = 0; lane < lanes; ++lane)
    for (int64_t g = 0; g < w.num_scales; ++g)
      packed[(panel * w.num_scales + g) * kLanes + lane] = values[(panel * kLanes + lane) * w.num_scales + g];
}

} // namespace

std::array<int64_t, LinearHandle::kParts> LinearHandle::part_bytes(const PackedKind &kind) {
  const PackedWeight w = layout_of(kind);
  const int64_t scales = is_integer(kind.storage) ? num_panels(kind) * w.num_scales * kLanes * static_cast<int64_t>(sizeof(float)) : 0;
  return {num_panels(kind) * w.panel_bytes, scales, kind.has_zero_points ? scales : 0};
}

LinearHandle::LinearHandle(const PackedKind &kind) : kind_(kind), weight_(layout_of(kind)) {}

int64_t LinearHandle::nbytes() const {
  int64_t total = 0;
  for (const int64_t bytes : part_bytes(kind_)) total += bytes;
  return total;
}

void LinearHandle::attach(const Parts &parts) {
  parts_ = parts;
  weight_.values = reinterpret_cast<const uint8_t *>(parts[0]);
  weight_.scales = reinterpret_cast<const float *>(parts[1]);
  weight_.zero_points = kind_.has_zero_points ? reinterpret_cast<const float *>(parts[2]) : nullptr;
}

void LinearHandle::own_parts() {
  const std::array<int64_t, kParts> bytes = part_bytes(kind_);
  Parts parts{};
  for (size_t i = 0; i < kParts; ++i) {
    owned_[i] = AlignedBuffer(static_cast<size_t>(bytes[i]));
    parts[i] = owned_[i].as<std::byte>();
  }
  attach(parts);
}

LinearHandle LinearHandle::view(const PackedKind &kind, const Parts &parts) {
  LinearHandle handle(kind);
  handle.attach(parts);
  return handle;
}

LinearHandle LinearHandle::plain(const void *weight, Storage source, int64_t out_features, int64_t in_features, Compute compute) {
  const Storage storage = compute == Compute::kBfloat16 ? Storage::kBfloat16 : source;
  LinearHandle handle(PackedKind{storage, compute, out_features, in_features, in_features, in_features, false});
  handle.own_parts();
  parallel_for(num_panels(handle.kind_), [&](int64_t panel, int) {
    pack_plain_panel(handle.weight_, weight, source, panel, handle.owned_[0].as<uint8_t>() + panel * handle.weight_.panel_bytes);
  });
  return handle;
}

LinearHandle LinearHandle::int_group(const int8_t *codes, const float *scales, const int8_t *zero_points, int64_t out_features,
                                     int64_t in_features, int64_t group, int64_t activation_group, bool four_bits, Compute compute) {
  const Storage storage = four_bits ? Storage::kUint4 : Storage::kUint8;
  LinearHandle handle(PackedKind{storage, compute, out_features, in_features, group, activation_group, zero_points != nullptr});
  handle.own_parts();
  const PackedWeight &w = handle.weight_;
  parallel_for(num_panels(handle.kind_), [&](int64_t panel, int) {
    pack_codes_panel(w, codes, panel, handle.owned_[0].as<uint8_t>() + panel * w.panel_bytes);
    pack_scales(w, scales, panel, handle.owned_[1].as<float>());
    if (zero_points) pack_scales(w, zero_points, panel, handle.owned_[2].as<float>());
  });
  return handle;
}

} // namespace flyweight
