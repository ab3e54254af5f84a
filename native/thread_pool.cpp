#include "thread_pool.h"

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace flyweight {
namespace {

using Clock = std::chrono::steady_clock;

// A thread that has nothing to do looks for work this long before it sleeps: between two calls of one step sleeping and
// waking, or offering its processor to others meanwhile, would cost more than the work.
constexpr std::chrono::microseconds kPatience{200};

// How long the caller waits awake for a thread that has begun a task and is not done.
constexpr std::chrono::microseconds kCallerPatience{50};

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// One job at a time, given by one thread at a time. `state_` holds everything that threads agree on: the number of the
// job, whether it may still be entered, and how many threads are inside. A thread that wakes up late finds the job closed
// and is not waited for.
class ThreadPool {
public:
  explicit ThreadPool(int count) {
    for (int worker = 1; worker < count; ++worker) threads_.emplace_back([this, worker] { work(worker); });
  }

  ~ThreadPool() {
    stopping_.store(true, std::memory_order_relaxed);
    state_.store(next_number(), std::memory_order_seq_cst);
    state_.notify_all();
    for (std::thread &thread : threads_) thread.join();
  }

  void run(int64_t tasks, TaskFunction function, void *context) {
    tasks_ = tasks, function_ = function, context_ = context;
    next_.store(0, std::memory_order_relaxed);
    // Sequentially consistent, as is the look for sleepers in notify_all: one of the two sides sees the other.
    state_.store(next_number() | kOpen, std::memory_order_seq_cst);
    state_.notify_all();
    drain(0);
    state_.fetch_and(~kOpen, std::memory_order_acq_rel);
    const auto patience_ends = Clock::now() + kCallerPatience;
    while (inside()) {
      if (Clock::now() < patience_ends) {
        pause();
        continue;
      }
      caller_sleeps_.store(1, std::memory_order_seq_cst);
      if (inside()) caller_sleeps_.wait(1, std::memory_order_seq_cst);
    }
    caller_sleeps_.store(0, std::memory_order_relaxed);
  }

private:
  static constexpr uint32_t kOpen = 1u << 15, kInside = kOpen - 1, kNumber = 1u << 16; // a number may come again: no harm

  uint32_t next_number() const { return (state_.load(std::memory_order_relaxed) & ~(kNumber - 1)) + kNumber; }
  bool inside() const { return state_.load(std::memory_order_seq_cst) & kInside; }

  void drain(int worker) {
    for (;;) {
      const int64_t task = next_.fetch_add(1, std::memory_order_relaxed);
      if (task >= tasks_) return;
      function_(context_, task, worker);
    }
  }

  // The state as soon as its number is not `seen`.
  uint32_t await(uint32_t seen) {
    const auto patience_ends = Clock::now() + kPatience;
    for (;;) {
      const uint32_t state = state_.load(std::memory_order_acquire);
      if (state / kNumber != seen) return state;
      if (Clock::now() < patience_ends) pause();
      else state_.wait(state, std::memory_order_seq_cst);
    }
  }

  void work(int worker) {
    uint32_t seen = 0;
    for (;;) {
      uint32_t state = await(seen);
      if (stopping_.load(std::memory_order_relaxed)) return;
      seen = state / kNumber;
      while ((state & kOpen) && state / kNumber == seen) {
        if (!state_.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel)) continue;
        drain(worker);
        const uint32_t left = state_.fetch_sub(1, std::memory_order_seq_cst) - 1;
        if (!(left & (kOpen | kInside)) && caller_sleeps_.exchange(0, std::memory_order_seq_cst)) caller_sleeps_.notify_one();
        break;
      }
    }
  }

  // What a job is; written while nobody is inside.
  int64_t tasks_ = 0;
  TaskFunction function_ = nullptr;
  void *context_ = nullptr;

  alignas(64) std::atomic<uint32_t> state_{0};
  alignas(64) std::atomic<int64_t> next_{0};
  alignas(64) std::atomic<uint32_t> caller_sleeps_{0};
  std::atomic<bool> stopping_{false};
  std::vector<std::thread> threads_;
};

struct Shared {
  std::mutex mutex; // held during a job: one job at a time
  std::unique_ptr<ThreadPool> pool;
  int count = 1;
};

Shared *shared_instance = nullptr;

Shared &shared() {
  static std::once_flag once;
  std::call_once(once, [] {
    shared_instance = new Shared; // never destroyed: at exit a thread may still be inside a kernel
    // A fork copies no threads, and a lock that one of them held stays locked: the child starts anew, the old is left.
    pthread_atfork(nullptr, nullptr, [] {
      const int count = shared_instance->count;
      shared_instance = new Shared;
      shared_instance->count = count;
    });
  });
  return *shared_instance;
}

} // namespace

int thread_count() { return shared().count; }

void set_thread_count(int count) {
  Shared &state = shared();
  const std::lock_guard lock(state.mutex);
  state.pool.reset();
  state.count = count;
}

void run_tasks(int64_t tasks, TaskFunction function, void *context) {
  Shared &state = shared();
  if (tasks > 1 && state.count > 1) {
    const std::unique_lock lock(state.mutex, std::try_to_lock);
    if (lock.owns_lock()) {
      if (!state.pool) state.pool = std::make_unique<ThreadPool>(state.count);
      return state.pool->run(tasks, function, context);
    }
  }
  for (int64_t task = 0; task < tasks; ++task) function(context, task, 0);
}

} // namespace flyweight
