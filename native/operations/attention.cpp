#include "operations.h"

#include <algorithm>
#include <vector>

#include "dispatch.h"
#include "operations/scratch.h"

namespace flyweight {
namespace {

// Rows of attention (queries times heads of a group) in one task.
constexpr int64_t kAttendRows = 128;

// A sequence with few queries is cut along its keys as well, into this many pieces for each thread.
constexpr int64_t kPiecesPerThread = 4;

} // namespace

void cache_write(const CacheLayout &layout, const float *k, const float *v, void *cache, const int64_t *slots, int64_t tokens) {
  const KernelTable &kernels = active_kernels();
  over_ranges(layout.num_kv_heads, tokens * layout.head_dim * 8, 1, [&](int64_t begin, int64_t end, int) {
    kernels.cache_write(layout, k, v, static_cast<uint8_t *>(cache), slots, tokens, begin, end);
  });
}

void attend(const AttendArguments &given, int64_t num_sequences) {
  AttendArguments arguments = given;
  arguments.batch_invariant = batch_invariant();
  const KernelTable &kernels = active_kernels();
  const CacheLayout &layout = arguments.layout;
  const int64_t group = arguments.num_heads / layout.num_kv_heads;
  const int64_t queries_per_task = std::max<int64_t>(1, kAttendRows / group);
  const int64_t wanted_tasks = kPiecesPerThread * thread_count();
  std::vector<AttendTask> tasks, merges;
  int64_t partials = 0, whole_tasks = 0, most_queries = 1;
  for (int64_t sequence = 0; sequence < num_sequences; ++sequence) {
    const int64_t queries = arguments.query_starts[sequence + 1] - arguments.query_starts[sequence];
    whole_tasks += ceil_divide(queries, queries_per_task) * layout.num_kv_heads;
    most_queries = std::max(most_queries, std::min(queries, queries_per_task));
  }
  for (int64_t sequence = 0; sequence < num_sequences; ++sequence) {
    const int64_t queries = arguments.query_starts[sequence + 1] - arguments.query_starts[sequence], length = arguments.context_lengths[sequence];
    for (int64_t head = 0; head < layout.num_kv_heads; ++head)
      // The last queries see the most keys: they come first, so that the threads end together.
      for (int64_t begin = (ceil_divide(queries, queries_per_task) - 1) * queries_per_task; begin >= 0; begin -= queries_per_task) {
        const int64_t end = std::min(queries, begin + queries_per_task), first_position = length - queries + begin;
        const bool from_the_start = arguments.window == 0 || arguments.keep_first > 0 || first_position < arguments.window;
        const int64_t first_chunk = from_the_start ? 0 : (first_position - arguments.window + 1) / kKeyChunk;
        const int64_t chunks = ceil_divide(length - queries + end, kKeyChunk) - first_chunk;
        AttendTask task{static_cast<int32_t>(sequence), static_cast<int32_t>(head), static_cast<int32_t>(begin), static_cast<int32_t>(end),
                        static_cast<int32_t>(first_chunk), static_cast<int32_t>(first_chunk + chunks), static_cast<int32_t>(first_chunk), -1};
        const int64_t pieces = whole_tasks >= wanted_tasks ? 1 : std::min(chunks, ceil_divide(wanted_tasks, whole_tasks));
        if (pieces <= 1) {
          tasks.push_back(task);
          continue;
        }
        task.partials = partials;
        merges.push_back(task);
        partials += chunks * (end - begin) * group * kernels.attend_partial_floats(layout);
        for (int64_t piece = 0; piece < pieces; ++piece) {
          task.chunk_begin = static_cast<int32_t>(first_chunk + chunks * piece / pieces);
          task.chunk_end = static_cast<int32_t>(first_chunk + chunks * (piece + 1) / pieces);
          tasks.push_back(task);
        }
      }
  }
  const int64_t workspace = round_up(kernels.attend_workspace(arguments, most_queries), 16);
  Arena arena((thread_count() * workspace + partials) * 4 + 128);
  float *scratch = arena.take<float>(thread_count() * workspace);
  arguments.partials = arena.take<float>(partials);
  parallel_for(static_cast<int64_t>(tasks.size()), [&](int64_t task, int worker) {
    kernels.attend(arguments, tasks[static_cast<size_t>(task)], scratch + worker * workspace);
  });
  if (!merges.empty())
    parallel_for(static_cast<int64_t>(merges.size()), [&](int64_t merge, int) { kernels.attend_merge(arguments, merges[static_cast<size_t>(merge)]); });
}

} // namespace flyweight
