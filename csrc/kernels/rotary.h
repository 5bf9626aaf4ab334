// Rotary position embedding (Su et al. 2021): a pair of values (a, b) turns by an angle that depends on its token's
// position and on where in the head it lies, to (a cos - b sin, b cos + a sin).
#pragma once

#include "kernels.h"

namespace qkv::QKV_ISA {
namespace {

// Pairs (i, i + half) of a head
struct HalfSplit {
  static Pairs load(const float* x, int64_t i, int64_t half) { return {F32::load(x + i), F32::load(x + i + half)}; }
  static Pairs load(const float* x, int64_t i, int64_t half, int64_t n) {
    return {F32::load(x + i, n), F32::load(x + i + half, n)};
  }
  static void store(Pairs pairs, float* y, int64_t i, int64_t half) {
    pairs.first.store(y + i);
    pairs.second.store(y + i + half);
  }
  static void store(Pairs pairs, float* y, int64_t i, int64_t half, int64_t n) {
    pairs.first.store(y + i, n);
    pairs.second.store(y + i + half, n);
  }
};

// Pairs (2i, 2i + 1)
struct Interleaved {
  static Pairs load(const float* x, int64_t i, int64_t) {
    return split_pairs(F32::load(x + 2 * i), F32::load(x + 2 * i + kLanes));
  }
  static Pairs load(const float* x, int64_t i, int64_t, int64_t n) {
    const int64_t low = 2 * n < kLanes ? 2 * n : kLanes;  // values in the first vector
    return split_pairs(F32::load(x + 2 * i, low), F32::load(x + 2 * i + low, 2 * n - low));
  }
  static void store(Pairs pairs, float* y, int64_t i, int64_t) {
    const Pairs mixed = join_pairs(pairs.first, pairs.second);
    mixed.first.store(y + 2 * i);
    mixed.second.store(y + 2 * i + kLanes);
  }
  static void store(Pairs pairs, float* y, int64_t i, int64_t, int64_t n) {
    const int64_t low = 2 * n < kLanes ? 2 * n : kLanes;
    const Pairs mixed = join_pairs(pairs.first, pairs.second);
    mixed.first.store(y + 2 * i, low);
    mixed.second.store(y + 2 * i + low, 2 * n - low);
  }
};

inline Pairs turn(Pairs x, F32 cosine, F32 sine, F32 scale) {
  return {(x.first * cosine - x.second * sine) * scale, (x.second * cosine + x.first * sine) * scale};
}

// y = scale * x with the first rotary_dim values of the head turned (none when rotary is null); y may be x.
template <class Layout>
void rotate(const float* x, const float* rotary, int64_t rotary_dim, int64_t head_dim, float scale, float* y) {
  const int64_t half = rotary ? rotary_dim / 2 : 0;
  const float *cosine = rotary, *sine = rotary + half;
  const F32 factor = F32::set(scale);
  int64_t i = 0;
  for (; i + kLanes <= half; i += kLanes) {
    const Pairs turned = turn(Layout::load(x, i, half), F32::load(cosine + i), F32::load(sine + i), factor);
    Layout::store(turned, y, i, half);
  }
  if (const int64_t n = half - i; n > 0) {
    const Pairs turned = turn(Layout::load(x, i, half, n), F32::load(cosine + i, n), F32::load(sine + i, n), factor);
    Layout::store(turned, y, i, half, n);
  }
  for (i = 2 * half; i + kLanes <= head_dim; i += kLanes) (F32::load(x + i) * factor).store(y + i);
  if (i < head_dim) (F32::load(x + i, head_dim - i) * factor).store(y + i, head_dim - i);
}

inline auto rotation(bool interleaved) { return interleaved ? rotate<Interleaved> : rotate<HalfSplit>; }

void rope(const RopeArgs& args, int64_t row, int64_t rows) {
  const auto rotate_one = rotation(args.interleaved);
  int64_t token = row % args.tokens;
  for (int64_t r = row; r < row + rows; ++r) {
    const float* rotary = args.rotary + token * args.rotary_dim;
    rotate_one(args.x + r * args.head_dim, rotary, args.rotary_dim, args.head_dim, 1.0f, args.y + r * args.head_dim);
    token = token + 1 < args.tokens ? token + 1 : 0;
  }
}

}  // namespace
}  // namespace qkv::QKV_ISA
