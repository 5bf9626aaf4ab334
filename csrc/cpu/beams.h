// One step of beam search: which tokens continue which beams.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/kernels.h"

namespace qkv {

struct Continuation {
  float score;   // of the beam with the token
  int64_t beam;  // counted within its group
  int64_t token;
};

// Rivals: the beams of one request, in rows of scores that lie one behind the other.
struct BeamGroup {
  int64_t rows;
  int64_t most;  // continuations wanted
};

// What says how good tokens are: x [rows, vocab]. blocks: none, or the maxima of its blocks.
struct TokenScores {
  enum class Kind { scores, logits } kind;  // of logits, the log probabilities are the scores
  const float* x;
  int64_t vocab;
  std::span<const float> blocks;
};

// The best continuations of each group, best first; of equal ones the one of the earlier beam, or with the lower token.
// A continuation's score is that of the token plus `running` [rows] of its beam. Minus infinity is never chosen, so
// that there may be fewer than wanted. There are none where a score is NaN or plus infinity.
std::vector<std::vector<Continuation>> best_continuations(const Kernels& kernels, const TokenScores& tokens,
                                                          std::span<const float> running,
                                                          std::span<const BeamGroup> groups, int threads);

}  // namespace qkv
