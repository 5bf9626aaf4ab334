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

constexpr double kWork = 40;  // per logit, for threads_for

struct Workspace {
  std::vector<float> block_most, scratch;
  std::vector<int64_t> ids;
};

double log_sum_exp(const Kernels& kernels, const float* x, int64_t n, Workspace& w) {
  const float most = take_maxima(kernels, x, n, w.block_most);
  if (!std::isfinite(most)) return std::numeric_limits<double>::quiet_NaN();
  return most + std::log(kernels.exp_sum(x, most, n));
}

// The `top` largest of x, which holds no NaN, into w.ids.
void find_top(const float* x, int64_t n, int64_t top, Workspace& w) {
  const float bound = bound_of_largest(w.block_most, static_cast<size_t>(top), w.scratch);
  w.ids.clear();
  for_each_from(bound, x, n, w.block_most, [&](int64_t i) { w.ids.push_back(i); });
  std::partial_sort(w.ids.begin(), w.ids.begin() + top, w.ids.end(),
                    [x](int64_t a, int64_t b) { return x[a] != x[b] ? x[a] > x[b] : a < b; });
}

template <class Body>
void for_rows(int64_t rows, int64_t n, int threads, const Body& body) {
  const double work = kWork * static_cast<double>(rows) * static_cast<double>(n);
  parallel_for(rows, threads_for(work, threads), [&](int64_t row, int) {
    thread_local Workspace workspace;
    body(row, workspace);
  });
}

}  // namespace

void log_softmax(const Kernels& kernels, float* x, int64_t rows, int64_t n, int threads) {
  for_rows(rows, n, threads, [&](int64_t row, Workspace& w) {
    const double norm = log_sum_exp(kernels, x + row * n, n, w);
    const auto high = static_cast<float>(norm);
    kernels.subtract(x + row * n, high, static_cast<float>(norm - high), x + row * n, n);
  });
}

void logprobs(const Kernels& kernels, const float* x, int64_t rows, int64_t n, const Logprobs& wanted, int threads) {
  for_rows(rows, n, threads, [&](int64_t row, Workspace& w) {
    const float* logits = x + row * n;
    const double norm = log_sum_exp(kernels, logits, n, w);
    wanted.of_tokens[row] = logits[wanted.tokens[row]] - norm;
    if (wanted.top == 0) return;
    if (std::isnan(norm)) {
      w.ids.resize(static_cast<size_t>(wanted.top));
      std::iota(w.ids.begin(), w.ids.end(), 0);
    } else {
      find_top(logits, n, wanted.top, w);
    }
    for (int64_t i = 0; i < wanted.top; ++i) {
      const int64_t id = w.ids[static_cast<size_t>(i)];
      wanted.top_ids[row * wanted.top + i] = id;
      wanted.of_top[row * wanted.top + i] = logits[id] - norm;
    }
  });
}

}  // namespace qkv
