// The kernels for AVX-512 with VNNI and BF16: those of avx512vnni.cpp, bfloat16 products in one instruction. The region opens after
// every header, as in avx2.cpp.
#include "kernel_table.h"
#include "scalar_convert.h"

#if defined(__x86_64__)
#if defined(FLYWEIGHT_EMULATE)
#include "emulation/avx512.h"
#elif defined(__clang__)
#include <immintrin.h>
#pragma clang attribute push(__attribute__((target("avx,avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16"))), apply_to = function)
#else
#include <immintrin.h>
#pragma GCC push_options
// The headers start some intrinsics from a register left undefined on purpose (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC target("avx,avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")
#endif

#define FLYWEIGHT_BFLOAT16_PRODUCTS
#define FLYWEIGHT_ISA_NAME "avx512"
namespace flyweight::avx512 {
#include "vocabulary/avx512.inl"

#include "algorithms/all.inl"
} // namespace flyweight::avx512

#if defined(FLYWEIGHT_EMULATE)
#elif defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
