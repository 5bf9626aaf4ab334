#include "cpu/beams.h"

#include <tuple>

#include "bindings.h"
#include "cpu/error.h"
#include "cpu/isa.h"

namespace qkv {
namespace {

using Rank = std::vector<std::tuple<float, int64_t, int64_t>>;

std::vector<Rank> continuations(const FloatArray& scores, const std::vector<float>& running,
                                const std::vector<std::pair<int64_t, int64_t>>& groups, int threads,
                                const std::optional<FloatArray>& maxima, bool logits) {
  require(scores.ndim() == 2 && static_cast<size_t>(scores.shape(0)) == running.size(),
          "best_continuations: scores must be [rows, vocabulary], with a running score for each row");
  std::vector<BeamGroup> checked;
  int64_t rows = 0;
  for (const auto& [count, most] : groups) {
    require(count >= 1 && most >= 1, "best_continuations: ", most, " wanted of ", count, " rows");
    checked.push_back({count, most});
    rows += count;
  }
  require(rows == scores.shape(0), "best_continuations: groups of ", rows, " rows for ", scores.shape(0));
  require(!maxima || (maxima->ndim() == 2 && maxima->shape(0) == rows),
          "best_continuations: maxima must be [rows, blocks], of all rows");
  TokenScores tokens = {.kind = logits ? TokenScores::Kind::logits : TokenScores::Kind::scores,
                        .x = scores.data(),
                        .vocab = scores.shape(1),
                        .blocks = {}};
  if (maxima) tokens.blocks = {maxima->data(), static_cast<size_t>(maxima->size())};
  std::vector<Rank> ranks;
  const py::gil_scoped_release release;
  for (const std::vector<Continuation>& best :
       best_continuations(chosen_kernels(), tokens, running, checked, threads)) {
    Rank& rank = ranks.emplace_back();
    for (const Continuation& c : best) rank.emplace_back(c.score, c.beam, c.token);
  }
  return ranks;
}

}  // namespace

void register_beams(py::module_& m) {
  using namespace py::literals;
  m.def("best_continuations", &continuations, "scores"_a, "running"_a, "groups"_a, "threads"_a = 1,
        "maxima"_a.none(true) = py::none(), "logits"_a = false);
}

}  // namespace qkv
