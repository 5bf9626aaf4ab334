// Finding the few largest of many logits: by the maxima of their blocks, most blocks need not be looked at.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <vector>

#include "kernels/kernels.h"
#include "threads.h"

namespace qkv {

// Calls body(row, part, first, count) for pieces of rows of n values: `count` of them from `first` on. Neighbouring
// columns are done by one thread, as in the linear layer that wrote them: most of them are still in its cache.
constexpr int64_t kPart = 64 * kMaximaBlock;

constexpr int64_t parts_of(int64_t n) { return (n + kPart - 1) / kPart; }

template <class Body>
void for_parts(int64_t rows, int64_t n, int threads, const Body& body) {
  parallel_for(parts_of(n) * rows, threads, [&](int64_t task, int) {
    const int64_t part = task / rows, first = part * kPart;
    body(task % rows, part, first, std::min(kPart, n - first));
  });
}

// A row of values, seen from afar.
struct Maxima {
  std::span<const float> blocks;  // the largest of each kMaximaBlock values, the last block shorter
  float largest;                  // of all: NaN if there is one, -inf of no values
};

class RowMaxima {
 public:
  RowMaxima(const Kernels& kernels, const float* x, int64_t rows, int64_t n, int threads);
  Maxima operator[](int64_t row) const {
    const auto blocks = std::span(blocks_).subspan(static_cast<size_t>(row * each_), static_cast<size_t>(each_));
    return {blocks, largest_[static_cast<size_t>(row)]};
  }

 private:
  int64_t each_;               // blocks of a row
  std::vector<float> blocks_;  // [rows, each_]
  std::vector<float> largest_;
};

// Some bound that at least k values reach, and not many more: 1 <= k <= values.size(), none of them NaN. Halving the
// distance to the largest takes a tenth of the time of putting values in order.
float bound_of(std::span<const float> values, size_t k);

// The k-th largest value; of a copy that is kept in `scratch`, 1 <= k <= values.size().
inline float kth_largest(std::span<const float> values, size_t k, std::vector<float>& scratch) {
  scratch.assign(values.begin(), values.end());
  const auto kth = scratch.begin() + static_cast<std::ptrdiff_t>(k - 1);
  std::nth_element(scratch.begin(), kth, scratch.end(), std::greater<>());
  return *kth;
}

// At least k values reach this bound, k >= 1, as the maxima of so many blocks do.
inline float bound_of_largest(const Maxima& maxima, size_t k) {
  return k <= maxima.blocks.size() ? bound_of(maxima.blocks, k) : -std::numeric_limits<float>::infinity();
}

// Calls use(i) for each x[i] >= bound, in order.
template <class Use>
void for_each_from(float bound, const float* x, int64_t n, const Maxima& maxima, const Use& use) {
  for (size_t block = 0; block < maxima.blocks.size(); ++block)  // the few are far from each other, and from any cache
    if (maxima.blocks[block] >= bound)
      for (int64_t i = 0; i < kMaximaBlock; i += kAlignment / 4)
        __builtin_prefetch(x + static_cast<int64_t>(block) * kMaximaBlock + i);
  for (size_t block = 0; block < maxima.blocks.size(); ++block) {
    if (maxima.blocks[block] < bound) continue;
    const int64_t start = static_cast<int64_t>(block) * kMaximaBlock;
    for (int64_t i = start; i < std::min(n, start + kMaximaBlock); ++i)
      if (x[i] >= bound) use(i);
  }
}

}  // namespace qkv
