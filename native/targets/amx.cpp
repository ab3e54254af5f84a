// The kernels for AMX: those of avx512.cpp, and tile registers (bfloat16 and int8) where many rows go by.
// The region opens after every header, as in avx2.cpp.
#include "kernel_table.h"
#include "scalar_convert.h"

#if defined(__x86_64__)
#if defined(FLYWEIGHT_EMULATE)
#include "emulation/avx512.h"
#elif defined(__clang__)
#include <immintrin.h>
#pragma clang attribute push(__attribute__((target("avx,avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,amx-tile,amx-bf16,amx-int8"))), apply_to = function)
#else
#include <immintrin.h>
#pragma GCC push_options
// The headers start some intrinsics from a register left undefined on purpose (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC target("avx,avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")
#endif

#define FLYWEIGHT_BFLOAT16_PRODUCTS
namespace flyweight::amx {
#include "vocabulary/avx512.inl"

#include "vocabulary/amx.inl"

#include "algorithms/codes.inl"

#include "algorithms/tile.inl"

#include "algorithms/linear.inl"

#include "algorithms/tiles_linear.inl"

#include "algorithms/tiles_pairs.inl"

#include "algorithms/tiles_quads.inl"

#include "algorithms/tiles.inl"

#include "algorithms/tiles_gram.inl"
#include "algorithms/tiles_limits.inl"

const KernelTable &kernels() {
  static const KernelTable table = [] {
    KernelTable own = avx512::kernels();
    own.name = "amx";
    own.prepare_input = prepare_tile_input;
    own.linear = linear_tiles;
    own.linear_workspace = linear_tiles_workspace;
    own.gram_packed_bytes = gram_tiles_bytes;
    own.gram_pack = gram_pack_tiles;
    own.gram = gram_tiles;
    own.most_rows_per_task = kMostTileRows;
    own.multiply_int4 = multiply_tiles_int8;
    own.multiply_int8 = multiply_tiles_int8;
    own.multiply_bfloat16 = multiply_tiles_bfloat16;
    return own;
  }();
  return table;
}
} // namespace flyweight::amx

#if defined(FLYWEIGHT_EMULATE)
#elif defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
