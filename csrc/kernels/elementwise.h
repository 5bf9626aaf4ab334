// Functions of single rows: activations, softmax, addition. `y` may be `x`.
#pragma once

#include <stdint.h>

#include "kernels.h"
#include "math.h"
#include "rows.h"

namespace qkv::QKV_ISA {
namespace {

// y = f(x), lane by lane: an element's result does not depend on its position or on n.
template <class F>
void map_row(F f, const float* x, float* y, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) f(F32::load(x + i)).store(y + i);
  if (i < n) f(F32::load(x + i, n - i)).store(y + i, n - i);
}

// use(f) with the activation as a function of vectors; `Coarse`: in its coarse form, where it has one
template <bool Coarse, class Use>
inline void with_activation(Function function, Use use) {
  switch (function) {
    case Function::relu: return use([](F32 v) { return relu(v); });
    case Function::gelu: return use([](F32 v) { return Coarse ? coarse_gelu(v) : gelu(v); });
    case Function::gelu_tanh: return use([](F32 v) { return Coarse ? coarse_gelu_tanh(v) : gelu_tanh(v); });
    case Function::quick_gelu: return use([](F32 v) { return v * sigmoid(F32::set(1.702f) * v); });
    case Function::silu: return use([](F32 v) { return silu(v); });
    case Function::tanh: return use([](F32 v) { return tanh(v); });
    default: return use([](F32 v) { return v; });
  }
}

void apply(Function function, const float* x, float* y, int64_t n) {
  switch (function) {
    case Function::sigmoid: return map_row([](F32 v) { return sigmoid(v); }, x, y, n);
    case Function::erf: return map_row([](F32 v) { return erf(v); }, x, y, n);
    case Function::exp: return map_row([](F32 v) { return exp(v); }, x, y, n);
    default: with_activation<false>(function, [&](auto f) { map_row(f, x, y, n); });
  }
}

inline float max_of(const float* x, int64_t n) {  // of no numbers, or NaNs only: -inf
  F32 most0 = F32::set(-__builtin_inff()), most1 = most0;
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    most0 = max(most0, F32::load(x + i));
    most1 = max(most1, F32::load(x + i + kLanes));
  }
  for (; i + kLanes <= n; i += kLanes) most0 = max(most0, F32::load(x + i));
  float m = reduce_max(max(most0, most1));
  for (; i < n; ++i) m = m < x[i] ? x[i] : m;
  return m;
}

inline double sum_of_lanes(F32 x) {
  alignas(kAlignment) float lanes[kLanes];
  x.store(lanes);
  double part[4] = {};
  for (int i = 0; i < kLanes; i += 4) {
    for (int j = 0; j < 4; ++j) part[j] += lanes[i + j];
  }
  return (part[0] + part[2]) + (part[1] + part[3]);
}

// y = e^exponent(x) for exponents <= 0; returns their sum. What each float32 addition rounds away is added up beside it
// (Kahan 1965), so that the sum's error does not grow with the row. y may be null.
template <class Exponent>
inline double exp_and_sum(Exponent exponent, const float* x, float* y, int64_t n) {
  F32 sum = F32::set(0), lost = sum;
  const auto add = [&](F32 e) {
    const F32 next = sum + e;
    lost = lost + (e - (next - sum));
    sum = next;
  };
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const F32 e = exp_of_negative(exponent(F32::load(x + i)));
    if (y) e.store(y + i);
    add(e);
  }
  if (i < n) {
    alignas(kAlignment) float last[kLanes];
    exp_of_negative(exponent(F32::load(x + i, n - i))).store(last);
    const F32 e = F32::load(last, n - i);
    if (y) e.store(y + i, n - i);
    add(e);
  }
  return sum_of_lanes(sum) + sum_of_lanes(lost);
}

inline double exp_and_sum(const float* x, float m, float* y, int64_t n) {
  return exp_and_sum([top = F32::set(m)](F32 v) { return v - top; }, x, y, n);
}

inline void divide_by_sum(float* y, double sum, int64_t n) {
  map_row([s = 1.0 / sum](F32 e) { return times(e, s); }, y, y, n);
}

// y = e^(x - max x) / sum of these. As in PyTorch, a row of -inf only, or with a NaN or +inf, gives NaN.
void softmax(const float* x, float* y, int64_t rows, int64_t n) {
  for (int64_t some; rows > 0; x += some * n, y += some * n, rows -= some) {
    some = rows_together(rows, n);
    float top[kMaxRowsTogether];
    double sum[kMaxRowsTogether];
    for (int64_t r = 0; r < some; ++r) top[r] = max_of(x + r * n, n);
    for (int64_t r = 0; r < some; ++r) sum[r] = exp_and_sum(x + r * n, top[r], y + r * n, n);
    for (int64_t r = 0; r < some; ++r) divide_by_sum(y + r * n, sum[r], n);
  }
}

