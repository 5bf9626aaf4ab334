#include "beams.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "threads.h"

namespace qkv {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kBlock = 64;  // scores that are compared with the bound at once: most blocks hold none above it

bool any_above(const float* x, int64_t n, float bound) {  // or NaN
  int found = 0;
  for (int64_t i = 0; i < n; ++i) found |= !(x[i] <= bound);
  return found != 0;
}

// The `most` largest of a row's scores, with the beam's added; one that is infinite where the row holds NaN.
void best_of_row(const float* scores, int64_t vocab, float running, int64_t beam, size_t most,
                 std::vector<Continuation>& best) {
  best.clear();
  float bound = -kInfinity;  // the last of the best so far
  for (int64_t start = 0; start < vocab; start += kBlock) {
    const int64_t end = std::min(vocab, start + kBlock);
    if (!any_above(scores + start, end - start, bound)) continue;
    for (int64_t token = start; token < end; ++token) {
      const float score = scores[token];
      if (std::isnan(score)) {
        best.assign(1, {kInfinity, beam, token});
        return;
      }
      if (score <= bound) continue;
      if (best.size() == most) best.pop_back();
      const auto behind = std::upper_bound(best.begin(), best.end(), score,
                                           [](float value, const Continuation& c) { return value > c.score; });
      best.insert(behind, {score, beam, token});
      if (best.size() == most) bound = best.back().score;
    }
  }
  for (Continuation& c : best) c.score += running;
}

}  // namespace

std::vector<std::vector<Continuation>> best_continuations(const float* scores, int64_t vocab,
                                                          std::span<const float> running,
                                                          std::span<const BeamGroup> groups, int threads) {
  std::vector<int64_t> beams;
  std::vector<size_t> most;
  for (const BeamGroup& group : groups)
    for (int64_t beam = 0; beam < group.rows; ++beam) {
      beams.push_back(beam);
      most.push_back(static_cast<size_t>(group.most));
    }
  std::vector<std::vector<Continuation>> rows(running.size());
  const double work = 20 * static_cast<double>(vocab) * static_cast<double>(rows.size());
  parallel_for(static_cast<int64_t>(rows.size()), threads_for(work, threads), [&](int64_t row, int) {
    const auto i = static_cast<size_t>(row);
    rows[i].reserve(most[i]);
    best_of_row(scores + row * vocab, vocab, running[i], beams[i], most[i], rows[i]);
  });

  std::vector<std::vector<Continuation>> best(groups.size());
  auto row = rows.begin();
  for (size_t g = 0; g < groups.size(); ++g) {
    for (const auto end = row + groups[g].rows; row != end; ++row)
      best[g].insert(best[g].end(), row->begin(), row->end());
    std::stable_sort(best[g].begin(), best[g].end(),
                     [](const Continuation& a, const Continuation& b) { return a.score > b.score; });
    if (!best[g].empty() && best[g].front().score == kInfinity) best[g].clear();
    best[g].resize(std::min(best[g].size(), static_cast<size_t>(groups[g].most)));
  }
  return best;
}

}  // namespace qkv
