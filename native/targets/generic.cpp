// The kernels for any processor: the baseline of the compiler, no special instructions.
#include "kernel_table.h"
#include "scalar_convert.h"

// 64-byte vectors go through functions that are always inlined, so how they would be passed does not matter; and GCC
// takes lanes filled in a loop for uninitialized.
#pragma GCC diagnostic ignored "-Wpsabi"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

#define FLYWEIGHT_ISA_NAME "generic"
namespace flyweight::generic {
#include "vocabulary/generic.inl"

#include "algorithms/all.inl"
} // namespace flyweight::generic
