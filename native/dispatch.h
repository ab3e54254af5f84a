// Which instruction sets this processor can run, and which one is in use.
#pragma once

#include <string>
#include <vector>

#include "kernel_table.h"

namespace flyweight {

// Names of the usable kernel tables, slowest first; "generic" is always one.
std::vector<std::string> available_isas();

// The table in use: at first the fastest.
const KernelTable &active_kernels();

// Puts another table in use for the whole process. False, and no change, if it is not available.
bool use_isa(const std::string &name);

} // namespace flyweight
