#include "operations.h"

#include <algorithm>
#include <vector>

#include "dispatch.h"
#include "operations/scratch.h"

namespace flyweight {
namespace {

// Rows of attention (queries times heads of a group) in one task.
constexpr int64_t kAttendRows = 48;

} // namespace

void cache_write(const float *k, const float *v, void *key_cache, void *value_cache, CacheType type, const int64_t *slots,
                 int64_t tokens, int64_t width) {
  const KernelTable &kernels = active_kernels();
  const int64_t element = type == CacheType::kFloat32 ? 4 : 2;
  for (int64_t token = 0; token < tokens; ++token) {
    const int64_t offset = slots[token] * width * element;
    kernels.convert(k + token * width, static_cast<std::byte *>(key_cache) + offset, type, width);
    kernels.convert(v + token * width, static_cast<std::byte *>(value_cache) + offset, type, width);
  }
}

void attend(const AttendArguments &arguments, int64_t num_sequences) {
  const KernelTable &kernels = active_kernels();
  const int64_t group = arguments.num_heads / arguments.num_kv_heads;
  const int64_t queries_per_task = std::max<int64_t>(1, kAttendRows / group);
  std::vector<AttendTask> tasks;
  for (int64_t sequence = 0; sequence < num_sequences; ++sequence) {
    const int64_t queries = arguments.query_starts[sequence + 1] - arguments.query_starts[sequence];
    // The last queries see the most keys: they come first, so that the threads end together.
    for (int64_t begin = (ceil_divide(queries, queries_per_task) - 1) * queries_per_task; begin >= 0; begin -= queries_per_task)
      for (int64_t head = 0; head < arguments.num_kv_heads; ++head)
        tasks.push_back({static_cast<int32_t>(sequence), static_cast<int32_t>(head), static_cast<int32_t>(begin),
                         static_cast<int32_t>(std::min(queries, begin + queries_per_task))});
  }
  const int64_t workspace = round_up(kernels.attend_workspace(arguments, queries_per_task), 16);
  Arena arena(thread_count() * workspace * 4 + 64);
  float *scratch = arena.take<float>(thread_count() * workspace);
  parallel_for(static_cast<int64_t>(tasks.size()), [&](int64_t task, int worker) {
    kernels.attend(arguments, tasks[static_cast<size_t>(task)], scratch + worker * workspace);
  });
}

} // namespace flyweight
