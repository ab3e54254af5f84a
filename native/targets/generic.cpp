// The kernels for any processor: the baseline of the compiler, no special instructions.
#include "kernel_table.h"
#include "scalar_convert.h"

#define FLYWEIGHT_ISA_NAME "generic"
namespace flyweight::generic {
#include "vocabulary/generic.inl"

#include "algorithms/all.inl"
} // namespace flyweight::generic
