// Rotary position embedding (Su et al. 2021).
#pragma once

#include <stdint.h>

namespace qkv::QKV_ISA {
namespace {

// Half-split layout: pairs (i, i + rotary_dim / 2). y = scale * rope(x).
void rotate(const float* x, const float* rotary, int64_t rotary_dim, int64_t head_dim, float scale, float* y) {
  const int64_t half = rotary ? rotary_dim / 2 : 0;
  const float *cosine = rotary, *sine = rotary + half;
  for (int64_t i = 0; i < half; ++i) {
    const float a = x[i], b = x[i + half];
    y[i] = (a * cosine[i] - b * sine[i]) * scale;
    y[i + half] = (b * cosine[i] + a * sine[i]) * scale;
  }
  for (int64_t i = 2 * half; i < head_dim; ++i) y[i] = x[i] * scale;
}

}  // namespace
}  // namespace qkv::QKV_ISA
