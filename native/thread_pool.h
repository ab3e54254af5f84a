// The one pool of threads that all kernels share; its threads sleep while there is nothing to do.
#pragma once

#include <cstdint>
#include <type_traits>

namespace flyweight {

// Threads that work on one call, the calling one included.
int thread_count();
void set_thread_count(int count);

using TaskFunction = void (*)(void *context, int64_t task, int worker);

// Calls function(context, task, worker) once for each task in [0, tasks), in any order, and returns when all are done.
// 0 <= worker < thread_count(), and no two tasks run under the same worker at once. If the pool is at work for another
// thread, the caller does everything itself. Must not be called from inside a task.
void run_tasks(int64_t tasks, TaskFunction function, void *context);

template <class Function> void parallel_for(int64_t tasks, Function &&function) {
  run_tasks(
      tasks, [](void *context, int64_t task, int worker) { (*static_cast<std::remove_reference_t<Function> *>(context))(task, worker); },
      const_cast<void *>(static_cast<const void *>(&function)));
}

} // namespace flyweight
