#include "long_call.h"

namespace qkv {

namespace py = pybind11;

bool LongCall::requested(Clock::time_point now) noexcept {
  constexpr auto kInterval = std::chrono::milliseconds(50);  // a busy Python thread lets go of the GIL after 5 ms only
  if (cancel_ && cancel_->is_set()) return true;
  if (!handles_signals_ || now - checked_ < kInterval) return false;
  checked_ = now;
  const py::gil_scoped_acquire gil;
  try {
    check_signals();
    return false;
  } catch (const py::error_already_set& error) {
    error_ = error;
    return true;
  }
}

void LongCall::check_signals() {
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  const py::object threading = py::module_::import("threading");
  const py::object mine = threading.attr("current_thread")();
  handles_signals_ = mine.is(threading.attr("main_thread")());
}

void LongCall::raise() {
  if (error_) throw *error_;
  throw Cancelled();
}

}  // namespace qkv
