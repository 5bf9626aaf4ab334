// LayerNorm (Ba, Kiros, Hinton 2016): (x - mean) / sqrt(variance + eps) * weight + bias, and RMSNorm (Zhang,
// Sennrich 2019): x / sqrt(mean(x^2) + eps) * weight. The variance is taken in a second pass, around the mean:
// E[x^2] - E[x]^2 cancels when the mean is large.
#pragma once

#include "kernels.h"

namespace qkv::QKV_ISA {
namespace {

// sum of (x - centre)^Power over n values; four partial sums hide the latency of the additions
template <int Power>
inline float moment(const float* x, int64_t n, float centre) {
  F32 sum[4] = {F32::set(0), F32::set(0), F32::set(0), F32::set(0)};
  const F32 c = F32::set(centre);
  int64_t i = 0;
  for (int part = 0; i + kLanes <= n; i += kLanes, part = (part + 1) % 4) {
    const F32 d = F32::load(x + i) - c;
    sum[part] = Power == 1 ? sum[part] + d : fma(d, d, sum[part]);
  }
  if (i < n) {
    // lanes behind n hold 0, not the centre: put the centre there so that they add nothing
    alignas(kAlignment) float tail[kLanes];
    c.store(tail);
    F32::load(x + i, n - i).store(tail, n - i);
    const F32 d = F32::load(tail) - c;
    sum[0] = Power == 1 ? sum[0] + d : fma(d, d, sum[0]);
  }
  return reduce_add((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

inline void norm_row(const NormArgs& args, const float* x, float* y) {
  const int64_t n = args.n;
  const float mean = args.centred ? moment<1>(x, n, 0.0f) / (float)n : 0.0f;
  const float variance = moment<2>(x, n, mean) / (float)n;
  const F32 centre = F32::set(mean), scale = F32::set(1.0f / __builtin_sqrtf(variance + args.eps));
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    F32 out = (F32::load(x + i) - centre) * scale * F32::load(args.weight + i);
    if (args.bias) out = out + F32::load(args.bias + i);
    out.store(y + i);
  }
  if (const int64_t tail = n - i; tail > 0) {
    F32 out = (F32::load(x + i, tail) - centre) * scale * F32::load(args.weight + i, tail);
    if (args.bias) out = out + F32::load(args.bias + i, tail);
    out.store(y + i, tail);
  }
}

void norm(const NormArgs& args, int64_t row, int64_t rows) {
  for (int64_t r = row; r < row + rows; ++r) norm_row(args, args.x + r * args.x_stride, args.y + r * args.y_stride);
}

}  // namespace
}  // namespace qkv::QKV_ISA
