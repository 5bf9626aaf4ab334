// Finding the few largest of many logits: by the maxima of their blocks, most blocks need not be looked at.
#pragma once

#include <algorithm>
#include <array>
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
  const Kernels* kernels;
  std::span<const float> blocks;  // the largest of each `block` values, the last block shorter
  int64_t block;
  float largest;  // of all: NaN if there is one, -inf of no values
};

// How many values a block has, where the linear layer that gave n values found so many maxima. Throws Error when no
// size fits.
int64_t block_size(int64_t count, int64_t n);

// The maxima of blocks of x [n] are right again, after some values have changed; `changed` is put in order.
void renew_maxima(const Kernels& kernels, const float* x, int64_t n, std::vector<int64_t>& changed,
                  std::span<float> blocks);

class RowMaxima {
 public:
  RowMaxima(const Kernels& kernels, const float* x, int64_t rows, int64_t n, int threads);
  // As the linear layer that gave rows of n values found them: blocks [..., count], which outlive this. Throws Error as
  // block_size().
  static RowMaxima found(const Kernels& kernels, const float* blocks, int64_t count, int64_t n);
  RowMaxima(RowMaxima&&) = default;
  Maxima operator[](int64_t row) const;

 private:
  explicit RowMaxima(const Kernels& kernels) : kernels_(kernels) {}

  const Kernels& kernels_;
  int64_t block_ = kMaximaBlock, each_ = 0;  // values of a block, blocks of a row
  std::vector<float> own_;
  const float* blocks_ = nullptr;  // [rows, each_]
  std::vector<float> largest_;     // of rows; empty where blocks were found, of which it is then the largest
};

// The k-th largest value; of a copy that is kept in `scratch`, 1 <= k <= values.size().
inline float kth_largest(std::span<const float> values, size_t k, std::vector<float>& scratch) {
  scratch.assign(values.begin(), values.end());
  const auto kth = scratch.begin() + static_cast<std::ptrdiff_t>(k - 1);
  std::nth_element(scratch.begin(), kth, scratch.end(), std::greater<>());
  return *kth;
}

// Some bound that at least k values reach, k >= 1, as the maxima of so many blocks do; and mostly not many more of
// these. It is looked for by halving a distance from the largest value, which is less work than putting the maxima in
// order. The largest is finite.
float bound_of_largest(const Maxima& maxima, size_t k);

// Calls use(i, y) for each y >= bound, in order, where y = x[i], or what `as(values, count, memory)` makes of a block's
// values: it returns where these lie then, maybe in `memory`. The maxima are those of y.
template <class Use, class As>
void for_each_from(float bound, const float* x, int64_t n, const Maxima& maxima, const Use& use, const As& as) {
  thread_local std::vector<int64_t> blocks;
  const Kernels& kernels = *maxima.kernels;
  blocks.resize(maxima.blocks.size());
  blocks.resize(static_cast<size_t>(
      kernels.positions_from(bound, maxima.blocks.data(), std::ssize(maxima.blocks), blocks.data())));
  for (const int64_t block : blocks)  // the few are far from each other, and from any cache
    for (int64_t i = 0; i < maxima.block; i += kAlignment / 4) __builtin_prefetch(x + block * maxima.block + i);
  std::array<float, kMaximaBlock> memory;
  std::array<int64_t, kMaximaBlock> found;
  for (const int64_t block : blocks) {
    const int64_t start = block * maxima.block, length = std::min(maxima.block, n - start);
    const float* values = as(x + start, length, memory.data());
    const int64_t count = kernels.positions_from(bound, values, length, found.data());
    for (int64_t i = 0; i < count; ++i)
      use(start + found[static_cast<size_t>(i)], values[found[static_cast<size_t>(i)]]);
  }
}

template <class Use>
void for_each_from(float bound, const float* x, int64_t n, const Maxima& maxima, const Use& use) {
  for_each_from(bound, x, n, maxima, use, [](const float* values, int64_t, float*) { return values; });
}

}  // namespace qkv
