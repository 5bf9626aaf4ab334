#include "logprobs.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "largest.h"
#include "threads.h"

namespace qkv {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// The `top` largest of x, which holds no NaN.
std::vector<int64_t> find_top(const float* x, int64_t n, const Maxima& maxima, int64_t top) {
  std::vector<int64_t> ids;
  const float bound = bound_of_largest(maxima, static_cast<size_t>(top));
  for_each_from(bound, x, n, maxima, [&](int64_t i, float) { ids.push_back(i); });
  std::partial_sort(ids.begin(), ids.begin() + top, ids.end(),
                    [x](int64_t a, int64_t b) { return x[a] != x[b] ? x[a] > x[b] : a < b; });
  return ids;
}

int threads_of(int64_t rows, int64_t n, int threads) {
  constexpr double kWork = 40;  // per logit, for threads_for
  return threads_for(kWork * static_cast<double>(rows * n), threads);
}

}  // namespace

std::vector<double> log_sum_exps(const Kernels& kernels, const float* x, int64_t rows, int64_t n,
                                 const RowMaxima& maxima, int threads) {
  const int64_t parts = parts_of(n);
  std::vector<double> sums(static_cast<size_t>(rows * parts)), norms;
  std::vector<float> largest;
  for (int64_t row = 0; row < rows; ++row) largest.push_back(maxima[row].largest);
  for_parts(rows, n, threads, [&](int64_t row, int64_t part, int64_t first, int64_t count) {
    const float most = largest[static_cast<size_t>(row)];
    if (std::isfinite(most))
      sums[static_cast<size_t>(row * parts + part)] = kernels.exp_sum(x + row * n + first, most, count);
  });
  for (int64_t row = 0; row < rows; ++row) {
    const float most = largest[static_cast<size_t>(row)];
    const auto first = sums.begin() + row * parts;
    norms.push_back(std::isfinite(most) ? most + std::log(std::accumulate(first, first + parts, 0.0)) : kNaN);
  }
  return norms;
}

void log_softmax(const Kernels& kernels, float* x, int64_t rows, int64_t n, std::span<float> blocks, int most_threads) {
  const int threads = threads_of(rows, n, most_threads);
  const auto count = rows > 0 ? static_cast<int64_t>(blocks.size()) / rows : 0;
  with_team(threads, [&] {
    const auto maxima =
        count > 0 ? RowMaxima::found(kernels, blocks.data(), count, n) : RowMaxima(kernels, x, rows, n, threads);
    const std::vector<double> norms = log_sum_exps(kernels, x, rows, n, maxima, threads);
    const auto make_scores = [&](int64_t row, float* y, int64_t values) {
      subtract(kernels, y, norms[static_cast<size_t>(row)], y, values);
    };
    for_parts(rows, n, threads, [&](int64_t row, int64_t, int64_t first, int64_t values) {
      make_scores(row, x + row * n + first, values);
    });
    for (int64_t row = 0; row < rows; ++row) make_scores(row, blocks.data() + row * count, count);
  });
}

void logprobs(const Kernels& kernels, const float* x, int64_t rows, int64_t n, const Logprobs& wanted,
              int most_threads) {
  const int threads = threads_of(rows, n, most_threads);
  with_team(threads, [&] {
    const RowMaxima maxima(kernels, x, rows, n, threads);
    const std::vector<double> norms = log_sum_exps(kernels, x, rows, n, maxima, threads);
    parallel_for(rows, threads, [&](int64_t row, int) {
      const float* logits = x + row * n;
      const double norm = norms[static_cast<size_t>(row)];
      wanted.of_tokens[row] = logits[wanted.tokens[row]] - norm;
      if (wanted.top == 0) return;
      std::vector<int64_t> ids(static_cast<size_t>(wanted.top));
      if (std::isnan(norm)) std::iota(ids.begin(), ids.end(), 0);
      else ids = find_top(logits, n, maxima[row], wanted.top);
      for (int64_t i = 0; i < wanted.top; ++i) {
        const int64_t id = ids[static_cast<size_t>(i)];
        wanted.top_ids[row * wanted.top + i] = id;
        wanted.of_top[row * wanted.top + i] = logits[id] - norm;
      }
    });
  });
}

}  // namespace qkv
