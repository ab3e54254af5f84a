// The kernels for AVX2, FMA and F16C. The region opens after every header: no shared code may come out in its instructions.
#include "kernel_table.h"
#include "scalar_convert.h"

#if defined(__x86_64__)
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
// The headers start some intrinsics from a register left undefined on purpose (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC target("avx,avx2,fma,f16c")
#endif

#define FLYWEIGHT_ISA_NAME "avx2"
#define FLYWEIGHT_WORD_CODES
namespace flyweight::avx2 {
namespace shared { // what every instruction set computes in the same text
#include "vocabulary/avx2.inl"

#include "algorithms/all.inl"

#include "algorithms/half_bytes.inl"

#include "algorithms/bytes.inl"

#include "algorithms/byte_linear.inl"
} // namespace shared

const KernelTable &kernels() {
  static const KernelTable table = [] {
    KernelTable own = shared::kernels();
    own.linear = shared::byte_linear;
    own.linear_workspace = shared::byte_linear_workspace;
    own.most_rows_per_task = shared::kByteTaskRows;
    own.multiply_int4 = shared::multiply_half_bytes;
    return own;
  }();
  return table;
}
} // namespace flyweight::avx2

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
