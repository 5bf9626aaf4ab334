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

  // kLanes integers as float32
  static F32 widen(const int8_t* p) { return {Vec4f{(float)p[0], (float)p[1], (float)p[2], (float)p[3]}}; }

  friend F32 operator+(F32 a, F32 b) { return {a.v + b.v}; }
  friend F32 operator-(F32 a, F32 b) { return {a.v - b.v}; }
  friend F32 operator*(F32 a, F32 b) { return {a.v * b.v}; }
  friend F32 operator/(F32 a, F32 b) { return {a.v / b.v}; }
  friend Mask operator<(F32 a, F32 b) { return {a.v < b.v}; }
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

inline F32 floor(F32 x) {  // |x| < 2^22
  const F32 n = round(x);
  return n - select(x < n, F32::set(1.0f), F32::set(0.0f));
}
// The two halves of 2^x = 2^(x - floor x) 2^(floor x), for x < 128. Below -126 the second is 0 or the exact power, at
// -inf it is 0, and the fraction stays finite.
inline F32 fraction(F32 x) {
  x = max(x, F32::set(-127.0f));
  return x - floor(x);
}
inline F32 scale_pow2(F32 a, F32 x) { return a * pow2(floor(max(x, F32::set(-127.0f)))); }  // a 2^(floor x)

// y[j][i] = x[i][j] for kLanes x kLanes elements of 32 bits; strides in elements
inline void transpose(const void* x, int64_t x_stride, void* y, int64_t y_stride) {
  for (int64_t i = 0; i < kLanes; ++i)
    for (int64_t j = 0; j < kLanes; ++j)
      __builtin_memcpy((uint32_t*)y + j * y_stride + i, (const uint32_t*)x + i * x_stride + j, sizeof(uint32_t));
}

inline float reduce_add(F32 x) { return (x.v[0] + x.v[2]) + (x.v[1] + x.v[3]); }
inline float reduce_max(F32 x) {
  float m = x.v[0];
  for (int i = 1; i < kLanes; ++i) m = m < x.v[i] ? x.v[i] : m;
  return m;
}

}  // namespace
}  // namespace qkv::QKV_ISA
