#include "operations.h"

#include "dispatch.h"
#include "operations/scratch.h"

namespace flyweight {

void gptq_block(const GptqArguments &arguments, int64_t rows) {
  const KernelTable &kernels = active_kernels();
  const int64_t workspace = round_up(kernels.gptq_workspace(arguments), 16);
  Arena arena(thread_count() * workspace * 4 + 64);
  float *scratch = arena.take<float>(thread_count() * workspace);
  over_ranges(rows, arguments.width * arguments.width, 16, [&](int64_t begin, int64_t end, int worker) {
    kernels.gptq_block(arguments, begin, end, scratch + worker * workspace);
  });
}

} // namespace flyweight
