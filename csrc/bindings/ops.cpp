#include "cpu/ops.h"

#include <algorithm>
#include <cstdlib>
#include <new>
#include <optional>

#include "bindings.h"
#include "cpu/error.h"
#include "cpu/isa.h"
#include "long_call.h"

namespace qkv {
namespace {

// A result that begins on a cache line, which NumPy's own arrays do not. The next kernel reads it: LayerNorm takes a
// third longer when its vectors lie across two lines.
py::array_t<float> like(const FloatArray& x) {
  const auto bytes = static_cast<size_t>(x.nbytes());
  void* data = std::aligned_alloc(kAlignment, (bytes / kAlignment + 1) * kAlignment);
  if (!data) throw std::bad_alloc();
  const py::capsule owner(data, [](void* memory) { std::free(memory); });
  return py::array_t<float>(std::vector<py::ssize_t>(x.shape(), x.shape() + x.ndim()), static_cast<float*>(data),
                            owner);
}

// Python has checked already and said it better; this is so that no call can make a kernel read what is not there.
void check(const FloatArray& x, const char* what, std::vector<py::ssize_t> shape) {
  require(std::equal(shape.begin(), shape.end(), x.shape(), x.shape() + x.ndim()), what, ": unexpected shape");
}

py::array_t<float> map_array(const std::string& name, const FloatArray& x, int threads) {
  const Function function = function_of(name);
  py::array_t<float> y = like(x);
  float* out = y.mutable_data();
  const LongCall call;
  map(chosen_kernels(), function, x.data(), out, x.size(), threads);
  return y;
}

py::array_t<float> softmax_last_axis(const FloatArray& x, int threads) {
  require(x.ndim() > 0, "softmax: x must be [..., n]");
  py::array_t<float> y = like(x);
  float* out = y.mutable_data();
  const LongCall call;
  const int64_t n = x.shape(x.ndim() - 1);
  if (n > 0) softmax(chosen_kernels(), x.data(), out, x.size() / n, n, threads);
  return y;
}

py::array_t<float> norm_rows(const FloatArray& x, const FloatArray& weight, const std::optional<FloatArray>& bias,
                             float eps, bool centred, int threads) {
  require(x.ndim() > 0, "norm: x must be [..., n]");
  const int64_t n = x.shape(x.ndim() - 1);
  check(weight, "norm: weight", {n});
  if (bias) check(*bias, "norm: bias", {n});
  py::array_t<float> y = like(x);
  const NormArgs args = {.x = x.data(),
                         .x_stride = n,
                         .weight = weight.data(),
                         .bias = bias ? bias->data() : nullptr,
                         .n = n,
                         .eps = eps,
                         .centred = centred,
                         .y = y.mutable_data(),
                         .y_stride = n};
  const LongCall call;
  if (n > 0) norm(chosen_kernels(), args, x.size() / n, threads);
  return y;
}

py::array_t<float> linear_rows(const FloatArray& x, const Weight& weight, const std::string& activation,
                               const std::optional<FloatArray>& residual, int threads) {
  check_linear(x, weight, residual);
  const int64_t rows = x.shape(0);
  const Function function = function_of(activation);
  py::array_t<float> y({rows, weight.half_out()});
  float* out = y.mutable_data();
  const LongCall call;
  const DType type = weight.activations();
  Memory converted;
  if (type != DType::float32) converted = Memory(Activations::bytes(type, rows, weight.in()));
  const Activations in(type, type == DType::float32 ? const_cast<float*>(x.data()) : converted.data(), rows,
                       weight.in());
  if (type != DType::float32) convert(weight.kernels(), x.data(), rows, in, threads);
  std::vector<Memory> scratch;
  linear(weight, in, rows, function, residual ? residual->data() : nullptr, out, threads, scratch);
  return y;
}

void check_rotary(const char* op, const FloatArray& rotary, int64_t positions, int64_t head_dim) {
  require(rotary.ndim() == 2 && rotary.shape(0) == positions && rotary.shape(1) % 2 == 0 && rotary.shape(1) <= head_dim,
          op, ": rotary must be [", positions, ", an even number up to ", head_dim, "]");
}

py::array_t<float> rope_rows(const FloatArray& x, const FloatArray& rotary, bool interleaved, int threads) {
  require(x.ndim() >= 2, "rope: x must be [..., tokens, head_dim]");
  const int64_t tokens = x.shape(x.ndim() - 2), head_dim = x.shape(x.ndim() - 1);
  check_rotary("rope", rotary, tokens, head_dim);
  py::array_t<float> y = like(x);
  const RopeArgs args = {.x = x.data(),
                         .rotary = rotary.data(),
                         .tokens = tokens,
                         .rotary_dim = rotary.shape(1),
                         .head_dim = head_dim,
                         .interleaved = interleaved,
                         .y = y.mutable_data()};
  const LongCall call;
  if (x.size() > 0) rope(chosen_kernels(), args, x.size() / head_dim, threads);
  return y;
}

}  // namespace

void check_linear(const FloatArray& x, const Weight& weight, const std::optional<FloatArray>& residual) {
  require(weight.layout() != Layout::rows, "linear: needs a weight in panels");
  require(x.ndim() == 2 && x.shape(1) == weight.in(), "linear: x must be [rows, ", weight.in(), "]");
  if (residual) check(*residual, "linear: residual", {x.shape(0), weight.half_out()});
}

void register_ops(py::module_& m) {
  using namespace py::literals;
  m.def("map", &map_array, "function"_a, "x"_a, "threads"_a = 1);
  m.def("softmax", &softmax_last_axis, "x"_a, "threads"_a = 1);
  m.def("norm", &norm_rows, "x"_a, "weight"_a, "bias"_a.none(true), "eps"_a, "centred"_a, "threads"_a = 1);
  m.def("linear", &linear_rows, "x"_a, "weight"_a, "activation"_a, "residual"_a.none(true), "threads"_a = 1);
  m.def("rope", &rope_rows, "x"_a, "rotary"_a, "interleaved"_a = false, "threads"_a = 1);
}

}  // namespace qkv
