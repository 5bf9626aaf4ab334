// The vector contract: the names below, with the same meaning, stand in every header of this folder.
// Portable version: the compiler's vector extension, four lanes, no instruction set assumed.
#pragma once

#include <stdint.h>

namespace qkv::QKV_ISA {
namespace {

constexpr int kLanes = 4;             // float32 lanes of a vector
constexpr int kPanelVectors = 2;      // vectors across a weight panel: 6 x 2 accumulators + 3 fit 16 registers
constexpr bool kDotBf16 = false;      // bfloat16 weights are widened, activations stay float32
constexpr int kActivationOffset = 0;  // quantised activations are signed bytes

typedef float Vec4f __attribute__((vector_size(16)));
typedef int32_t Vec4i __attribute__((vector_size(16)));

struct Mask {
  Vec4i bits;
  uint32_t lanes() const {  // a bit for each, the first one lowest
    const Vec4i set = bits & Vec4i{1, 2, 4, 8};
    return (uint32_t)(set[0] | set[1] | set[2] | set[3]);
  }
};

struct F32 {
  using Lane = float;
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
  // Values up to 127 in size, rounded to nearest even, as bytes + kActivationOffset.
  void store_int8(uint8_t* p) const { store_int8(p, kLanes); }
  void store_int8(uint8_t* p, int64_t n) const {
    const Vec4f magic = set(12582912.0f).v;  // see round()
    const Vec4f whole = (v + magic) - magic;
    for (int64_t i = 0; i < n; ++i) p[i] = (uint8_t)(int32_t)whole[i];
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
inline F32 round_bf16(F32 x) {  // to the nearest bfloat16, ties to even; x is finite
  const Vec4i bits = (Vec4i)x.v;
  return {(Vec4f)((bits + 0x7fff + (bits >> 16 & 1)) & (int32_t)0xffff0000)};
}
inline F32 pow2(F32 n) {                                  // 2^n for integral n in -126 ... 127; 0 for n = -127
  const F32 biased = n + F32::set(12582912.0f + 127.0f);  // low mantissa bits now hold n + 127
  return {(Vec4f)((Vec4i)biased.v << 23)};
}
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

struct I32 {
  using Lane = int32_t;
  Vec4i v;

  static I32 load(const int32_t* p) {
    I32 r;
    __builtin_memcpy(&r.v, p, sizeof r.v);
    return r;
  }
  void store(int32_t* p) const { __builtin_memcpy(p, &v, sizeof v); }
};

inline F32 to_float(I32 x) { return {__builtin_convertvector(x.v, Vec4f)}; }

// 4 * kLanes bytes: four neighbours of k for each of kLanes columns.
struct I8 {
  typedef int8_t Vec16b __attribute__((vector_size(16)));
  typedef uint8_t Vec16u __attribute__((vector_size(16)));
  Vec16b v;

  static I8 load(const void* p) {
    I8 r;
    __builtin_memcpy(&r.v, p, sizeof r.v);
    return r;
  }
  void store(void* p) const { __builtin_memcpy(p, &v, sizeof v); }
  static I8 low_nibbles(const void* p) { return {load(p).v & 15}; }
  static I8 high_nibbles(const void* p) { return {(Vec16b)((Vec16u)load(p).v >> 4)}; }
  static I8 spread(const uint8_t* p) {  // each byte four times
    I8 r;
    for (int i = 0; i < 16; ++i) r.v[i] = (int8_t)p[i / 4];
    return r;
  }
  friend I8 operator*(I8 a, I8 b) { return {(Vec16b)((Vec16u)a.v * (Vec16u)b.v)}; }  // products up to 255
  friend I8 operator+(I8 a, I8 b) { return {(Vec16b)((Vec16u)a.v + (Vec16u)b.v)}; }  // modulo 256
};

// acc + the sum of each column's four products of w and the four activations in `a`; w > -128
inline I32 dot(I32 acc, I8 w, uint32_t a) {
  for (int i = 0; i < kLanes; ++i)
    for (int j = 0; j < 4; ++j) acc.v[i] += w.v[4 * i + j] * (int8_t)(a >> 8 * j);
  return acc;
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
// x 2^(floor n) for n < 128 and x in 0.5 ... 2; 0 where n < -126
inline F32 scale_pow2(F32 x, F32 n) { return x * pow2(floor(max(n, F32::set(-127.0f)))); }

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
