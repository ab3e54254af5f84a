// Which instruction sets this processor can run, and which one is in use.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "kernel_table.h"

namespace flyweight {

// Names of the kernel tables that this CPU can run and limit_isa() allows, slowest first; "generic" is always one.
std::vector<std::string> available_isas();

// Thrown by active_kernels() after refuse_kernels().
class KernelsRefused : public std::runtime_error {
public:
  using std::runtime_error::runtime_error;
};

// The table in use: at first the fastest. Throws KernelsRefused if there is none.
const KernelTable &active_kernels();

// Puts no table in use: until use_isa() chooses one, every operation fails with this reason.
void refuse_kernels(const std::string &reason);

// Puts a table in use, and forbids every faster one from now on. False, and no change, if this CPU cannot run it.
bool limit_isa(const std::string &name);

// Puts another table in use for the whole process. False, and no change, if it is not available.
bool use_isa(const std::string &name);

// In batch-invariant mode a row's (a token's) result is bit-identical whatever other rows are in the call; outside it an
// operation may choose another order of sums by their number. It holds for the whole process; off at first.
bool batch_invariant();
void set_batch_invariant(bool wanted);

} // namespace flyweight
