// The one place that knows OpenMP. Work is cut into tasks; threads take the next task when they are free.
#pragma once

#include <cstdint>

namespace qkv {

// Calls body(context, task, thread) for every task in 0 ... tasks - 1; thread is in 0 ... threads - 1 and no two
// calls with the same thread run at once. Returns when all are done. After a fork() the child runs everything on
// the calling thread: OpenMP's own threads do not survive a fork.
void run_tasks(int64_t tasks, int threads, void (*body)(const void* context, int64_t task, int thread),
               const void* context);

// Waking a thread and waiting for it costs some microseconds: less work than about ten of them stays on one thread.
inline int threads_for(double operations, int threads) { return operations < 1e6 ? 1 : threads; }

template <class Body>
void parallel_for(int64_t tasks, int threads, const Body& body) {
  run_tasks(
      tasks, threads,
      [](const void* context, int64_t task, int thread) { (*static_cast<const Body*>(context))(task, thread); }, &body);
}

}  // namespace qkv
