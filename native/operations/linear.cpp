#include "operations.h"

#include <algorithm>

#include "dispatch.h"
#include "operations/scratch.h"

namespace flyweight {

void linear(const LinearHandle &handle, const float *x, int64_t x_stride, int64_t rows, const float *bias, float *y, int64_t y_stride) {
  if (rows == 0) return;
  const KernelTable &kernels = active_kernels();
  const PackedWeight &w = handle.weight();
  const int threads = thread_count();
  LinearInput in{};
  in.x = x, in.x_stride = x_stride, in.batch_invariant = batch_invariant();
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
  const int64_t most_rows = std::min(kernels.most_rows_per_task, std::max<int64_t>(std::min<int64_t>(rows, 48), ceil_divide(rows, wanted)));
  const int64_t row_chunk = std::min(most_rows, round_up(ceil_divide(rows, ceil_divide(rows, most_rows)), 16)); // nearly equal ones
  const auto run = [&](int64_t task, int worker) {
    const int64_t panel = task % panel_chunks * panel_chunk, row = task / panel_chunks * row_chunk;
    kernels.linear(w, in, out, panel, std::min(panels, panel + panel_chunk), row, std::min(rows, row + row_chunk), scratch + worker * workspace);
  };
  const int64_t tasks = panel_chunks * ceil_divide(rows, row_chunk);
  if (!serial) return parallel_for(tasks, run);
  for (int64_t task = 0; task < tasks; ++task) run(task, 0);
}

} // namespace flyweight
