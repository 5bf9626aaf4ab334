#include "bindings.h"
#include "cpu/error.h"
#include "long_call.h"

PYBIND11_MODULE(_ext, m) {
  m.doc() = "qkv's kernels and program executor; use them through the qkv package.";
  // qkv.Error is a Python class, so that `except ValueError` and `except qkv.Error` both catch it.
  static PYBIND11_CONSTINIT pybind11::gil_safe_call_once_and_store<pybind11::object> error, cancelled;
  error.call_once_and_store_result([] { return pybind11::module_::import("qkv.errors").attr("Error"); });
  cancelled.call_once_and_store_result([] { return pybind11::module_::import("qkv.errors").attr("Cancelled"); });
  pybind11::register_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const qkv::Error& e) {
      pybind11::set_error(error.get_stored(), e.what());
    } catch (const qkv::Cancelled& e) {
      pybind11::set_error(cancelled.get_stored(), e.what());
    }
  });
  qkv::register_system(m);
  qkv::register_weight(m);
  qkv::register_attention(m);
  qkv::register_batches(m);
  qkv::register_program(m);
  qkv::register_rules(m);
  qkv::register_sampling(m);
  qkv::register_logprobs(m);
  qkv::register_beams(m);
  qkv::register_ops(m);
  qkv::register_ceilings(m);
}
