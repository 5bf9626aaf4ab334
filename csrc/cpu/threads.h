// The one place that knows OpenMP. Work is cut into tasks; whoever is free takes the next one, and nobody waits for a
// thread that has taken none: on a shared machine a worker may get its core milliseconds late.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>

namespace qkv {

// What can end work early. While it lives, run_tasks of the thread that made it throws what raise() throws, some
// milliseconds after requested() says so; tasks that nobody has begun are left undone then.
class Interruption {
 public:
  using Clock = std::chrono::steady_clock;

  Interruption();
  virtual ~Interruption();
  Interruption(const Interruption&) = delete;
  Interruption& operator=(const Interruption&) = delete;

  // Whether the work ends early. Only its owner, the thread that made this object, asks; the others of the team are
  // told.
  bool over(bool owner) { return over_.load(std::memory_order_relaxed) || (owner && --polls_ <= 0 && ask()); }
  bool is_owner() const { return std::this_thread::get_id() == owner_; }
  [[noreturn]] virtual void raise() = 0;

 private:
  // Asked between two tasks, at most every 16th time, while other threads work on: it must not throw.
  virtual bool requested(Clock::time_point now) noexcept = 0;
  bool ask();

  const std::thread::id owner_ = std::this_thread::get_id();
  Interruption* const outer_;
  std::atomic<bool> over_{false};
  Clock::time_point asked_;
  int polls_ = 1;  // until it is asked again
};

// For tasks of more than some milliseconds: whether they may return half done, because their work ends early.
bool interrupted();

// Runs body(context) on the calling thread while threads - 1 others wait for what it hands to parallel_for. One team
// serves all steps of a run. After a fork() the child has no team: OpenMP's threads do not survive a fork.
void run_with_team(int threads, void (*body)(const void* context), const void* context);

// Calls body(context, task, thread) for every task in 0 ... tasks - 1; thread is in 0 ... threads - 1, and no two calls
// with the same thread run at once. Returns when all are done. Outside a team it makes one for the occasion; in a team
// `threads` is 1 or the team's own number.
void run_tasks(int64_t tasks, int threads, void (*body)(const void* context, int64_t task, int thread),
               const void* context);

// How many threads are worth it for `work` of about 0.01 ns each: waking the others and waiting for them costs some
// microseconds, in a team that is awake less than one.
int threads_for(double work, int threads);

template <class Body>
void with_team(int threads, const Body& body) {
  run_with_team(threads, [](const void* context) { (*static_cast<const Body*>(context))(); }, &body);
}

template <class Body>
void parallel_for(int64_t tasks, int threads, const Body& body) {
  run_tasks(
      tasks, threads,
      [](const void* context, int64_t task, int thread) { (*static_cast<const Body*>(context))(task, thread); }, &body);
}

}  // namespace qkv
