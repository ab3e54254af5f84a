#include "operations.h"

#include "dispatch.h"
#include "operations/scratch.h"

namespace flyweight {
namespace {

constexpr int64_t kGramTokens = 512;                 // at once: bounds the scratch
constexpr int64_t kTaskRows = 128, kTaskColumns = 512; // features of one task

} // namespace

void gram(const float *x, int64_t x_stride, int64_t rows, int64_t width, bool rounded, float *sums) {
  const KernelTable &kernels = active_kernels();
  const int64_t workspace = kernels.gram_workspace();
  const int64_t down = ceil_divide(width, kTaskRows), across = ceil_divide(width, kTaskColumns);
  for (int64_t begin = 0; begin < rows; begin += kGramTokens) {
    GramArguments a{};
    a.x = x + begin * x_stride, a.x_stride = x_stride, a.rows = std::min(kGramTokens, rows - begin), a.width = width;
    a.rounded = rounded, a.sums = sums, a.sums_stride = width;
    const int64_t packed = kernels.gram_packed_bytes(a);
    Arena arena(packed + thread_count() * workspace * 4 + 2 * 64);
    a.packed = arena.take<std::byte>(packed);
    float *scratch = arena.take<float>(thread_count() * workspace);
    if (packed) over_ranges(round_up(width, 32) / kLanes, a.rows * kLanes, 2, [&](int64_t first, int64_t last, int) { kernels.gram_pack(a, first, last); });
    const auto run = [&](int64_t task, int worker) {
      const int64_t i = task / across * kTaskRows, j = task % across * kTaskColumns;
      const int64_t j_end = std::min(width, j + kTaskColumns);
      if (i < j_end) kernels.gram(a, i, std::min(width, i + kTaskRows), j, j_end, scratch + worker * workspace);
    };
    if (a.rows * width * width >= kSerialWork) parallel_for(down * across, run);
    else
      for (int64_t task = 0; task < down * across; ++task) run(task, 0);
  }
}

} // namespace flyweight
