// How keys and values lie in a block of the cache; kernels/cache_layout.py says the same in Python.
//
// A block holds, for each key/value head, `block_size / 32` units one after another. A unit is 32 tokens of one head:
//
//   keys            two panels of 16 tokens; in a panel the numbers lie [step][token][n], so that a vector holds one
//                   number (pair, quad) of sixteen tokens
//   key scales      int8, int4: [panel][group of 32 numbers][scale, offset][token]
//   values          [step][number][n]: a vector holds one token (pair, quad) of sixteen numbers
//   value scales    int8, int4: [scale, offset][token]
//
// where a step has n = 1 (float32, float16), 2 (bfloat16), 4 (int8) or 8 (int4) numbers or tokens. Four bits: byte j of
// four holds number j in its low half and number j + 4 in its high half. Scales and offsets are bfloat16, and a code c
// means offset + scale * c. Head_dim is padded to whole vectors with zeros.
#pragma once

#include <cstdint>

namespace flyweight {

inline constexpr int64_t kCacheUnit = 32;  // tokens
inline constexpr int64_t kKeyGroup = 32;   // numbers of a key that share a scale

enum class CacheType : int32_t { kFloat32, kFloat16, kBfloat16, kInt8, kInt4 };

inline constexpr bool is_integer(CacheType type) { return type == CacheType::kInt8 || type == CacheType::kInt4; }

struct CacheLayout {
  CacheType type;
  int64_t num_kv_heads, head_dim, block_size;
  int64_t padded_dim, key_groups;
  int64_t panel_bytes;        // of 16 keys without their scales; half the bytes of the 32 values
  int64_t key_scales, values, value_scales, unit_bytes; // where each part of a unit begins

  static CacheLayout make(CacheType type, int64_t num_kv_heads, int64_t head_dim, int64_t block_size) {
    CacheLayout layout{};
    layout.type = type, layout.num_kv_heads = num_kv_heads, layout.head_dim = head_dim, layout.block_size = block_size;
    layout.padded_dim = (head_dim + 15) / 16 * 16;
    layout.key_groups = is_integer(type) ? (layout.padded_dim + kKeyGroup - 1) / kKeyGroup : 0;
    const int64_t bits = type == CacheType::kFloat32 ? 32 : type == CacheType::kInt8 ? 8 : type == CacheType::kInt4 ? 4 : 16;
    layout.panel_bytes = 16 * layout.padded_dim * bits / 8;
    layout.key_scales = 2 * layout.panel_bytes;
    layout.values = layout.key_scales + 2 * layout.key_groups * 64;
    layout.value_scales = layout.values + 2 * layout.panel_bytes;
    layout.unit_bytes = layout.value_scales + (is_integer(type) ? 128 : 0);
    return layout;
  }

  int64_t head_bytes() const { return block_size / kCacheUnit * unit_bytes; } // of one head in one block

  // The unit that holds a slot of one head.
  int64_t unit(int64_t slot, int64_t kv_head) const {
    const int64_t block = slot / block_size, within = slot % block_size;
    return (block * num_kv_heads + kv_head) * head_bytes() + within / kCacheUnit * unit_bytes;
  }
};

} // namespace flyweight
