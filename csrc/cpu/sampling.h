// From a row of logits to the next token: the filters of Hugging Face's generation, with their names and in their
// order, and a draw among what they leave.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/kernels.h"
#include "largest.h"

namespace qkv {

// A filter at its default keeps every token. Each works on the probabilities that the one before it left, which sum
// to 1 again, and leaves at least one token.
struct SamplingFilters {
  float temperature = 1;     // logits are divided by it
  int64_t top_k = 0;         // the k most likely tokens, and those as likely as the last of them; 0: all
  float top_p = 1;           // the fewest most likely tokens that reach this probability (Holtzman et al. 2020)
  float min_p = 0;           // those at least min_p times as likely as the likeliest (Nguyen et al. 2024)
  float typical_p = 1;       // those whose surprise is closest to the expected one (Meister et al. 2022)
  float epsilon_cutoff = 0;  // those at least so likely (Hewitt et al. 2022)
  float eta_cutoff = 0;      // the same, less strict where the distribution is flat (Hewitt et al. 2022)

  void check() const;  // throws Error
  bool operator==(const SamplingFilters&) const = default;
};

struct Candidate {
  int32_t id;
  float logit;
  double probability;
};

// How far a token's surprise is from the expected one.
struct Oddness {
  double value;
  Candidate candidate;

  bool operator<(const Oddness& other) const {
    return value != other.value ? value < other.value : candidate.id < other.candidate.id;
  }
};

// Memory of one thread, kept for the next row.
struct SamplingWorkspace {
  std::vector<float> scores, logits, probabilities;
  std::vector<double> masses;
  std::vector<Candidate> candidates;
  std::vector<Oddness> odd;
};

// From logits of which one is NaN, or the largest infinite, nothing can be chosen: a token is then -1. `maxima` are
// those of the n logits.

// The largest of the logits; of equal ones the first.
int64_t likeliest(const float* logits, int64_t n, const Maxima& maxima);

// The tokens that pass the filters, with their probabilities, in workspace.candidates; false when nothing can be
// chosen.
bool filter(const Kernels& kernels, const SamplingFilters& filters, const float* logits, int64_t n,
            const Maxima& maxima, SamplingWorkspace& workspace);

// A token that passes the filters; `draw` is uniform in [0, 1).
int64_t sample(const Kernels& kernels, const SamplingFilters& filters, const float* logits, int64_t n,
               const Maxima& maxima, double draw, SamplingWorkspace& workspace);

// Number `step` of stream (seed, stream), uniform in [0, 1): Philox4x32-10 (Salmon et al. 2011), which needs no state.
double uniform(uint64_t seed, uint64_t stream, uint64_t step);

}  // namespace qkv
