// LayerNorm (Ba, Kiros, Hinton 2016): (x - mean) / sqrt(variance + eps) * weight + bias, and RMSNorm (Zhang,
// Sennrich 2019): x / sqrt(mean(x^2) + eps) * weight. The variance is taken in a second pass, around the mean:
// E[x^2] - E[x]^2 cancels when the mean is large.
#pragma once

#include "kernels.h"
#include "rows.h"

namespace qkv::QKV_ISA {
namespace {

// sum of (x - centre)^Power over n values; four partial sums hide the latency of the additions
template <int Power>
inline float moment(const float* x, int64_t n, float centre) {
  const F32 c = F32::set(centre);
  const auto add = [c](F32 sum, F32 v) { return Power == 1 ? sum + (v - c) : fma(v - c, v - c, sum); };
  F32 sum0 = F32::set(0), sum1 = sum0, sum2 = sum0, sum3 = sum0;
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    sum0 = add(sum0, F32::load(x + i));
    sum1 = add(sum1, F32::load(x + i + kLanes));
    sum2 = add(sum2, F32::load(x + i + 2 * kLanes));
    sum3 = add(sum3, F32::load(x + i + 3 * kLanes));
  }
  for (; i + kLanes <= n; i += kLanes) sum0 = add(sum0, F32::load(x + i));
  if (i < n) {
    // lanes behind n hold 0, not the centre: put the centre there so that they add nothing
    alignas(kAlignment) float tail[kLanes];
    c.store(tail);
    F32::load(x + i, n - i).store(tail, n - i);
    sum1 = add(sum1, F32::load(tail));
  }
  return reduce_add((sum0 + sum1) + (sum2 + sum3));
}

template <bool Biased>
inline void write_normed(const NormArgs& args, const float* x, float mean, float scale_of_x, float* y) {
  const int64_t n = args.n;
  const float *weight = args.weight, *bias = args.bias;
  const F32 centre = F32::set(mean), scale = F32::set(scale_of_x);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const F32 unit = (F32::load(x + i) - centre) * scale, w = F32::load(weight + i);
    (Biased ? fma(unit, w, F32::load(bias + i)) : unit * w).store(y + i);
  }
  if (const int64_t tail = n - i; tail > 0) {
    const F32 unit = (F32::load(x + i, tail) - centre) * scale, w = F32::load(weight + i, tail);
    (Biased ? fma(unit, w, F32::load(bias + i, tail)) : unit * w).store(y + i, tail);
  }
}

void norm(const NormArgs& args, int64_t row, int64_t rows) {
  const float n = (float)args.n;
  const auto write = args.bias ? write_normed<true> : write_normed<false>;
  for (int64_t some; rows > 0; row += some, rows -= some) {
    some = rows_together(rows, args.n);
    const float* x = args.x + row * args.x_stride;
    float* y = args.y + row * args.y_stride;
    float mean[kMaxRowsTogether] = {}, scale[kMaxRowsTogether];
    if (args.centred) {
      for (int64_t r = 0; r < some; ++r) mean[r] = moment<1>(x + r * args.x_stride, args.n, 0.0f) / n;
    }
    for (int64_t r = 0; r < some; ++r) {
      const float variance = moment<2>(x + r * args.x_stride, args.n, mean[r]) / n;
      scale[r] = 1.0f / __builtin_sqrtf(variance + args.eps);
    }
    for (int64_t r = 0; r < some; ++r) write(args, x + r * args.x_stride, mean[r], scale[r], y + r * args.y_stride);
  }
}

}  // namespace
}  // namespace qkv::QKV_ISA
