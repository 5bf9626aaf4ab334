// float32 activations as the linear kernels of narrower weights read them.
#pragma once

#include "kernels.h"

namespace qkv::QKV_ISA {
namespace {

// Symmetric, one scale a row. A row that is not finite gets NaN as its scale, so that it spoils its products and no
// others; one that stays below 1e-30 counts as 0, as 127 / 1e-38 would be infinite.
void quantise(const float* x, uint8_t* q, float* scale, int64_t n, int64_t padded) {
  F32 top[4] = {F32::set(0), F32::set(0), F32::set(0), F32::set(0)}, spoilt[4] = {top[0], top[0], top[0], top[0]};
  const auto look = [&](int part, F32 v) {
    top[part] = max(top[part], abs(v));
    spoilt[part] = fma(v, F32::set(0), spoilt[part]);
  };
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes)  // four chains hide the latency
#pragma GCC unroll 4
    for (int part = 0; part < 4; ++part) look(part, F32::load(x + i + part * kLanes));
  for (; i + kLanes <= n; i += kLanes) look(0, F32::load(x + i));
  if (i < n) look(0, F32::load(x + i, n - i));
  const float largest = reduce_max(max(max(top[0], top[1]), max(top[2], top[3])));
  *scale = largest / 127.0f + reduce_add((spoilt[0] + spoilt[1]) + (spoilt[2] + spoilt[3]));
  const F32 inverse = F32::set(largest > 1e-30f ? 127.0f / largest : 0.0f);
  for (i = 0; i + kLanes <= n; i += kLanes) (F32::load(x + i) * inverse).store_int8(q + i);
  if (i < n) (F32::load(x + i, n - i) * inverse).store_int8(q + i, n - i);
  for (i = n; i < padded; ++i) q[i] = (uint8_t)kActivationOffset;
}

// x [n] -> y [padded], zeros behind n; y may be where x is. Only tables with bf16_activations are asked to.
template <class V>
void to_bfloat16(const float* x, uint16_t* y, int64_t n, int64_t padded) {
  int64_t i = 0;
  if constexpr (kDotBf16) {
    for (; i + kLanes <= n; i += kLanes) V::load(x + i).store_bf16(y + i);
    if (i < n) V::load(x + i, n - i).store_bf16(y + i, n - i);
    i = n;
  }
  for (; i < padded; ++i) y[i] = 0;
}

}  // namespace
}  // namespace qkv::QKV_ISA
