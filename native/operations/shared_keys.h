// Which sequences of a step hold the same blocks, so that attention may read these once for all of them.
#pragma once

#include <vector>

#include "kernel_table.h"

namespace flyweight {

// Several sequences with the same first keys. `partials` is not set.
struct SharedGroup {
  std::vector<int32_t> sequences;
  int64_t key_end;
};

// Groups of at least two sequences of one new token that share at least one tile of keys, none larger than `most_sequences`; every
// sequence is in one group at most. A common beginning of many (a system prompt) is found, not a tree of them.
std::vector<SharedGroup> find_shared_keys(const AttendArguments &arguments, int64_t num_sequences, int64_t most_sequences);

} // namespace flyweight
