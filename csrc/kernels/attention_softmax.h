// Scores of a block of keys -> weights, one row at a time. Scores are in units of log2(e), so that a weight is a plain
// power of two: the query carries the factor scale log2(e).
#pragma once

#include "kernels.h"
#include "math.h"

namespace qkv::QKV_ISA {
namespace {

constexpr float kLog2E = 1.44269504f;
constexpr float kInfinity = __builtin_inff();

// Keys first ... end - 1, counted from the start of a block; none when first == end.
struct Span {
  int64_t first, end;
  bool empty() const { return first >= end; }
};

// `i`, `i + 1`, ... in the lanes
inline F32 counted_from(int64_t i) {
  alignas(kAlignment) static constexpr float lanes[kMostLanes] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return F32::load(lanes) + F32::set((float)i);
}

// The scores of keys that a row does not see become -inf. Span `some` of whole vectors holds span `seen`.
inline void hide_unseen(float* scores, Span some, Span seen) {
  const F32 none = F32::set(-kInfinity);
  const F32 before_first = F32::set((float)seen.first - 0.5f), end = F32::set((float)seen.end);
  const auto hide = [&](int64_t i) {
    const F32 lane = counted_from(i), score = F32::load(scores + i);
    select(before_first < lane, select(lane < end, score, none), none).store(scores + i);
  };
  int64_t i = some.first;
  for (; i < some.end && i < seen.first; i += kLanes) hide(i);
  const int64_t whole = i + (seen.end - i) / kLanes * kLanes;  // [i, whole) are all seen
  for (i = whole > i ? whole : i; i < some.end; i += kLanes) hide(i);
}

// bias[d + i] for the lanes i = 0, 1, ..., with the index held between -reach and reach; bias points to distance 0
inline F32 bias_at(const float* bias, int64_t reach, int64_t d) {
  if (d >= -reach && d + kLanes - 1 <= reach) return F32::load(bias + d);
  if (d >= reach) return F32::set(bias[reach]);
  if (d + kLanes - 1 <= -reach) return F32::set(bias[-reach]);
  alignas(kAlignment) float lanes[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) {
    const int64_t at = d + i < -reach ? -reach : d + i;
    lanes[i] = bias[at > reach ? reach : at];
  }
  return F32::load(lanes);
}

inline void add_alibi(float slope, int64_t distance, float* scores, Span some) {
  const F32 step = F32::set(-slope * kLog2E);
  for (int64_t i = some.first; i < some.end; i += kLanes)
    fma(abs(counted_from(distance + i)), step, F32::load(scores + i)).store(scores + i);
}

// The query's own term changes no weight. It keeps scores small, and so exact, however far on in a text they are.
inline void add_rounded_alibi(float slope, float scale, int64_t key, int64_t query, float* scores, Span some) {
  const F32 rounded = round_bf16(F32::set(slope)), factor = F32::set(scale * kLog2E);
  const auto term = [=](F32 position) { return round_bf16(rounded * round_bf16(position)); };
  const F32 own = term(F32::set((float)query));
  for (int64_t i = some.first; i < some.end; i += kLanes)
    fma(term(counted_from(key + i)) - own, factor, F32::load(scores + i)).store(scores + i);
}

// Soft cap and position biases of one row; `key` and `query`: the positions of the block's first key and of the query.
inline void adjust(const AttentionArgs& args, int64_t head, int64_t key, int64_t query, float* scores, Span some) {
  const F32 log2e = F32::set(kLog2E);
  if (args.soft_cap != 0) {  // the query carries scale / soft_cap
    const F32 cap = F32::set(args.soft_cap * kLog2E);
    for (int64_t i = some.first; i < some.end; i += kLanes) (cap * tanh(F32::load(scores + i))).store(scores + i);
  }
  if (args.slopes && args.rounded_alibi) add_rounded_alibi(args.slopes[head], args.scale, key, query, scores, some);
  else if (args.slopes) add_alibi(args.slopes[head], key - query, scores, some);
  if (args.bias) {
    const float* bias = args.bias + head * (2 * args.reach + 1) + args.reach;
    for (int64_t i = some.first; i < some.end; i += kLanes)
      fma(bias_at(bias, args.reach, key - query + i), log2e, F32::load(scores + i)).store(scores + i);
  }
}

// Before soft cap and biases: what makes a score of q.k.
inline float query_scale(const AttentionArgs& args) {
  return args.soft_cap != 0 ? args.scale / args.soft_cap : args.scale * kLog2E;
}

inline float largest(const float* scores, Span some) {
  F32 top = F32::load(scores + some.first);
  for (int64_t i = some.first + kLanes; i < some.end; i += kLanes) top = max(top, F32::load(scores + i));
  return reduce_max(top);
}

// What to subtract from scores whose maximum is m: with nothing but -inf, any finite number makes the weights 0.
inline F32 softmax_base(F32 m) { return select(F32::set(-kInfinity) < m, m, F32::set(0)); }

// Scores become weights 2^(score - m); returns their sum.
inline float weigh(float* scores, Span some, float m) {
  const F32 base = softmax_base(F32::set(m));
  F32 sum = F32::set(0);
  for (int64_t i = some.first; i < some.end; i += kLanes) {
    const F32 weight = exp2(F32::load(scores + i) - base);
    weight.store(scores + i);
    sum = sum + weight;
  }
  return reduce_add(sum);
}

inline void multiply_by(float* scores, const float* factors, Span some) {
  for (int64_t i = some.first; i < some.end; i += kLanes)
    (F32::load(scores + i) * F32::load(factors + i)).store(scores + i);
}

}  // namespace
}  // namespace qkv::QKV_ISA
