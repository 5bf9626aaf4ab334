#include "largest.h"

#include <cmath>

#include "error.h"

namespace qkv {

int64_t block_size(int64_t count, int64_t n) {
  int64_t size = kMaximaBlock;  // the panels of the instruction sets have so many columns, or a power of two fewer
  while (size > 1 && (n + size - 1) / size < count) size /= 2;
  require((n + size - 1) / size == count, "logits of ", n, " tokens have no ", count, " maxima");
  return size;
}

void renew_maxima(const Kernels& kernels, const float* x, int64_t n, std::vector<int64_t>& changed,
                  std::span<float> blocks) {
  const int64_t size = block_size(std::ssize(blocks), n);
  std::sort(changed.begin(), changed.end());
  int64_t done = -1;
  for (const int64_t i : changed) {
    const int64_t block = i / size, first = block * size;
    if (block != done) kernels.block_maxima(x + first, std::min(size, n - first), &blocks[static_cast<size_t>(block)]);
    done = block;
  }
}

RowMaxima::RowMaxima(const Kernels& kernels, const float* x, int64_t rows, int64_t n, int threads)
    : kernels_(kernels),
      each_((n + kMaximaBlock - 1) / kMaximaBlock),
      own_(static_cast<size_t>(rows * each_)),
      blocks_(own_.data()),
      largest_(static_cast<size_t>(rows), -std::numeric_limits<float>::infinity()) {
  const int64_t parts = parts_of(n);
  std::vector<float> largest(static_cast<size_t>(rows * parts));
  for_parts(rows, n, threads, [&](int64_t row, int64_t part, int64_t first, int64_t count) {
    float* blocks = own_.data() + row * each_ + first / kMaximaBlock;
    largest[static_cast<size_t>(row * parts + part)] = kernels.block_maxima(x + row * n + first, count, blocks);
  });
  for (size_t i = 0; i < largest.size(); ++i) {
    float& most = largest_[i / static_cast<size_t>(parts)];
    if (largest[i] > most || std::isnan(largest[i])) most = largest[i];
  }
}

RowMaxima RowMaxima::found(const Kernels& kernels, const float* blocks, int64_t count, int64_t n) {
  RowMaxima maxima(kernels);
  maxima.block_ = block_size(count, n);
  maxima.each_ = count;
  maxima.blocks_ = blocks;
  return maxima;
}

Maxima RowMaxima::operator[](int64_t row) const {
  const std::span<const float> blocks(blocks_ + row * each_, static_cast<size_t>(each_));
  if (!largest_.empty()) return {&kernels_, blocks, block_, largest_[static_cast<size_t>(row)]};
  std::vector<float> some(blocks.size() / kMaximaBlock + 1);
  return {&kernels_, blocks, block_, kernels_.block_maxima(blocks.data(), each_, some.data())};
}

float bound_of_largest(const Maxima& maxima, size_t k) {
  const auto from = [&](float bound) {
    return static_cast<size_t>(maxima.kernels->count_from(bound, maxima.blocks.data(), std::ssize(maxima.blocks)));
  };
  constexpr float kLowest = std::numeric_limits<float>::lowest();
  if (k > maxima.blocks.size()) return -std::numeric_limits<float>::infinity();
  float high = maxima.largest, low = high;
  for (float gap = 1; from(low) < k; gap *= 4) {
    if (low == kLowest) return -std::numeric_limits<float>::infinity();
    high = low;
    low = std::max(maxima.largest - gap, kLowest);
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
