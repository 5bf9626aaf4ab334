#include "threads.h"

#include <omp.h>
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <utility>
#include <vector>

#include "kernels/kernels.h"

namespace qkv {
namespace {

thread_local Interruption* my_interruption = nullptr;

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

// Each thread has a range of neighbouring tasks, which for a linear layer are neighbours in memory too, and takes from
// the others' ranges when its own is done. A ticket holds the number of the job (high half) and how many tasks of a
// range nobody has taken yet (low half). Who lowers it by one has a task, and the job can't end or change before that
// task is done: so job_ needs no lock.
class Team {
 public:
  explicit Team(int threads) : tickets_(static_cast<size_t>(threads)) {}

  void run(const Job& job) {
    job_ = job;
    done_.store(0, std::memory_order_relaxed);
    ++number_;
    for (int thread = 0; thread < threads(); ++thread) {
      const int64_t count = end_of(thread) - end_of(thread - 1);
      ticket(thread).store(number_ << 32 | static_cast<uint64_t>(count), std::memory_order_release);
    }
    work(0);
    for (Wait wait; done_.load(std::memory_order_acquire) < job.tasks;) wait();
    if (interruption_ && interruption_->over(true)) interruption_->raise();
  }

  // What the other threads do until the team is dismissed.
  void serve(int thread) {
    leave_core(callers_core_);
    my_interruption = interruption_;
    for (Wait wait; !over_.load(std::memory_order_acquire);) {
      const uint64_t seen = ticket(thread).load(std::memory_order_acquire);
      if (work(thread)) wait = Wait();
      else
        while (ticket(thread).load(std::memory_order_relaxed) == seen && !over_.load(std::memory_order_relaxed)) wait();
    }
    my_interruption = nullptr;
  }

  void dismiss() { over_.store(true, std::memory_order_release); }

 private:
  struct alignas(kAlignment) Ticket {
    std::atomic<uint64_t> value{0};
  };

  int threads() const { return static_cast<int>(tickets_.size()); }
  std::atomic<uint64_t>& ticket(int thread) { return tickets_[static_cast<size_t>(thread)].value; }
  int64_t end_of(int thread) const { return job_.tasks * (thread + 1) / threads(); }

  // Does what there is to do, first of the thread's own range; false when there was nothing.
  bool work(int thread) {
    bool worked = false;
    for (int i = 0; i < threads(); ++i)
      while (take((thread + i) % threads(), thread)) worked = true;
    return worked;
  }

  // Takes and does one task of `owner`'s range; false when there is none.
  bool take(int owner, int thread) {
    uint64_t seen = ticket(owner).load(std::memory_order_relaxed);
    do {
      if (static_cast<uint32_t>(seen) == 0) return false;
    } while (
        !ticket(owner).compare_exchange_weak(seen, seen - 1, std::memory_order_acquire, std::memory_order_relaxed));
    if (!interruption_ || !interruption_->over(thread == 0))
      job_.body(job_.context, end_of(owner) - static_cast<uint32_t>(seen), thread);
    done_.fetch_add(1, std::memory_order_release);
    return true;
  }

  const int callers_core_ = current_core();
  Interruption* const interruption_ = my_interruption;
  Job job_{};
  uint64_t number_ = 0;  // of the job
  std::vector<Ticket> tickets_;
  alignas(kAlignment) std::atomic<int64_t> done_{0};
  std::atomic<bool> over_{false};
};

thread_local Team* my_team = nullptr;

}  // namespace

Interruption::Interruption() : outer_(std::exchange(my_interruption, this)) {}

Interruption::~Interruption() { my_interruption = outer_; }

bool Interruption::ask() {
  constexpr auto kShort = std::chrono::milliseconds(1);
  constexpr int kPolls = 16;  // reading the clock takes some 20 ns, a task sometimes no more than a microsecond
  const auto now = Clock::now();
  polls_ = now - asked_ < kShort ? kPolls : 1;
  asked_ = now;
  Team* const team = std::exchange(my_team, nullptr);  // who answers may run something else, with another team
  over_.store(requested(now), std::memory_order_relaxed);
  my_team = team;
  return over_.load(std::memory_order_relaxed);
}

bool interrupted() { return my_interruption && my_interruption->over(my_interruption->is_owner()); }

void run_with_team(int threads, void (*body)(const void*), const void* context) {
  if (threads <= 1 || my_team || threads_lost) return body(context);
  threads_started = true;
  Team team(threads);
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

int threads_for(double work, int threads) { return work < (my_team ? 2e5 : 1e6) ? 1 : threads; }

void run_tasks(int64_t tasks, int threads, void (*body)(const void*, int64_t, int), const void* context) {
  threads = static_cast<int>(std::min<int64_t>(threads, tasks));
  if (threads > 1 && my_team) return my_team->run({tasks, body, context});
  if (threads > 1 && !threads_lost) return with_team(threads, [&] { run_tasks(tasks, threads, body, context); });
  Interruption* const interruption = my_interruption;
  const bool owner = interruption && interruption->is_owner();
  for (int64_t task = 0; task < tasks; ++task) {
    if (interruption && interruption->over(owner)) interruption->raise();
    body(context, task, 0);
  }
}

}  // namespace qkv
