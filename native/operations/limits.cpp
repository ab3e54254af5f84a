#include <chrono>
#include <vector>

#include "aligned_buffer.h"
#include "dispatch.h"
#include "operations.h"
#include "thread_pool.h"

namespace flyweight {
namespace {

constexpr int64_t kBlock = 1 << 16;       // bytes one task of a read covers
constexpr int64_t kRepeats = 1 << 16;     // rounds of products in one task
constexpr int64_t kTasksPerThread = 4;

// The best of `attempts` of work per second; `run` returns how much it did.
template <class Run> double best_rate(int attempts, Run &&run) {
  double best = 0.0;
  for (int i = 0; i < attempts; ++i) {
    const auto start = std::chrono::steady_clock::now();
    const double done = static_cast<double>(run());
    best = std::max(best, done / std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

} // namespace

double measure_read(int64_t bytes, int attempts) {
  const KernelTable &kernels = active_kernels();
  // Each thread reads one run of its own, as a kernel's share of the weights is.
  const int64_t threads = thread_count(), blocks = std::max<int64_t>(1, bytes / kBlock / threads);
  AlignedBuffer buffer(static_cast<size_t>(threads * blocks * kBlock));
  std::vector<int32_t> seen(static_cast<size_t>(threads * 16));
  return best_rate(attempts, [&] {
    parallel_for(threads, [&](int64_t task, int) {
      seen[static_cast<size_t>(task * 16)] += kernels.read_all(buffer.as<uint8_t>() + task * blocks * kBlock, blocks * kBlock);
    });
    return threads * blocks * kBlock;
  });
}

double measure_multiply(Product product, int attempts) {
  const KernelTable &kernels = active_kernels();
  const auto multiply = product == Product::kInt4   ? kernels.multiply_int4
                        : product == Product::kInt8 ? kernels.multiply_int8
                                                    : kernels.multiply_bfloat16;
  const int64_t tasks = thread_count() * kTasksPerThread;
  AlignedBuffer sinks(static_cast<size_t>(thread_count() * 256));
  return best_rate(attempts, [&] {
    std::vector<int64_t> done(static_cast<size_t>(tasks));
    parallel_for(tasks, [&](int64_t task, int worker) {
      float *sink = sinks.as<float>() + worker * 64;
      done[static_cast<size_t>(task)] = multiply(kRepeats, sink);
    });
    int64_t total = 0;
    for (const int64_t part : done) total += part;
    return total;
  });
}

} // namespace flyweight