void softmax_with_max(const float* x, float most, float factor, float* y, int64_t n) {
  const F32 top = F32::set(most), f = F32::set(factor);
  divide_by_sum(y, exp_and_sum([top, f](F32 v) { return (v - top) * f; }, x, y, n), n);
}

double exp_sum(const float* x, float most, int64_t n) { return exp_and_sum(x, most, nullptr, n); }

void subtract(const float* x, float high, float low, float* y, int64_t n) {
  const F32 h = F32::set(high), l = F32::set(low);
  map_row([h, l](F32 v) { return (v - h) - l; }, x, y, n);
}

// A NaN does not stay in max(): what is not below infinity is put aside instead. Of that, only NaN matters in the end;
// infinity is the maximum anyhow.
float block_maxima(const float* x, int64_t n, float* most) {
  const F32 lowest = F32::set(-__builtin_inff()), infinity = F32::set(__builtin_inff());
  F32 odd = F32::set(0), all = lowest;
  const auto note = [&](F32 v) { odd = select(v < infinity, odd, v); };
  for (; n >= kMaximaBlock; x += kMaximaBlock, n -= kMaximaBlock, ++most) {
    F32 m0 = lowest, m1 = lowest;
    for (int i = 0; i < kMaximaBlock; i += 2 * kLanes) {
      const F32 v0 = F32::load(x + i), v1 = F32::load(x + i + kLanes);
      m0 = max(m0, v0);
      m1 = max(m1, v1);
      note(v0);
      note(v1);
    }
    m0 = max(m0, m1);
    all = max(all, m0);
    *most = reduce_max(m0);
  }
  float largest = reduce_max(all), strange = 0;
  if (n > 0) {
    *most = max_of(x, n);
    if (largest < *most) largest = *most;
  }
  for (int64_t i = 0; i < n; ++i)
    if (!(x[i] < __builtin_inff())) strange = strange + x[i];
  alignas(kAlignment) float lanes[kLanes];
  odd.store(lanes);
  for (int i = 0; i < kLanes; ++i) strange += lanes[i];  // 0, infinity or NaN
  return strange < __builtin_inff() ? largest : strange;
}

// The lanes of a mask that are not set.
inline uint32_t others(Mask mask) { return ~mask.lanes() & ((1u << kLanes) - 1); }

int64_t count_from(float bound, const float* x, int64_t n) {
  const F32 least = F32::set(bound), zero = F32::set(0), one = F32::set(1);
  F32 counts = zero;  // exact: n < 2^24
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) counts = counts + select(F32::load(x + i) < least, zero, one);
  int64_t count = (int64_t)reduce_add(counts);
  for (; i < n; ++i) count += x[i] >= bound;
  return count;
}

int64_t positions_from(float bound, const float* x, int64_t n, int64_t* positions) {
  const F32 least = F32::set(bound);
  int64_t count = 0, i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (uint32_t found = others(F32::load(x + i) < least); found; found &= found - 1)
      positions[count++] = i + __builtin_ctz(found);
  for (; i < n; ++i)
    if (x[i] >= bound) positions[count++] = i;
  return count;
}

// Each sum is a chain of additions that wait for each other: as many blocks as a vector has lanes go together, turned
// so that a lane belongs to a block.
void block_sums(const float* x, int64_t n, double* sums) {
  typedef float Floats __attribute__((vector_size(kLanes * sizeof(float))));
  typedef double Doubles __attribute__((vector_size(kLanes * sizeof(double))));
  for (; n >= kLanes * kMaximaBlock; n -= kLanes * kMaximaBlock, x += kLanes * kMaximaBlock, sums += kLanes) {
    Doubles sum = {};
    for (int i = 0; i < kMaximaBlock; i += kLanes) {
      alignas(kAlignment) float turned[kLanes][kLanes];
      transpose(x + i, kMaximaBlock, turned, kLanes);
      for (int j = 0; j < kLanes; ++j) {
        Floats values;
        __builtin_memcpy(&values, turned[j], sizeof values);
        sum += __builtin_convertvector(values, Doubles);
      }
    }
    __builtin_memcpy(sums, &sum, sizeof sum);
  }
  for (; n > 0; n -= kMaximaBlock, x += kMaximaBlock, ++sums) {
    double sum = 0;
    for (int64_t i = 0; i < n && i < kMaximaBlock; ++i) sum += x[i];
    *sums = sum;
  }
}

// y += x
void add(const float* x, float* y, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) (F32::load(y + i) + F32::load(x + i)).store(y + i);
  if (i < n) (F32::load(y + i, n - i) + F32::load(x + i, n - i)).store(y + i, n - i);
}

// y += factor * x
void add_scaled(const float* x, float factor, float* y, int64_t n) {
  const F32 f = F32::set(factor);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) fma(f, F32::load(x + i), F32::load(y + i)).store(y + i);
  if (i < n) fma(f, F32::load(x + i, n - i), F32::load(y + i, n - i)).store(y + i, n - i);
}

}  // namespace
}  // namespace qkv::QKV_ISA
