// Finding the few largest of many logits: by the maxima of their blocks, most blocks need not be looked at.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

#include "kernels/kernels.h"

namespace qkv {

// Fills block_most; returns the largest of x, NaN if there is one, -inf of no values.
inline float take_maxima(const Kernels& kernels, const float* x, int64_t n, std::vector<float>& block_most) {
  block_most.resize(static_cast<size_t>((n + kMaximaBlock - 1) / kMaximaBlock));
  return kernels.block_maxima(x, n, block_most.data());
}

// The k-th largest value; of a copy that is kept in `scratch`, 1 <= k <= values.size().
inline float kth_largest(const std::vector<float>& values, size_t k, std::vector<float>& scratch) {
  scratch = values;
  const auto kth = scratch.begin() + static_cast<std::ptrdiff_t>(k - 1);
  std::nth_element(scratch.begin(), kth, scratch.end(), std::greater<>());
  return *kth;
}

// At least k values reach this bound, k >= 1: the k-th largest of the blocks' maxima.
inline float bound_of_largest(const std::vector<float>& block_most, size_t k, std::vector<float>& scratch) {
  return k <= block_most.size() ? kth_largest(block_most, k, scratch) : -std::numeric_limits<float>::infinity();
}

// Calls use(i) for each x[i] >= bound, in order.
template <class Use>
void for_each_from(float bound, const float* x, int64_t n, const std::vector<float>& block_most, const Use& use) {
  for (size_t block = 0; block < block_most.size(); ++block) {
    if (block_most[block] < bound) continue;
    const int64_t start = static_cast<int64_t>(block) * kMaximaBlock;
    for (int64_t i = start; i < std::min(n, start + kMaximaBlock); ++i)
      if (x[i] >= bound) use(i);
  }
}

}  // namespace qkv
