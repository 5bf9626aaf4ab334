#include "cpu/ceilings.h"

#include <optional>

#include "bindings.h"
#include "cpu/error.h"
#include "cpu/isa.h"
#include "long_call.h"

namespace qkv {
namespace {

double time_linear(const FloatArray& x, const Weight& weight, const std::string& activation,
                   const std::optional<FloatArray>& residual, bool prepared, int threads, double seconds) {
  check_linear(x, weight, residual);
  const Function function = function_of(activation);
  const LongCall call;
  return linear_seconds(weight, x.data(), x.shape(0), function, residual ? residual->data() : nullptr, prepared,
                        threads, seconds);
}

}  // namespace

void register_ceilings(py::module_& m) {
  using namespace py::literals;
  m.def(
      "peak_rate",
      [](const std::string& dtype, int threads, double seconds) {
        const DType type = dtype_of(dtype);
        const LongCall call;
        return peak_rate(chosen_kernels(), type, threads, seconds);
      },
      "dtype"_a, "threads"_a, "seconds"_a);
  py::class_<Stream>(m, "Stream")
      .def(py::init<int64_t>(), "nbytes"_a, py::call_guard<LongCall>())
      .def(
          "read_rate",
          [](const Stream& stream, int threads, double seconds) {
            return stream.read_rate(chosen_kernels(), threads, seconds);
          },
          "threads"_a, "seconds"_a, py::call_guard<LongCall>());
  m.def("linear_seconds", &time_linear, "x"_a, "weight"_a, "activation"_a, "residual"_a.none(true), "prepared"_a,
        "threads"_a, "seconds"_a);
}

}  // namespace qkv
