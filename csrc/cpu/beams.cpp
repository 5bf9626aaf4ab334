#include "beams.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "largest.h"
#include "threads.h"

namespace qkv {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The `most` best continuations of a beam are among `found`; a single one of infinite score where a score is NaN.
void find_best(const float* scores, int64_t vocab, const Maxima& maxima, float running, int64_t beam, int64_t most,
               std::vector<Continuation>& found) {
  if (!(maxima.largest < kInfinity)) {
    found.push_back({kInfinity, beam, 0});
    return;
  }
  const float bound = bound_of_largest(maxima, static_cast<size_t>(most));
  for_each_from(bound, scores, vocab, maxima, [&](int64_t token) {
    if (scores[token] > -kInfinity) found.push_back({scores[token] + running, beam, token});
  });
}

bool is_better(const Continuation& a, const Continuation& b) {
  return a.score != b.score ? a.score > b.score : a.beam != b.beam ? a.beam < b.beam : a.token < b.token;
}

}  // namespace

std::vector<std::vector<Continuation>> best_continuations(const Kernels& kernels, const float* scores, int64_t vocab,
                                                          std::span<const float> running,
                                                          std::span<const BeamGroup> groups,
                                                          std::span<const float> blocks, int threads) {
  std::vector<std::pair<int64_t, int64_t>> beams;  // of each row: its number in its group, continuations wanted
  for (const BeamGroup& group : groups)
    for (int64_t beam = 0; beam < group.rows; ++beam) beams.emplace_back(beam, group.most);
  std::vector<std::vector<Continuation>> rows(running.size());
  const auto count = static_cast<int64_t>(rows.size());
  threads = threads_for(20 * static_cast<double>(vocab * count), threads);
  with_team(threads, [&] {
    const auto maxima =
        blocks.empty() ? RowMaxima(kernels, scores, count, vocab, threads)
                       : RowMaxima::found(kernels, blocks.data(), static_cast<int64_t>(blocks.size()) / count, vocab);
    parallel_for(count, threads, [&](int64_t row, int) {
      const auto i = static_cast<size_t>(row);
      const auto [beam, most] = beams[i];
      find_best(scores + row * vocab, vocab, maxima[row], running[i], beam, most, rows[i]);
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
