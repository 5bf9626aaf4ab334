#include "beams.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "largest.h"
#include "logprobs.h"
#include "threads.h"

namespace qkv {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The `most` best continuations of a beam are among `found`; a single one of infinite score where a score is NaN. The
// scores are x - norm; nobody reads most of them, so they are not all written.
void find_best(const float* x, double norm, int64_t vocab, const Maxima& maxima, float running, int64_t beam,
               int64_t most, std::vector<Continuation>& found) {
  const Kernels& kernels = *maxima.kernels;
  thread_local std::vector<float> blocks;
  blocks.resize(maxima.blocks.size());
  subtract(kernels, maxima.blocks.data(), norm, blocks.data(), std::ssize(blocks));
  Maxima of_scores = {&kernels, blocks, maxima.block, maxima.largest};
  subtract(kernels, &maxima.largest, norm, &of_scores.largest, 1);
  if (!(of_scores.largest < kInfinity)) {
    found.push_back({kInfinity, beam, 0});
    return;
  }
  const auto as_scores = [&](const float* values, int64_t n, float* scores) {
    subtract(kernels, values, norm, scores, n);
    return scores;
  };
  const auto take = [&](int64_t token, float score) {
    if (score > -kInfinity) found.push_back({score + running, beam, token});
  };
  for_each_from(bound_of_largest(of_scores, static_cast<size_t>(most)), x, vocab, of_scores, take, as_scores);
}

bool is_better(const Continuation& a, const Continuation& b) {
  return a.score != b.score ? a.score > b.score : a.beam != b.beam ? a.beam < b.beam : a.token < b.token;
}

}  // namespace

std::vector<std::vector<Continuation>> best_continuations(const Kernels& kernels, const TokenScores& tokens,
                                                          std::span<const float> running,
                                                          std::span<const BeamGroup> groups, int threads) {
  constexpr double kWork = 20, kLogitsWork = 40;   // of a score, in the unit of threads_for
  std::vector<std::pair<int64_t, int64_t>> beams;  // of each row: its number in its group, continuations wanted
  for (const BeamGroup& group : groups)
    for (int64_t beam = 0; beam < group.rows; ++beam) beams.emplace_back(beam, group.most);
  std::vector<std::vector<Continuation>> rows(running.size());
  const auto count = static_cast<int64_t>(rows.size());
  const auto& [kind, x, vocab, blocks] = tokens;
  const bool logits = kind == TokenScores::Kind::logits;
  threads = threads_for((logits ? kLogitsWork : kWork) * static_cast<double>(vocab * count), threads);
  with_team(threads, [&, &x = x, &vocab = vocab, &blocks = blocks] {
    const auto maxima =
        blocks.empty() ? RowMaxima(kernels, x, count, vocab, threads)
                       : RowMaxima::found(kernels, blocks.data(), static_cast<int64_t>(blocks.size()) / count, vocab);
    std::vector<double> norms(rows.size());
    if (logits) norms = log_sum_exps(kernels, x, count, vocab, maxima, threads);
    parallel_for(count, threads, [&](int64_t row, int) {
      const auto i = static_cast<size_t>(row);
      const auto [beam, most] = beams[i];
      find_best(x + row * vocab, norms[i], vocab, maxima[row], running[i], beam, most, rows[i]);
    });
  });

  std::vector<std::vector<Continuation>> best(groups.size());
  auto row = rows.begin();
  for (size_t g = 0; g < groups.size(); ++g) {
    std::vector<Continuation>& all = best[g];
    for (const auto end = row + groups[g].rows; row != end; ++row) all.insert(all.end(), row->begin(), row->end());
    const auto wanted = std::min(all.size(), static_cast<size_t>(groups[g].most));
    std::partial_sort(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(wanted), all.end(), is_better);
    all.resize(wanted);
    if (wanted > 0 && all.front().score == kInfinity) all.clear();
  }
  return best;
}

}  // namespace qkv
