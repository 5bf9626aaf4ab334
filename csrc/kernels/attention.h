// softmax(scale q.k) v (Vaswani et al. 2017) over keys and values that lie in pages, with the online softmax of
// Milakov and Gimelshein (2018): a running maximum m, a running sum l and a running output, rescaled when the
// maximum grows. Blocks of keys are pages, aligned to absolute position, so a token's bits depend neither on how
// the prompt was cut nor on what was cached. Masked scores become exp(-inf) = 0 and change nothing, exactly; their
// values are left alone.
#pragma once

#include "kernels.h"
#include "math.h"
#include "rotary.h"
#include "tile.h"

namespace qkv::QKV_ISA {
namespace {

void store_key_value(const float* key, const float* value, const float* rotary, int64_t rotary_dim, int64_t head_dim,
                     float* page, int64_t slot) {
  float* keys = page + slot;  // transposed: a key is a column
  const int64_t half = rotary ? rotary_dim / 2 : 0;
  const float *cosine = rotary, *sine = rotary + half;
  for (int64_t i = 0; i < half; ++i) {
    const float a = key[i], b = key[i + half];
    keys[i * kPageTokens] = a * cosine[i] - b * sine[i];
    keys[(i + half) * kPageTokens] = b * cosine[i] + a * sine[i];
  }
  for (int64_t i = 2 * half; i < head_dim; ++i) keys[i * kPageTokens] = key[i];

  float* values = page + head_dim * kPageTokens + slot * value_stride(head_dim);
  for (int64_t i = 0; i < head_dim; ++i) values[i] = value[i];
  for (int64_t i = head_dim; i < value_stride(head_dim); ++i) values[i] = 0;
}

struct OnlineSoftmax {
  float m = -__builtin_inff();
  float l = 0;
};

// One row of scores [end], of which `keys` count, becomes weights exp(score - m), zeros behind; returns the factor by
// which what was summed before has to shrink. `end` is a multiple of kLanes.
inline float absorb(OnlineSoftmax& state, float* scores, int64_t keys, int64_t end) {
  for (int64_t i = keys; i < end; ++i) scores[i] = -__builtin_inff();
  F32 top = F32::load(scores);
  for (int64_t i = kLanes; i < end; i += kLanes) top = max(top, F32::load(scores + i));
  const float block = reduce_max(top);
  const float m = state.m < block ? block : state.m;
  // nothing but masked keys so far: any finite maximum makes the weights 0 instead of NaN
  const F32 base = F32::set(m == -__builtin_inff() ? 0.0f : m);
  F32 sum = F32::set(0);
  for (int64_t i = 0; i < end; i += kLanes) {
    const F32 weight = exp(F32::load(scores + i) - base);
    weight.store(scores + i);
    sum = sum + weight;
  }
  alignas(kAlignment) float factor[kLanes];
  exp(F32::set(state.m) - base).store(factor);
  state.l = state.l * factor[0] + reduce_add(sum);
  state.m = m;
  return factor[0];
}

// A tile of up to 6 rows against all its keys.
inline void attend_tile(const AttentionArgs& args, int64_t row, int64_t rows) {
  const int64_t dim = args.head_dim, stride = value_stride(dim);
  float* q = args.scratch;                    // [rows][stride]
  float* sums = q + kTileRows * stride;       // [rows][stride]
  float* scores = sums + kTileRows * stride;  // [rows][kPageTokens]
  OnlineSoftmax state[kTileRows];
  int64_t visible[kTileRows];  // keys that each row sees
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t token = (row + r) / args.group, head = (row + r) % args.group;
    const float* rotary = args.rotary ? args.rotary + token * args.rotary_dim : nullptr;
    rotate(args.q + token * args.q_stride + head * dim, rotary, args.rotary_dim, dim, args.scale, q + r * stride);
    for (int64_t i = 0; i < stride; ++i) sums[r * stride + i] = 0;
    visible[r] = args.causal ? args.past + token + 1 : args.keys;
  }

  const int64_t last = (row + rows - 1) / args.group;  // the last row's token sees the most keys
  const int64_t keys = args.causal ? args.past + last + 1 : args.keys;
  for (int64_t first = 0; first < keys; first += kPageTokens) {
    const float* page = args.pages[first / kPageTokens];
    const int64_t count = keys - first < kPageTokens ? keys - first : kPageTokens;
    const int64_t end = (count + kLanes - 1) / kLanes * kLanes;
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = 0; i < end; ++i) scores[r * kPageTokens + i] = 0;
    multiply(rows, end / kLanes, q, stride, page, kPageTokens, dim, scores, kPageTokens);
    int64_t seen[kTileRows];  // keys of this page that each row sees
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t left = visible[r] - first;
      seen[r] = left < 0 ? 0 : left < count ? left : count;
      const float factor = absorb(state[r], scores + r * kPageTokens, seen[r], end);
      if (factor == 1) continue;  // the maximum stayed
      for (int64_t i = 0; i < stride; i += kLanes)
        (F32::load(sums + r * stride + i) * F32::set(factor)).store(sums + r * stride + i);
    }
    // First the keys that all rows see, then the few that only later rows see: a weight of 0 would not hide a NaN.
    const float* values = page + dim * kPageTokens;
    multiply(rows, stride / kLanes, scores, kPageTokens, values, stride, seen[0], sums, stride);
    for (int64_t r = 1; r < rows; ++r)
      if (seen[r] > seen[0])
        multiply(1, stride / kLanes, scores + r * kPageTokens + seen[0], kPageTokens, values + seen[0] * stride, stride,
                 seen[r] - seen[0], sums + r * stride, stride);
  }

  for (int64_t r = 0; r < rows; ++r) {
    float* y = args.y + (row + r) / args.group * args.y_stride + (row + r) % args.group * dim;
    for (int64_t i = 0; i < dim; ++i) y[i] = sums[r * stride + i] / state[r].l;
  }
}

void attend(const AttentionArgs& args, int64_t row, int64_t rows) {
  for (int64_t n; rows > 0; row += n, rows -= n) {
    n = next_rows(rows);
    attend_tile(args, row, n);
  }
}

}  // namespace
}  // namespace qkv::QKV_ISA
