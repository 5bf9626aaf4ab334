// Log probabilities: x - log(sum of e^x) for each of the logits x of a row. A row with a NaN or +inf, or of -inf only,
// gives NaN.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/kernels.h"
#include "largest.h"

namespace qkv {

// log(sum of e^x) of each row. The sum is one of parts, so that it does not depend on who adds up what.
std::vector<double> log_sum_exps(const Kernels& kernels, const float* x, int64_t rows, int64_t n,
                                 const RowMaxima& maxima, int threads);

// y = x - norm, n values, rounded once
inline void subtract(const Kernels& kernels, const float* x, double norm, float* y, int64_t n) {
  const auto high = static_cast<float>(norm);
  kernels.subtract(x, high, static_cast<float>(norm - high), y, n);
}

// Turns rows of n logits into log probabilities. blocks: none, or the maxima of the logits' blocks, which become those
// of the log probabilities; rows * count of them.
void log_softmax(const Kernels& kernels, float* x, int64_t rows, int64_t n, std::span<float> blocks, int threads);

// What is wanted of rows of n logits, in float64, whose rounding does not show at 1e-6.
struct Logprobs {
  const int64_t* tokens;  // [rows], each in 0 ... n - 1
  int64_t top;            // 0 ... n
  double* of_tokens;      // [rows]
  int64_t* top_ids;       // [rows, top]: the likeliest tokens, of equally likely ones the lowest first
  double* of_top;         // [rows, top]
};

void logprobs(const Kernels& kernels, const float* x, int64_t rows, int64_t n, const Logprobs& wanted, int threads);

}  // namespace qkv
