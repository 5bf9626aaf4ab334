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

}  // namespace qkv
