// Calls into C++ that take a while: without the GIL, and so that Ctrl-C ends them.
#pragma once

#include <pybind11/pybind11.h>

#include <atomic>
#include <exception>
#include <optional>

#include "cpu/threads.h"

namespace qkv {

// A flag for ending a run from another thread.
class Cancel {
 public:
  void set() { set_.store(true, std::memory_order_relaxed); }
  bool is_set() const { return set_.load(std::memory_order_relaxed); }

 private:
  std::atomic<bool> set_{false};
};

// Python sees it as qkv.Cancelled.
struct Cancelled : std::exception {
  const char* what() const noexcept override { return "the run was cancelled"; }
};

// While it lives, this thread has no GIL, and work ends early where a signal handler raises an exception (Ctrl-C: then
// the exception goes on to the caller) or `cancel` is set. Python runs handlers on its main thread only.
class LongCall final : private Interruption {
 public:
  explicit LongCall(const Cancel* cancel = nullptr) : cancel_(cancel) {}

 private:
  bool requested(Clock::time_point now) noexcept override;
  [[noreturn]] void raise() override;
  void check_signals();

  const Cancel* const cancel_;
  Clock::time_point checked_ = Clock::now();
  bool handles_signals_ = true;
  std::optional<pybind11::error_already_set> error_;
  const pybind11::gil_scoped_release release_;
};

}  // namespace qkv
