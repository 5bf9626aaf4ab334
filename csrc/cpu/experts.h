// Which tokens go through which of many feed-forward layers, and memory for the rows on their way.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "memory.h"
#include "ops.h"

namespace qkv {

// The weight that an expert has for a token.
struct Share {
  int64_t token;
  float weight;
};

// Memory of one run, kept for the next.
class ExpertsWorkspace {
 public:
  // Chooses the `top_k` most likely experts of every token by the softmax of `logits` [tokens, experts], of equally
  // likely ones the first, and scales their probabilities to a sum of 1.
  void route(const Kernels& kernels, const float* logits, int64_t tokens, int64_t experts, int64_t top_k, int threads);

  // The tokens of an expert, in ascending order.
  std::span<const Share> shares(int64_t expert) const {
    const auto first = first_[static_cast<size_t>(expert)], end = first_[static_cast<size_t>(expert) + 1];
    return {shares_.data() + first, static_cast<size_t>(end - first)};
  }

  // Rows of one expert: gathered inputs, the inner layer in float32 and as `down` reads it, results.
  Memory x, inner, converted, y;

 private:
  struct Choice {
    int64_t expert;
    float weight;
  };
  static void choose(const float* probabilities, int64_t experts, std::span<Choice> chosen);
  void group_by_expert(int64_t experts, int64_t top_k);

  Memory probabilities_;         // [tokens, experts]
  std::vector<Choice> choices_;  // [tokens, top_k]
  std::vector<int64_t> first_;   // [experts + 1]: where each expert's shares begin
  std::vector<Share> shares_;    // [tokens * top_k], expert by expert
};

}  // namespace qkv
