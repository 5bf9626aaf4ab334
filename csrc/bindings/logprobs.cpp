#include "cpu/logprobs.h"

#include "bindings.h"
#include "cpu/error.h"
#include "cpu/isa.h"

namespace qkv {
namespace {

using TokenArray = py::array_t<int64_t, py::array::c_style | py::array::forcecast>;

void log_softmax_in_place(py::array& logits, int threads, std::optional<py::array> maxima) {
  float* x = writable_rows(logits, "log_softmax");
  const int64_t rows = logits.shape(0), n = logits.shape(1);
  std::span<float> blocks;
  if (maxima) {
    blocks = {writable_rows(*maxima, "log_softmax"), static_cast<size_t>(maxima->size())};
    require(maxima->shape(0) == rows, "log_softmax: maxima must be [rows, blocks], of all rows");
  }
  const py::gil_scoped_release release;
  log_softmax(chosen_kernels(), x, rows, n, blocks, threads);
}

py::tuple logprobs_of_rows(const FloatArray& logits, const TokenArray& tokens, int64_t top_n, int threads) {
  require(logits.ndim() == 2, "logprobs: logits must be [rows, vocabulary]");
  const int64_t rows = logits.shape(0), n = logits.shape(1);
  require(tokens.ndim() == 1 && tokens.size() == rows, "logprobs: tokens must be [", rows, "], one for each row");
  require(top_n >= 0 && top_n <= n, "logprobs: top_n is ", top_n, "; expected 0 to ", n);
  for (int64_t row = 0; row < rows; ++row)
    require(tokens.at(row) >= 0 && tokens.at(row) < n, "logprobs: token ", tokens.at(row), " of row ", row,
            " is not in the vocabulary, 0 to ", n - 1);
  py::array_t<double> of_tokens(rows), of_top({rows, top_n});
  py::array_t<int64_t> top_ids({rows, top_n});
  const Logprobs wanted = {.tokens = tokens.data(),
                           .top = top_n,
                           .of_tokens = of_tokens.mutable_data(),
                           .top_ids = top_ids.mutable_data(),
                           .of_top = of_top.mutable_data()};
  {
    const py::gil_scoped_release release;
    logprobs(chosen_kernels(), logits.data(), rows, n, wanted, threads);
  }
  return py::make_tuple(std::move(of_tokens), std::move(top_ids), std::move(of_top));
}

}  // namespace

void register_logprobs(py::module_& m) {
  using namespace py::literals;
  m.def("log_softmax", &log_softmax_in_place, "logits"_a, "threads"_a = 1, "maxima"_a.none(true) = py::none());
  m.def("logprobs", &logprobs_of_rows, "logits"_a, "tokens"_a, "top_n"_a = 0, "threads"_a = 1);
}

}  // namespace qkv
