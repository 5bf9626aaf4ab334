#include "cpu/sampling.h"

#include <algorithm>
#include <optional>

#include "bindings.h"
#include "cpu/error.h"
#include "cpu/isa.h"
#include "cpu/threads.h"

namespace qkv {
namespace {

py::tuple candidates(const SamplingFilters& filters, const FloatArray& logits) {
  require(logits.ndim() == 1, "logits must have one dimension, not ", logits.ndim());
  SamplingWorkspace workspace;
  const Kernels& kernels = chosen_kernels();
  const RowMaxima maxima(kernels, logits.data(), 1, logits.size(), 1);
  require(filter(kernels, filters, logits.data(), logits.size(), maxima[0], workspace),
          "candidates: the logits are not finite");
  const auto count = static_cast<py::ssize_t>(workspace.candidates.size());
  py::array_t<int64_t> ids(count);
  py::array_t<double> probabilities(count);
  for (py::ssize_t i = 0; i < count; ++i) {
    const Candidate& candidate = workspace.candidates[static_cast<size_t>(i)];
    ids.mutable_at(i) = candidate.id;
    probabilities.mutable_at(i) = candidate.probability;
  }
  return py::make_tuple(std::move(ids), std::move(probabilities));
}

// A token for each row of logits, -1 where they are not finite.
std::vector<int64_t> choose(const std::vector<std::optional<SamplingFilters>>& filters, const FloatArray& logits,
                            const std::vector<double>& draws, int threads, const std::optional<FloatArray>& found) {
  require(
      logits.ndim() == 2 && static_cast<size_t>(logits.shape(0)) == filters.size() && draws.size() == filters.size(),
      "choose: logits must be [rows, vocabulary], with filters and a draw for each row");
  require(!found || (found->ndim() == 2 && found->shape(0) == logits.shape(0)),
          "choose: maxima must be [rows, blocks], of all rows");
  std::vector<int64_t> tokens(filters.size());
  const int64_t n = logits.shape(1);
  const float* x = logits.data();
  const float* blocks = found ? found->data() : nullptr;
  const int64_t count = found ? found->shape(1) : 0;
  const py::gil_scoped_release release;
  const Kernels& kernels = chosen_kernels();
  const auto rows = static_cast<int64_t>(tokens.size());
  const auto drawn = static_cast<double>(std::count_if(filters.begin(), filters.end(), [](auto& f) { return !!f; }));
  threads = threads_for(blocks ? 8e5 * drawn : 20 * static_cast<double>(rows * n), threads);  // a draw: some 8 us
  with_team(threads, [&] {
    const auto maxima = blocks ? RowMaxima::found(kernels, blocks, count, n) : RowMaxima(kernels, x, rows, n, threads);
    parallel_for(rows, threads, [&](int64_t row, int) {
      thread_local SamplingWorkspace workspace;
      const auto i = static_cast<size_t>(row);
      tokens[i] = filters[i] ? sample(kernels, *filters[i], x + row * n, n, maxima[row], draws[i], workspace)
                             : likeliest(x + row * n, n, maxima[row]);
    });
  });
  return tokens;
}

}  // namespace

void register_sampling(py::module_& m) {
  using namespace py::literals;
  py::class_<SamplingFilters>(m, "SamplingFilters")
      .def(py::init([](float temperature, int64_t top_k, float top_p, float min_p, float typical_p,
                       float epsilon_cutoff, float eta_cutoff) {
             const SamplingFilters filters = {temperature, top_k, top_p, min_p, typical_p, epsilon_cutoff, eta_cutoff};
             filters.check();
             return filters;
           }),
           "temperature"_a = 1, "top_k"_a = 0, "top_p"_a = 1, "min_p"_a = 0, "typical_p"_a = 1, "epsilon_cutoff"_a = 0,
           "eta_cutoff"_a = 0);
  m.def("candidates", &candidates, "filters"_a, "logits"_a);
  m.def("choose", &choose, "filters"_a, "logits"_a, "draws"_a, "threads"_a = 1, "maxima"_a.none(true) = py::none());
  m.def("uniform", &uniform, "seed"_a, "stream"_a, "step"_a);
}

}  // namespace qkv
