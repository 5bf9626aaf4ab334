// The vector contract: the names below, with the same meaning, stand in every header of this folder.
// Portable version: the compiler's vector extension, four lanes, no instruction set assumed.
#pragma once

#include <stdint.h>

namespace qkv::QKV_ISA {
namespace {

constexpr int kLanes = 4;         // float32 lanes of a vector
constexpr int kPanelVectors = 2;  // vectors across a weight panel: 6 x 2 accumulators + 3 fit 16 registers
constexpr bool kDotBf16 = false;  // bfloat16 weights are widened, activations stay float32

typedef float Vec4f __attribute__((vector_size(16)));
typedef int32_t Vec4i __attribute__((vector_size(16)));

struct Mask {
  Vec4i bits;
};

struct F32 {
  Vec4f v;

  static F32 set(float x) { return {Vec4f{x, x, x, x}}; }
  static F32 load(const float* p) {
    F32 r;
    __builtin_memcpy(&r.v, p, sizeof r.v);
    return r;
  }
  static F32 load(const float* p, int64_t n) {  // the first n < kLanes lanes; the others are 0
    F32 r = set(0);
    for (int64_t i = 0; i < n; ++i) r.v[i] = p[i];
    return r;
  }
  void store(float* p) const { __builtin_memcpy(p, &v, sizeof v); }
  void store(float* p, int64_t n) const {
    for (int64_t i = 0; i < n; ++i) p[i] = v[i];
  }

  // One lane holds a bfloat16 pair: elements 2k (low half) and 2k + 1 (high half) of one weight column.
  static F32 low_bf16(const uint16_t* pairs) {
    Vec4i bits;
    __builtin_memcpy(&bits, pairs, sizeof bits);
    return {(Vec4f)(bits << 16)};
  }
  static F32 high_bf16(const uint16_t* pairs) {
    Vec4i bits;
    __builtin_memcpy(&bits, pairs, sizeof bits);
    return {(Vec4f)(bits & (int32_t)0xffff0000)};
  }

  friend F32 operator+(F32 a, F32 b) { return {a.v + b.v}; }
  friend F32 operator-(F32 a, F32 b) { return {a.v - b.v}; }
  friend F32 operator*(F32 a, F32 b) { return {a.v * b.v}; }
  friend F32 operator/(F32 a, F32 b) { return {a.v / b.v}; }
  friend Mask operator<(F32 a, F32 b) { return {a.v < b.v}; }
};

struct Pairs {  // lane by lane
  F32 first, second;
};

inline F32 fma(F32 a, F32 b, F32 c) { return {a.v * b.v + c.v}; }  // a b + c; rounded twice here
inline F32 select(Mask m, F32 yes, F32 no) { return {(Vec4f)((m.bits & (Vec4i)yes.v) | (~m.bits & (Vec4i)no.v))}; }
inline F32 max(F32 a, F32 b) { return select(a < b, b, a); }
inline F32 min(F32 a, F32 b) { return select(b < a, b, a); }
inline F32 abs(F32 x) { return {(Vec4f)((Vec4i)x.v & 0x7fffffff)}; }
inline F32 copysign(F32 size, F32 sign) {
  return {(Vec4f)(((Vec4i)size.v & 0x7fffffff) | ((Vec4i)sign.v & (int32_t)0x80000000))};
}
inline F32 round(F32 x) {                   // to nearest, ties to even; |x| < 2^22
  const F32 magic = F32::set(12582912.0f);  // 1.5 * 2^23: adding it leaves no fraction bits
  return (x + magic) - magic;
}
inline F32 pow2(F32 n) {                                  // 2^n for integral n in -126 ... 127; 0 for n = -127
  const F32 biased = n + F32::set(12582912.0f + 127.0f);  // low mantissa bits now hold n + 127
  return {(Vec4f)((Vec4i)biased.v << 23)};
}
// x 2^n for integral n <= 127 and x in 0.5 ... 2; 0 from n = -127 down
inline F32 scale_pow2(F32 x, F32 n) { return x * pow2(max(n, F32::set(-127.0f))); }
// a / b for finite a and b, both well inside the normal range (a may be 0), to 0.6 ULP
inline F32 divide(F32 a, F32 b) { return a / b; }
// x * factor, to 0.6 ULP: factor has float64's precision
inline F32 times(F32 x, double factor) {
  for (int i = 0; i < kLanes; ++i) x.v[i] = (float)(x.v[i] * factor);
  return x;
}

// Pairs that lie side by side in low, then high, as their first and their second members; and back.
inline Pairs split_pairs(F32 low, F32 high) {
  return {{Vec4f{low.v[0], low.v[2], high.v[0], high.v[2]}}, {Vec4f{low.v[1], low.v[3], high.v[1], high.v[3]}}};
}
inline Pairs join_pairs(F32 first, F32 second) {
  return {{Vec4f{first.v[0], second.v[0], first.v[1], second.v[1]}},
          {Vec4f{first.v[2], second.v[2], first.v[3], second.v[3]}}};
}

inline float reduce_add(F32 x) { return (x.v[0] + x.v[2]) + (x.v[1] + x.v[3]); }
inline float reduce_max(F32 x) {
  float m = x.v[0];
  for (int i = 1; i < kLanes; ++i) m = m < x.v[i] ? x.v[i] : m;
  return m;
}

}  // namespace
}  // namespace qkv::QKV_ISA
