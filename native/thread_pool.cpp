#include "thread_pool.h"

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace flyweight {
namespace {

// Between two calls of one forward pass a thread looks for work this long before it sleeps: waking it costs as much.
constexpr std::chrono::microseconds kPatience{30};

class ThreadPool {
public:
  explicit ThreadPool(int count) {
    for (int worker = 1; worker < count; ++worker) threads_.emplace_back([this, worker] { work(worker); });
  }

  ~ThreadPool() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    for (std::thread &thread : threads_) thread.join();
  }

  int count() const { return static_cast<int>(threads_.size()) + 1; }

  void run(int64_t tasks, TaskFunction function, void *context) {
    Job job{function, context, tasks, {0}, 0};
    {
      const std::lock_guard lock(mutex_);
      job_ = &job;
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    drain(job, 0);
    std::unique_lock lock(mutex_);
    job_ = nullptr; // who wakes up from here on finds nothing, and nobody waits for it
    done_.wait(lock, [&job] { return job.active == 0; });
  }

private:
  struct Job {
    TaskFunction function;
    void *context;
    int64_t tasks;
    std::atomic<int64_t> next;
    int active; // workers inside, guarded by mutex_
  };

  static void drain(Job &job, int worker) {
    for (;;) {
      const int64_t task = job.next.fetch_add(1, std::memory_order_relaxed);
      if (task >= job.tasks) return;
      job.function(job.context, task, worker);
    }
  }

  void work(int worker) {
    uint64_t seen = 0;
    for (;;) {
      const auto patience_ends = std::chrono::steady_clock::now() + kPatience;
      while (generation_.load(std::memory_order_acquire) == seen && std::chrono::steady_clock::now() < patience_ends) {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
      }
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this, seen] { return generation_.load(std::memory_order_relaxed) != seen; });
      seen = generation_.load(std::memory_order_relaxed);
      if (stopping_) return;
      Job *job = job_;
      if (!job) continue;
      ++job->active;
      lock.unlock();
      drain(*job, worker);
      lock.lock();
      if (--job->active == 0) done_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::atomic<uint64_t> generation_{0};
  Job *job_ = nullptr;
  bool stopping_ = false;
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
