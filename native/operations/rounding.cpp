#include "operations.h"

#include "dispatch.h"
#include "operations/scratch.h"

namespace flyweight {

void round_weights(const RoundingArguments &arguments, int64_t rows) {
  const KernelTable &kernels = active_kernels();
  over_ranges(rows, arguments.width * 8, 1, [&](int64_t begin, int64_t end, int) { kernels.round_weights(arguments, begin, end); });
}

} // namespace flyweight
