#include "operations.h"

#include "dispatch.h"
#include "operations/scratch.h"

namespace flyweight {

void gptq_group(GptqArguments arguments, const float *inverse_cholesky, int64_t rows) {
  const KernelTable &kernels = active_kernels();
  const int64_t width = arguments.width, runs = ceil_divide(width, kGptqRun);
  const int64_t workspace = round_up(kernels.gptq_workspace(arguments), 16);
  Arena arena((thread_count() * workspace + runs * width * kGptqRun) * 4 + 2 * 64);
  float *factors = arena.take<float>(runs * width * kGptqRun);
  for (int64_t run = 0; run < runs; ++run)
    for (int64_t j = 0; j < width; ++j)
      for (int64_t c = 0; c < kGptqRun; ++c) {
        const int64_t column = run * kGptqRun + c;
        factors[(run * width + j) * kGptqRun + c] = column < width ? inverse_cholesky[j * width + column] : 0.0f;
      }
  arguments.factors = factors;
  float *scratch = arena.take<float>(thread_count() * workspace);
  const int64_t passes = std::max<int64_t>(arguments.num_ratios, 1);
  over_ranges(rows, passes * width * width, 16, [&](int64_t begin, int64_t end, int worker) {
    kernels.gptq_group(arguments, begin, end, scratch + worker * workspace);
  });
}

} // namespace flyweight
