#include "operations.h"

#include <algorithm>
#include <vector>

#include "dispatch.h"
#include "operations/scratch.h"
#include "operations/shared_keys.h"

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

namespace {

// The tasks of one call: what is shared first, then what may begin behind it, then the merging of what was left in pieces.
struct AttendTasks {
  std::vector<SharedGroup> groups;
  std::vector<SharedKeys> shared; // of each group
  std::vector<AttendTask> common, own, merges;
  int64_t partials = 0, most_queries = 1;
};

// Cuts one task into pieces along its keys, if it is to be cut, or has shared keys before it.
void add_pieces(AttendTasks &tasks, AttendTask task, int64_t pieces, int64_t floats_of_chunk) {
  const int64_t chunks = task.chunk_end - task.chunk_begin, first = task.chunk_begin;
  pieces = std::min(chunks, pieces);
  if (pieces <= 1 && !task.shared) return tasks.own.push_back(task);
  task.partials = tasks.partials;
  tasks.partials += chunks * floats_of_chunk;
  tasks.merges.push_back(task);
  pieces = std::min(chunks, std::max<int64_t>(1, pieces));
  for (int64_t piece = 0; piece < pieces; ++piece) {
    task.chunk_begin = static_cast<int32_t>(first + chunks * piece / pieces);
    task.chunk_end = static_cast<int32_t>(first + chunks * (piece + 1) / pieces);
    tasks.own.push_back(task);
  }
}

AttendTasks plan_tasks(const AttendArguments &arguments, int64_t num_sequences, int64_t partial_floats) {
  const CacheLayout &layout = arguments.layout;
  const int64_t group = arguments.num_heads / layout.num_kv_heads;
  const int64_t queries_per_task = std::max<int64_t>(1, kAttendRows / group);
  const int64_t wanted_tasks = kPiecesPerThread * thread_count();
  AttendTasks tasks;
  tasks.groups = find_shared_keys(arguments, num_sequences, queries_per_task);
  std::vector<std::pair<const SharedKeys *, int32_t>> shared_of(static_cast<size_t>(num_sequences), {nullptr, -1});
  tasks.shared.reserve(tasks.groups.size());
  for (const SharedGroup &alike : tasks.groups) {
    const int32_t count = static_cast<int32_t>(alike.sequences.size());
    tasks.shared.push_back({alike.sequences.data(), count, alike.key_end, tasks.partials});
    const SharedKeys &shared = tasks.shared.back();
    tasks.partials += layout.num_kv_heads * shared.chunks() * count * group * partial_floats;
    tasks.most_queries = std::max<int64_t>(tasks.most_queries, count);
    for (int32_t place = 0; place < count; ++place) shared_of[static_cast<size_t>(alike.sequences[static_cast<size_t>(place)])] = {&shared, place};
    const int64_t wanted = ceil_divide(wanted_tasks, layout.num_kv_heads * static_cast<int64_t>(tasks.groups.size()));
    const int64_t pieces = std::min(shared.chunks(), wanted);
    for (int32_t head = 0; head < layout.num_kv_heads; ++head)
      for (int64_t piece = 0; piece < pieces; ++piece)
        tasks.common.push_back({alike.sequences[0], head, 0, 1, static_cast<int32_t>(shared.chunks() * piece / pieces),
                                static_cast<int32_t>(shared.chunks() * (piece + 1) / pieces), 0, 0, &shared, -1});
  }
  int64_t whole_tasks = 0;
  for (int64_t sequence = 0; sequence < num_sequences; ++sequence) {
    const int64_t queries = arguments.query_starts[sequence + 1] - arguments.query_starts[sequence];
    whole_tasks += ceil_divide(queries, queries_per_task) * layout.num_kv_heads;
    tasks.most_queries = std::max(tasks.most_queries, std::min(queries, queries_per_task));
  }
  for (int64_t sequence = 0; sequence < num_sequences; ++sequence) {
    const int64_t queries = arguments.query_starts[sequence + 1] - arguments.query_starts[sequence], length = arguments.context_lengths[sequence];
    const auto [shared, place] = shared_of[static_cast<size_t>(sequence)];
    for (int64_t head = 0; head < layout.num_kv_heads; ++head)
      // The last queries see the most keys: they come first, so that the threads end together.
      for (int64_t begin = (ceil_divide(queries, queries_per_task) - 1) * queries_per_task; begin >= 0; begin -= queries_per_task) {
        const int64_t end = std::min(queries, begin + queries_per_task), first_position = length - queries + begin;
        const bool from_the_start = arguments.window == 0 || arguments.keep_first > 0 || first_position < arguments.window;
        const int64_t seen_from = shared ? shared->key_end : from_the_start ? 0 : first_position - arguments.window + 1;
        const int32_t first_chunk = static_cast<int32_t>(seen_from / kKeyChunk), last_chunk = static_cast<int32_t>(ceil_divide(length - queries + end, kKeyChunk));
        const AttendTask task{static_cast<int32_t>(sequence), static_cast<int32_t>(head), static_cast<int32_t>(begin), static_cast<int32_t>(end),
                              first_chunk, last_chunk, first_chunk, -1, shared, place};
        add_pieces(tasks, task, whole_tasks >= wanted_tasks ? 1 : ceil_divide(wanted_tasks, whole_tasks), (end - begin) * group * partial_floats);
      }
  }
  return tasks;
}

} // namespace

void attend(const AttendArguments &given, int64_t num_sequences) {
  const KernelTable &kernels = active_kernels();
  AttendArguments arguments = given;
  arguments.batch_invariant = batch_invariant();
  const AttendTasks tasks = plan_tasks(arguments, num_sequences, kernels.attend_partial_floats(arguments.layout));
  const int64_t workspace = round_up(kernels.attend_workspace(arguments, tasks.most_queries), 16);
  Arena arena((thread_count() * workspace + tasks.partials) * 4 + 128);
  float *scratch = arena.take<float>(thread_count() * workspace);
  arguments.partials = arena.take<float>(tasks.partials);
  for (const std::vector<AttendTask> *phase : {&tasks.common, &tasks.own})
    parallel_for(static_cast<int64_t>(phase->size()), [&](int64_t task, int worker) {
      kernels.attend(arguments, (*phase)[static_cast<size_t>(task)], scratch + worker * workspace);
    });
  parallel_for(static_cast<int64_t>(tasks.merges.size()), [&](int64_t merge, int) { kernels.attend_merge(arguments, tasks.merges[static_cast<size_t>(merge)]); });
}

} // namespace flyweight
