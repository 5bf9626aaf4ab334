#include "largest.h"

#include <cmath>

namespace qkv {

RowMaxima::RowMaxima(const Kernels& kernels, const float* x, int64_t rows, int64_t n, int threads)
    : each_((n + kMaximaBlock - 1) / kMaximaBlock),
      blocks_(static_cast<size_t>(rows * each_)),
      largest_(static_cast<size_t>(rows), -std::numeric_limits<float>::infinity()) {
  const int64_t parts = parts_of(n);
  std::vector<float> largest(static_cast<size_t>(rows * parts));
  for_parts(rows, n, threads, [&](int64_t row, int64_t part, int64_t first, int64_t count) {
    float* blocks = blocks_.data() + row * each_ + first / kMaximaBlock;
    largest[static_cast<size_t>(row * parts + part)] = kernels.block_maxima(x + row * n + first, count, blocks);
  });
  for (size_t i = 0; i < largest.size(); ++i) {
    float& most = largest_[i / static_cast<size_t>(parts)];
    if (largest[i] > most || std::isnan(largest[i])) most = largest[i];
  }
}

float bound_of(std::span<const float> values, size_t k) {
  const auto from = [values](float bound) {
    size_t count = 0;
    for (const float value : values) count += value >= bound;
    return count;
  };
  float high = *std::max_element(values.begin(), values.end());
  float low = *std::min_element(values.begin(), values.end());  // a bound; what follows looks for a higher one
  if (low == -std::numeric_limits<float>::infinity()) {
    if (from(std::numeric_limits<float>::lowest()) < k) return low;
    low = std::numeric_limits<float>::lowest();
  }
  for (int round = 0; round < 32; ++round) {
    const float middle = low / 2 + high / 2;
    if (!(low < middle && middle < high)) break;
    const size_t count = from(middle);
    if (count < k) {
      high = middle;
      continue;
    }
    low = middle;
    if (count <= k + k / 8) break;
  }
  return low;
}

}  // namespace qkv
