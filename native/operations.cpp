#include "operations.h"

#include <algorithm>
#include <vector>

#include "dispatch.h"
#include "thread_pool.h"

namespace flyweight {
namespace {

// Below this many multiplications (or touched numbers) waking another thread costs more than it brings.
constexpr int64_t kSerialWork = 1 << 17;

// Most rows of a linear in one task: one pass over their inputs then fits in a second-level cache of 1 MiB.
constexpr int64_t kLinearRows = 480;

// Rows of attention (queries times heads of a group) in one task.
constexpr int64_t kAttendRows = 48;

int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return ceil_divide(a, b) * b; }

// Scratch of the calling thread, kept from call to call; the pool's threads get slices of it.
class Arena {
public:
  explicit Arena(int64_t bytes) {
    if (static_cast<int64_t>(buffer().size()) < bytes) buffer() = AlignedBuffer(static_cast<size_t>(bytes + bytes / 4));
    next_ = buffer().as<std::byte>();
  }
  template <class T> T *take(int64_t count) {
    T *start = reinterpret_cast<T *>(next_);
    next_ += round_up(count * static_cast<int64_t>(sizeof(T)), 64);
    return start;
  }

private:
  static AlignedBuffer &buffer() {
    static thread_local AlignedBuffer kept;
    return kept;
  }
  std::byte *next_;
};

// Splits `count` items into ranges and runs them; work_per_item decides whether other threads are woken at all.
template <class Function> void over_ranges(int64_t count, int64_t work_per_item, int64_t granule, Function &&function) {
  const int64_t threads = count * work_per_item < kSerialWork ? 1 : thread_count();
  const int64_t length = std::max(granule, round_up(ceil_divide(count, threads * 4), granule));
  if (threads == 1) return function(int64_t{0}, count, 0);
  parallel_for(ceil_divide(count, length), [&](int64_t task, int worker) { function(task * length, std::min(count, (task + 1) * length), worker); });
}

} // namespace

void linear(const LinearHandle &handle, const float *x, int64_t x_stride, int64_t rows, const float *bias, float *y, int64_t y_stride) {
  if (rows == 0) return;
  const KernelTable &kernels = active_kernels();
  const PackedWeight &w = handle.weight();
  const int threads = thread_count();
  LinearInput in{};
  in.x = x, in.x_stride = x_stride;
  // Rows a multiple of 1 KiB apart fall on the same few cache lines: many such float rows are copied further apart.
  const bool spread = w.compute == Compute::kFloat32 && rows >= 48 && x_stride % 256 == 0;
  const int64_t padded = is_integer(w.storage) ? w.num_segments * w.padded_segment : round_up(w.in_features, 2);
  if (w.compute != Compute::kFloat32) in.values_stride = round_up(padded, 64) + 64;
  if (spread) in.values_stride = w.in_features + kLanes;
  const int64_t value_bytes = w.compute == Compute::kInt8 ? 1 : w.compute == Compute::kBfloat16 ? 2 : 4;
  const int64_t workspace = round_up(kernels.linear_workspace(w), kLanes);
  in.num_activation_scales = ceil_divide(w.num_segments, w.segments_per_activation_scale);
  Arena arena(rows * (in.values_stride * value_bytes + in.num_activation_scales * 4 + w.num_segments * 4) + threads * workspace * 4 + 4 * 64);
  in.values = arena.take<std::byte>(rows * in.values_stride * value_bytes);
  in.scales = arena.take<float>(rows * in.num_activation_scales);
  in.integer_sums = arena.take<int32_t>(rows * w.num_segments);
  in.float_sums = reinterpret_cast<float *>(in.integer_sums); // only one of the two is used
  float *scratch = arena.take<float>(threads * workspace);
  if (spread) {
    float *copies = static_cast<float *>(in.values);
    over_ranges(rows, w.in_features, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t row = begin; row < end; ++row) std::copy_n(x + row * x_stride, w.in_features, copies + row * in.values_stride);
    });
    in.x = copies, in.x_stride = in.values_stride;
  }
  if (w.compute != Compute::kFloat32)
    over_ranges(rows, w.in_features, 1, [&](int64_t begin, int64_t end, int) { kernels.prepare_input(w, in, begin, end); });

  const LinearOutput out{y, y_stride, bias};
  const int64_t panels = ceil_divide(w.out_features, kLanes);
  const bool serial = rows * w.in_features * w.out_features < kSerialWork || threads == 1;
  const int64_t panel_chunk = serial ? panels : round_up(ceil_divide(panels, threads * 4), kernels.panels_per_tile);
  const int64_t panel_chunks = ceil_divide(panels, panel_chunk);
  const int64_t wanted = serial ? 1 : ceil_divide(4 * threads, panel_chunks); // cut rows too where there are too few panels
  const int64_t row_chunk = std::min(kLinearRows, std::max<int64_t>(std::min<int64_t>(rows, 48), ceil_divide(rows, wanted)));
  const auto run = [&](int64_t task, int worker) {
    const int64_t panel = task % panel_chunks * panel_chunk, row = task / panel_chunks * row_chunk;
    kernels.linear(w, in, out, panel, std::min(panels, panel + panel_chunk), row, std::min(rows, row + row_chunk), scratch + worker * workspace);
  };
  const int64_t tasks = panel_chunks * ceil_divide(rows, row_chunk);
  if (!serial) return parallel_for(tasks, run);
  for (int64_t task = 0; task < tasks; ++task) run(task, 0);
}

void rms_norm(const float *x, const float *weight, float *out, int64_t rows, int64_t width, float epsilon, float weight_offset) {
  const KernelTable &kernels = active_kernels();
  over_ranges(rows, width, 1, [&](int64_t begin, int64_t end, int) { kernels.rms_norm(x, weight, out, width, epsilon, weight_offset, begin, end); });
}

void rope(const float *x, const float *cosine, const float *sine, float *out, int64_t tokens, int64_t num_heads,
          int64_t head_dim, int64_t rotary_dim) {
  const KernelTable &kernels = active_kernels();
  over_ranges(tokens, num_heads * head_dim, 1, [&](int64_t begin, int64_t end, int) {
    kernels.rope(x, cosine, sine, out, num_heads, head_dim, rotary_dim, begin, end);
  });
}

void act_mul(const float *gate_up, float *out, int64_t rows, int64_t width, Activation activation) {
  const KernelTable &kernels = active_kernels();
  over_ranges(rows, width * 8, 1, [&](int64_t begin, int64_t end, int) { kernels.act_mul(gate_up, out, width, activation, begin, end); });
}

void add(const float *x, const float *y, float *out, float alpha, int64_t count) {
  const KernelTable &kernels = active_kernels();
  over_ranges(count, 1, 1024, [&](int64_t begin, int64_t end, int) { kernels.add(x, y, out, alpha, begin, end); });
}

void cap(const float *x, float *out, float scale, float softcap, int64_t count) {
  const KernelTable &kernels = active_kernels();
  over_ranges(count, 8, 1024, [&](int64_t begin, int64_t end, int) { kernels.cap(x, out, scale, softcap, begin, end); });
}

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
