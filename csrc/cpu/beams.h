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

// Rivals: the beams of one request, in rows of `scores` that lie one behind the other.
struct BeamGroup {
  int64_t rows;
  int64_t most;  // continuations wanted
};

// The best continuations of each group, best first; of equal ones the one of the earlier beam, or with the lower token.
// A continuation's score is that of the token plus `running` of its beam. scores: [rows, vocab]; running: [rows].
// Minus infinity is never chosen, so that there may be fewer than wanted. There are none where a score is NaN or plus
// infinity. blocks: none, or the maxima of the scores' blocks.
std::vector<std::vector<Continuation>> best_continuations(const Kernels& kernels, const float* scores, int64_t vocab,
                                                          std::span<const float> running,
                                                          std::span<const BeamGroup> groups,
                                                          std::span<const float> blocks, int threads);

}  // namespace qkv
