// Functions of single rows: activations, softmax, addition. `y` may be `x`.
#pragma once

#include <stdint.h>

#include "kernels.h"
#include "math.h"

namespace qkv::QKV_ISA {
namespace {

// y = f(x), lane by lane: an element's result does not depend on its position or on n.
template <class F>
void map_row(F f, const float* x, float* y, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) f(F32::load(x + i)).store(y + i);
  if (i < n) f(F32::load(x + i, n - i)).store(y + i, n - i);
}

// use(f) with the activation as a function of vectors
template <class Use>
inline void with_activation(Function function, Use use) {
  switch (function) {
    case Function::relu: return use([](F32 v) { return relu(v); });
    case Function::gelu: return use([](F32 v) { return gelu(v); });
    case Function::gelu_tanh: return use([](F32 v) { return gelu_tanh(v); });
    case Function::silu: return use([](F32 v) { return silu(v); });
    default: return use([](F32 v) { return v; });
  }
}

void apply(Function function, const float* x, float* y, int64_t n) {
  switch (function) {
    case Function::sigmoid: return map_row([](F32 v) { return sigmoid(v); }, x, y, n);
    case Function::tanh: return map_row([](F32 v) { return tanh(v); }, x, y, n);
    case Function::erf: return map_row([](F32 v) { return erf(v); }, x, y, n);
    case Function::exp: return map_row([](F32 v) { return exp(v); }, x, y, n);
    default: with_activation(function, [&](auto f) { map_row(f, x, y, n); });
  }
}

inline float max_of(const float* x, int64_t n) {  // of no numbers, or NaNs only: -inf
  F32 most = F32::set(-__builtin_inff());
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) most = max(most, F32::load(x + i));
  float m = reduce_max(most);
  for (; i < n; ++i) m = m < x[i] ? x[i] : m;
  return m;
}

// In float64, whose rounding is far below float32's; eight partial sums, which the compiler can keep in vectors.
inline double sum_of(const float* x, int64_t n) {
  double part[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    for (int j = 0; j < 8; ++j) part[j] += x[i + j];
  }
  for (int j = 0; i < n; ++i, ++j) part[j] += x[i];
  return ((part[0] + part[4]) + (part[2] + part[6])) + ((part[1] + part[5]) + (part[3] + part[7]));
}

// y = e^(x - max x) / sum of these. As in PyTorch, a row of -inf only, or with a NaN or +inf, gives NaN.
void softmax(const float* x, float* y, int64_t n) {
  const F32 m = F32::set(max_of(x, n));
  map_row([m](F32 v) { return exp(v - m); }, x, y, n);
  const double scale = 1.0 / sum_of(y, n);
  for (int64_t i = 0; i < n; ++i) y[i] = (float)(y[i] * scale);
}

// y += x
void add(const float* x, float* y, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) (F32::load(y + i) + F32::load(x + i)).store(y + i);
  if (i < n) (F32::load(y + i, n - i) + F32::load(x + i, n - i)).store(y + i, n - i);
}

}  // namespace
}  // namespace qkv::QKV_ISA
