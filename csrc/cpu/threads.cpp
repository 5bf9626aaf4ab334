#include "threads.h"

#include <omp.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>

namespace qkv {
namespace {

std::atomic<bool> threads_started{false};
std::atomic<bool> threads_lost{false};  // by a fork: waiting for them would hang

const int fork_handler = pthread_atfork(nullptr, nullptr, [] { threads_lost = threads_started.load(); });

}  // namespace

void run_tasks(int64_t tasks, int threads, void (*body)(const void*, int64_t, int), const void* context) {
  threads = static_cast<int>(std::min<int64_t>(threads, tasks));
  if (threads <= 1 || threads_lost) {
    for (int64_t task = 0; task < tasks; ++task) body(context, task, 0);
    return;
  }
  threads_started = true;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t task = 0; task < tasks; ++task) body(context, task, omp_get_thread_num());
}

}  // namespace qkv
