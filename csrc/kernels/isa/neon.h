// The vector contract (see portable.h) on NEON: four lanes, 32 registers. Built three times: for any 64-bit Arm, with
// the int8 dot product (FEAT_DotProd), and with bfloat16 (FEAT_BF16) as well.
#pragma once

#include <arm_neon.h>
#include <stddef.h>
#include <stdint.h>

namespace qkv::QKV_ISA {
namespace {

constexpr int kLanes = 4;
constexpr int kPanelVectors = 4;  // 6 x 4 accumulators + 4 weight vectors + 1 broadcast of 32 registers
#ifdef __ARM_FEATURE_BF16_VECTOR_ARITHMETIC
constexpr bool kDotBf16 = true;  // both operands bfloat16, products summed in float32
#else
constexpr bool kDotBf16 = false;
#endif

constexpr int kActivationOffset = 0;

struct Mask {
  uint32x4_t bits;
  uint32_t lanes() const {  // a bit for each, the first one lowest
    const uint32x4_t weights = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(bits, weights));
  }
};

struct F32 {
  using Lane = float;
  float32x4_t v;

  static F32 set(float x) { return {vdupq_n_f32(x)}; }
  static F32 load(const float* p) { return {vld1q_f32(p)}; }
  static F32 load(const float* p, int64_t n) {
    float lanes[kLanes] = {};
    for (int64_t i = 0; i < n; ++i) lanes[i] = p[i];
    return load(lanes);
  }
  void store(float* p) const { vst1q_f32(p, v); }
  void store(float* p, int64_t n) const {
    float lanes[kLanes];
    store(lanes);
    for (int64_t i = 0; i < n; ++i) p[i] = lanes[i];
  }

  void store_int8(uint8_t* p) const { store_int8(p, kLanes); }
  void store_int8(uint8_t* p, int64_t n) const {
    const int16x4_t i16 = vmovn_s32(vcvtnq_s32_f32(v));
    uint8_t lanes[8];
    vst1_u8(lanes, vreinterpret_u8_s8(vmovn_s16(vcombine_s16(i16, i16))));
    for (int64_t i = 0; i < n; ++i) p[i] = lanes[i];
  }

  static F32 low_bf16(const uint16_t* pairs) {
    return {vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_u16(vld1q_u16(pairs)), 16))};
  }
  static F32 high_bf16(const uint16_t* pairs) {
    const uint32x4_t high = vdupq_n_u32(0xffff0000);
    return {vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_u16(vld1q_u16(pairs)), high))};
  }
  static F32 widen(const int8_t* p) {
    int8_t bytes[8] = {};
    __builtin_memcpy(bytes, p, kLanes);
    return {vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vld1_s8(bytes)))))};
  }
#ifdef __ARM_FEATURE_BF16_VECTOR_ARITHMETIC
  // acc + low * low + high * high of each lane's pair; `pair` is the same activation pair in every lane
  static F32 dot_bf16(F32 acc, const uint16_t* pairs, uint32_t pair) {
    const bfloat16x8_t w = vreinterpretq_bf16_u16(vld1q_u16(pairs));
    return {vbfdotq_f32(acc.v, w, vreinterpretq_bf16_u32(vdupq_n_u32(pair)))};
  }
  // Rounded to nearest even. `p` may be where the floats came from: copied as bytes, which may overlay any type.
  void store_bf16(uint16_t* p) const { store_bf16(p, kLanes); }
  void store_bf16(uint16_t* p, int64_t n) const {
    uint16_t lanes[kLanes];
    vst1_u16(lanes, vreinterpret_u16_bf16(vcvt_bf16_f32(v)));
    __builtin_memcpy(p, lanes, (size_t)n * sizeof *p);
  }
  // pairs of the lanes of both
  static void store_bf16_pairs(F32 first, F32 second, uint16_t* pairs) {
    vst2_u16(pairs, {vreinterpret_u16_bf16(vcvt_bf16_f32(first.v)), vreinterpret_u16_bf16(vcvt_bf16_f32(second.v))});
  }
#endif

  friend F32 operator+(F32 a, F32 b) { return {vaddq_f32(a.v, b.v)}; }
  friend F32 operator-(F32 a, F32 b) { return {vsubq_f32(a.v, b.v)}; }
  friend F32 operator*(F32 a, F32 b) { return {vmulq_f32(a.v, b.v)}; }
  friend F32 operator/(F32 a, F32 b) { return {vdivq_f32(a.v, b.v)}; }
  friend Mask operator<(F32 a, F32 b) { return {vcltq_f32(a.v, b.v)}; }
};

struct Pairs {  // lane by lane
  F32 first, second;
};

