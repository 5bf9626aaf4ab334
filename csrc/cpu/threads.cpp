#include "threads.h"

#include <omp.h>
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <exception>

#include "kernels/kernels.h"

namespace qkv {
namespace {

std::atomic<bool> threads_started{false};
std::atomic<bool> threads_lost{false};  // by a fork: waiting for them would hang

[[maybe_unused]] const int fork_handler =
    pthread_atfork(nullptr, nullptr, [] { threads_lost = threads_started.load(); });

// Waits politely: some microseconds of pauses, then the core goes to whoever needs it.
class Wait {
 public:
  void operator()() {
    if (++rounds_ > 1000) sched_yield();
#ifdef QKV_X86
    else __builtin_ia32_pause();
#endif
#ifdef QKV_ARM
    else __asm__ volatile("isb");  // `yield` does nothing on most cores; this waits some ten cycles
#endif
  }

 private:
  int rounds_ = 0;
};

// A worker that wakes up on the caller's core goes elsewhere. Linux was seen to leave both on one core for seconds
// while the other idled, once threads of another library had been awake there: slower than a single thread.
void leave_core([[maybe_unused]] int core) {
#ifdef __linux__
  if (sched_getcpu() != core) return;
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0 || CPU_COUNT(&allowed) < 2) return;
  cpu_set_t others = allowed;
  CPU_CLR(static_cast<size_t>(core), &others);
  sched_setaffinity(0, sizeof others, &others);    // moves at once,
  sched_setaffinity(0, sizeof allowed, &allowed);  // and stays free to move
#endif
}

int current_core() {
#ifdef __linux__
  return sched_getcpu();
#else
  return -1;
#endif
}

struct Job {
  int64_t tasks;
  void (*body)(const void*, int64_t, int);
  const void* context;
};

// `ticket` holds the number of the job (high half) and how many of its tasks nobody has taken yet (low half). Who
// lowers it by one has a task, and the job can't end or change before that task is done: so job_ needs no lock.
class Team {
 public:
  void run(const Job& job) {
    job_ = job;
    done_.store(0, std::memory_order_relaxed);
    const uint64_t number = (ticket_.load(std::memory_order_relaxed) >> 32) + 1;
    ticket_.store(number << 32 | static_cast<uint64_t>(job.tasks), std::memory_order_release);
    while (work(0)) {
    }
    for (Wait wait; done_.load(std::memory_order_acquire) < job.tasks;) wait();
  }

  // What the other threads do until the team is dismissed.
  void serve(int thread) {
    leave_core(callers_core_);
    for (Wait wait; !over_.load(std::memory_order_acquire);) {
      if (work(thread)) wait = Wait();
      else wait();
    }
  }

  void dismiss() { over_.store(true, std::memory_order_release); }

 private:
  // Takes and does one task; false when there is none.
  bool work(int thread) {
    uint64_t ticket = ticket_.load(std::memory_order_relaxed);
    do {
      if (static_cast<uint32_t>(ticket) == 0) return false;
    } while (!ticket_.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acquire, std::memory_order_relaxed));
    job_.body(job_.context, job_.tasks - static_cast<uint32_t>(ticket), thread);
    done_.fetch_add(1, std::memory_order_release);
    return true;
  }

  const int callers_core_ = current_core();
  Job job_{};
  alignas(kAlignment) std::atomic<uint64_t> ticket_{0};
  alignas(kAlignment) std::atomic<int64_t> done_{0};
  std::atomic<bool> over_{false};
};

thread_local Team* my_team = nullptr;

}  // namespace

void run_with_team(int threads, void (*body)(const void*), const void* context) {
  if (threads <= 1 || my_team || threads_lost) return body(context);
  threads_started = true;
  Team team;
  std::exception_ptr error;  // may not leave the parallel region by itself
#pragma omp parallel num_threads(threads)
  {
    if (omp_get_thread_num() == 0) {
      my_team = &team;
      try {
        body(context);
      } catch (...) {
        error = std::current_exception();
      }
      my_team = nullptr;
      team.dismiss();
    } else {
      team.serve(omp_get_thread_num());
    }
  }
  if (error) std::rethrow_exception(error);
}

void run_tasks(int64_t tasks, int threads, void (*body)(const void*, int64_t, int), const void* context) {
  threads = static_cast<int>(std::min<int64_t>(threads, tasks));
  if (threads > 1 && my_team) return my_team->run({tasks, body, context});
  if (threads > 1 && !threads_lost) return with_team(threads, [&] { run_tasks(tasks, threads, body, context); });
  for (int64_t task = 0; task < tasks; ++task) body(context, task, 0);
}

}  // namespace qkv
