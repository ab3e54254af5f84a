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
namespace flyweight::avx2 {
#include "vocabulary/avx2.inl"

#include "algorithms/all.inl"
} // namespace flyweight::avx2

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