inline F32 fma(F32 a, F32 b, F32 c) { return {vfmaq_f32(c.v, a.v, b.v)}; }
inline F32 select(Mask m, F32 yes, F32 no) { return {vbslq_f32(m.bits, yes.v, no.v)}; }
// Not vmaxq_f32, which is NaN when either is: a NaN in `a` stays, one in `b` does not come through, as in portable.h.
inline F32 max(F32 a, F32 b) { return select(a < b, b, a); }
inline F32 min(F32 a, F32 b) { return select(b < a, b, a); }
inline F32 abs(F32 x) { return {vabsq_f32(x.v)}; }
inline F32 copysign(F32 size, F32 sign) { return {vbslq_f32(vdupq_n_u32(0x80000000), sign.v, size.v)}; }
inline F32 round(F32 x) { return {vrndnq_f32(x.v)}; }
inline F32 round_bf16(F32 x) {
  const uint32x4_t bits = vreinterpretq_u32_f32(x.v), odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  const uint32x4_t up = vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), odd);
  return {vreinterpretq_f32_u32(vandq_u32(up, vdupq_n_u32(0xffff0000)))};
}
inline F32 pow2(F32 n) {
  const int32x4_t biased = vaddq_s32(vcvtq_s32_f32(n.v), vdupq_n_s32(127));
  return {vreinterpretq_f32_s32(vshlq_n_s32(biased, 23))};
}
inline F32 divide(F32 a, F32 b) { return a / b; }
inline F32 times(F32 x, double factor) {
  const float high = (float)factor;
  return fma(x, F32::set(high), x * F32::set((float)(factor - high)));
}

inline Pairs split_pairs(F32 low, F32 high) { return {{vuzp1q_f32(low.v, high.v)}, {vuzp2q_f32(low.v, high.v)}}; }
inline Pairs join_pairs(F32 first, F32 second) {
  return {{vzip1q_f32(first.v, second.v)}, {vzip2q_f32(first.v, second.v)}};
}

struct I32 {
  using Lane = int32_t;
  int32x4_t v;
  static I32 load(const int32_t* p) { return {vld1q_s32(p)}; }
  void store(int32_t* p) const { vst1q_s32(p, v); }
};

inline F32 to_float(I32 x) { return {vcvtq_f32_s32(x.v)}; }

struct I8 {
  uint8x16_t v;
  static I8 load(const void* p) { return {vld1q_u8((const uint8_t*)p)}; }
  void store(void* p) const { vst1q_u8((uint8_t*)p, v); }
  static I8 low_nibbles(const void* p) { return {vandq_u8(load(p).v, vdupq_n_u8(15))}; }
  static I8 high_nibbles(const void* p) { return {vshrq_n_u8(load(p).v, 4)}; }
  static I8 spread(const uint8_t* p) {
    uint32_t bytes;
    __builtin_memcpy(&bytes, p, sizeof bytes);
    const uint8x16_t all = vreinterpretq_u8_u32(vdupq_n_u32(bytes)), twice = vzip1q_u8(all, all);
    return {vzip1q_u8(twice, twice)};
  }
  friend I8 operator*(I8 a, I8 b) { return {vmulq_u8(a.v, b.v)}; }
  friend I8 operator+(I8 a, I8 b) { return {vaddq_u8(a.v, b.v)}; }
};

inline I32 dot(I32 acc, I8 w, uint32_t a) {
  const int8x16_t bytes = vreinterpretq_s8_u8(w.v), four = vreinterpretq_s8_u32(vdupq_n_u32(a));
#ifdef __ARM_FEATURE_DOTPROD
  return {vdotq_s32(acc.v, bytes, four)};
#else
  const int16x8_t low = vmull_s8(vget_low_s8(bytes), vget_low_s8(four)), high = vmull_high_s8(bytes, four);
  return {vaddq_s32(acc.v, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)))};
#endif
}

inline F32 fraction(F32 x) {
  x = max(x, F32::set(-127.0f));
  return x - F32{vrndmq_f32(x.v)};
}
inline F32 scale_pow2(F32 x, F32 n) { return x * pow2({vrndmq_f32(max(n, F32::set(-127.0f)).v)}); }

// Pairs of rows, then halves.
inline void transpose(const void* x, int64_t x_stride, void* y, int64_t y_stride) {
  float32x4_t r[4];
  for (int i = 0; i < 4; ++i) r[i] = vld1q_f32((const float*)x + i * x_stride);
  const float32x4x2_t top = vtrnq_f32(r[0], r[1]), bottom = vtrnq_f32(r[2], r[3]);
  for (int j = 0; j < 2; ++j) {
    vst1q_f32((float*)y + j * y_stride, vcombine_f32(vget_low_f32(top.val[j]), vget_low_f32(bottom.val[j])));
    vst1q_f32((float*)y + (j + 2) * y_stride, vcombine_f32(vget_high_f32(top.val[j]), vget_high_f32(bottom.val[j])));
  }
}

inline float reduce_add(F32 x) { return vaddv_f32(vadd_f32(vget_low_f32(x.v), vget_high_f32(x.v))); }
inline float reduce_max(F32 x) { return vmaxnmvq_f32(x.v); }

}  // namespace
}  // namespace qkv::QKV_ISA
