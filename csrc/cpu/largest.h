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

// Calls body(row, part, first, count) for pieces of rows of n values: `count` of them from `first` on. Pieces, so that
// threads share a single row, too.
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
  std::span<const float> blocks;  // the largest of each `block` values, the last block shorter
  int64_t block;
  float largest;  // of all: NaN if there is one, -inf of no values
};

class RowMaxima {
 public:
  RowMaxima(const Kernels& kernels, const float* x, int64_t rows, int64_t n, int threads);
  // As the linear layer that gave rows of n values found them: blocks [rows, count], which outlive this. Throws Error
  // when no block size fits.
  static RowMaxima found(const Kernels& kernels, const float* blocks, int64_t rows, int64_t count, int64_t n);
  RowMaxima(RowMaxima&&) = default;
  Maxima operator[](int64_t row) const {
    return {{blocks_ + row * each_, static_cast<size_t>(each_)}, block_, largest_[static_cast<size_t>(row)]};
  }

 private:
  RowMaxima() = default;

  int64_t block_ = kMaximaBlock, each_ = 0;  // values of a block, blocks of a row
  std::vector<float> own_;
  const float* blocks_ = nullptr;  // [rows, each_]
  std::vector<float> largest_;
};

// Some bound that at least k values reach, and mostly not many more: 1 <= k <= values.size(), none of them NaN. It is
// looked for by halving the distance to the largest, which is less work than putting values in order.
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
  constexpr int64_t kSome = 16;
  for (size_t block = 0; block < maxima.blocks.size(); ++block)  // the few are far from each other, and from any cache
    if (maxima.blocks[block] >= bound)
      for (int64_t i = 0; i < maxima.block; i += kAlignment / 4)
        __builtin_prefetch(x + static_cast<int64_t>(block) * maxima.block + i);
  for (size_t block = 0; block < maxima.blocks.size(); ++block) {
    if (maxima.blocks[block] < bound) continue;
    const int64_t start = static_cast<int64_t>(block) * maxima.block;
    const int64_t end = std::min(n, start + maxima.block);
    for (int64_t i = start; i < end; i += kSome) {
      int any = end - i < kSome;
      if (!any)
        for (int64_t j = i; j < i + kSome; ++j) any |= x[j] >= bound;  // the compiler makes vectors of this
      for (int64_t j = i; any && j < std::min(end, i + kSome); ++j)
        if (x[j] >= bound) use(j);
    }
  }
}

}  // namespace qkv
