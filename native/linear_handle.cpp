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
  w.group = kind.group, w.scale_storage = kind.scale_storage;
  if (!is_integer(kind.storage)) {
    w.segment = w.padded_segment = kind.in_features;
    w.num_segments = w.num_scales = w.segments_per_scale = w.segments_per_activation_scale = 1;
    const int64_t depth = kind.storage == Storage::kBfloat16 ? ceil_divide(kind.in_features, 2) * 2 : kind.in_features;
    w.panel_bytes = depth * kLanes * (kind.storage == Storage::kFloat32 ? 4 : 2);
    return w;
  }
  w.num_scales = kind.in_features / kind.group;
  w.segment = std::min({kind.group, kind.activation_group, kLongestSegment});
  w.padded_segment = ceil_divide(w.segment, codes_per_step(kind.storage)) * codes_per_step(kind.storage);
  w.segments_per_scale = ceil_divide(kind.group, w.segment), w.num_segments = w.num_scales * w.segments_per_scale;
  w.segments_per_activation_scale = kind.activation_group < kind.group ? 1 : kind.activation_group / kind.group * w.segments_per_scale;
  w.panel_bytes = code_bytes(kind.storage, w.num_segments * w.padded_segment);
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

// Eight codes of one row as four bytes, each the low four bits of two: the first four codes in the low halves. `offset` makes
// the bits unsigned.
uint32_t half_byte_step(const int8_t *codes, uint64_t offset) {
  uint64_t eight;
  std::memcpy(&eight, codes, 8);
  eight = (eight ^ offset) & 0x0F0F0F0F0F0F0F0Full;
  return static_cast<uint32_t>(eight) | static_cast<uint32_t>(eight >> 32) << 4;
}

uint32_t byte_step(const int8_t *codes) {
  uint32_t four;
  std::memcpy(&four, codes, 4);
  return four ^ 0x80808080u;
}

// Bits 4 and 5 of sixteen codes and 32: of codes 4 n..4 n + 3 at bit 2 n of four bytes.
uint32_t upper_bits_step(const int8_t *codes) {
  uint32_t bits = 0;
  for (int n = 0; n < 4; ++n) {
    uint32_t four;
    std::memcpy(&four, codes + 4 * n, 4);
    bits |= ((four ^ 0x20202020u) >> 4 & 0x03030303u) << (2 * n);
  }
  return bits;
}

// One step of one lane; `words` is where its first word goes, those of the step are kLanes apart.
void pack_step(Storage storage, const int8_t *codes, uint32_t *words) {
  switch (storage) {
  case Storage::kUint4: words[0] = half_byte_step(codes, 0x0808080808080808ull); break;
  case Storage::kUint6:
    words[0] = half_byte_step(codes, 0), words[kLanes] = half_byte_step(codes + 8, 0), words[2 * kLanes] = upper_bits_step(codes);
    break;
  default: words[0] = byte_step(codes), words[kLanes] = byte_step(codes + 4);
  }
}

void pack_codes_panel(const PackedWeight &w, const int8_t *codes, int64_t panel, uint8_t *bytes) {
  const int64_t lanes = std::min(kLanes, w.out_features - panel * kLanes), step = codes_per_step(w.storage);
  for (int64_t segment = 0; segment < w.num_segments; ++segment) {
    const int64_t in_group = segment % w.segments_per_scale * w.segment, length = std::min(w.segment, w.group - in_group);
    const int8_t *rows = codes + panel * kLanes * w.in_features + segment / w.segments_per_scale * w.group + in_group;
    for (int64_t i = 0; i < length; i += step) {
      uint32_t *words = reinterpret_cast<uint32_t *>(bytes + code_bytes(w.storage, segment * w.padded_segment + i));
      for (int64_t lane = 0; lane < lanes; ++lane) {
        const int8_t *from = rows + lane * w.in_features + i;
        int8_t last[16] = {}; // inputs that do not exist are zeros and meet zeros
        if (length - i < step) {
          std::copy_n(from, length - i, last);
          from = last;
        }
        pack_step(w.storage, from, words + lane);
      }
    }
  }
}

template <class T> void pack_scales(const PackedWeight &w, const void *values, int64_t panel, std::byte *packed) {
  const int64_t lanes = std::min(kLanes, w.out_features - panel * kLanes);
  for (int64_t lane = 0; lane < lanes; ++lane)
    for (int64_t g = 0; g < w.num_scales; ++g)
      reinterpret_cast<T *>(packed)[(panel * w.num_scales + g) * kLanes + lane] = static_cast<const T *>(values)[(panel * kLanes + lane) * w.num_scales + g];
}

void pack_zero_points(const PackedWeight &w, const int8_t *values, int64_t panel, uint16_t *packed) {
  const int64_t lanes = std::min(kLanes, w.out_features - panel * kLanes);
  for (int64_t lane = 0; lane < lanes; ++lane)
    for (int64_t g = 0; g < w.num_scales; ++g)
      packed[(panel * w.num_scales + g) * kLanes + lane] = bfloat16_of_float(values[(panel * kLanes + lane) * w.num_scales + g]);
}

} // namespace

std::array<int64_t, LinearHandle::kParts> LinearHandle::part_bytes(const PackedKind &kind) {
  const PackedWeight w = layout_of(kind);
  const int64_t scales = is_integer(kind.storage) ? num_panels(kind) * w.num_scales * kLanes : 0;
  return {num_panels(kind) * w.panel_bytes, scales * (kind.scale_storage == Storage::kFloat32 ? 4 : 2), kind.has_zero_points ? scales * 2 : 0};
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
  weight_.scales = parts[1];
  weight_.zero_points = kind_.has_zero_points ? reinterpret_cast<const uint16_t *>(parts[2]) : nullptr;
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
  LinearHandle handle(PackedKind{storage, compute, out_features, in_features, in_features, in_features, Storage::kFloat32, false});
  handle.own_parts();
  parallel_for(num_panels(handle.kind_), [&](int64_t panel, int) {
    pack_plain_panel(handle.weight_, weight, source, panel, handle.owned_[0].as<uint8_t>() + panel * handle.weight_.panel_bytes);
  });
  return handle;
}

LinearHandle LinearHandle::int_group(const int8_t *codes, const void *scales, Storage scale_storage, const int8_t *zero_points, int64_t out_features,
                                     int64_t in_features, int64_t group, int64_t activation_group, Storage storage, Compute compute) {
  LinearHandle handle(PackedKind{storage, compute, out_features, in_features, group, activation_group, scale_storage, zero_points != nullptr});
  handle.own_parts();
  const PackedWeight &w = handle.weight_;
  parallel_for(num_panels(handle.kind_), [&](int64_t panel, int) {
    pack_codes_panel(w, codes, panel, handle.owned_[0].as<uint8_t>() + panel * w.panel_bytes);
    if (scale_storage == Storage::kFloat32) pack_scales<float>(w, scales, panel, handle.owned_[1].as<std::byte>());
    else pack_scales<uint16_t>(w, scales, panel, handle.owned_[1].as<std::byte>());
    if (zero_points) pack_zero_points(w, zero_points, panel, handle.owned_[2].as<uint16_t>());
  });
  return handle;
}

} // namespace flyweight
