// The vector contract (see portable.h) on AVX-512 F/BW/VL/DQ: sixteen lanes.
#pragma once

#include <immintrin.h>
#include <stdint.h>

namespace qkv::QKV_ISA {
namespace {

constexpr int kLanes = 16;
constexpr int kPanelVectors = 4;  // 6 x 4 accumulators + 4 weight vectors + 1 broadcast of 32 registers
#ifdef __AVX512BF16__
constexpr bool kDotBf16 = true;  // both operands bfloat16, products summed in float32
#else
constexpr bool kDotBf16 = false;
#endif

struct Mask {
  __mmask16 bits;
};

inline __mmask16 first_lanes(int64_t n) { return (__mmask16)((1u << n) - 1); }

struct F32 {
  __m512 v;

  static F32 set(float x) { return {_mm512_set1_ps(x)}; }
  static F32 load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static F32 load(const float* p, int64_t n) { return {_mm512_maskz_loadu_ps(first_lanes(n), p)}; }
  void store(float* p) const { _mm512_storeu_ps(p, v); }
  void store(float* p, int64_t n) const { _mm512_mask_storeu_ps(p, first_lanes(n), v); }

  static F32 low_bf16(const uint16_t* pairs) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(pairs), 16))};
  }
  static F32 high_bf16(const uint16_t* pairs) {
    const __m512i high = _mm512_set1_epi32((int)0xffff0000);
    return {_mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(pairs), high))};
  }
#ifdef __AVX512BF16__
  // acc + low * low + high * high of each lane's pair; `pair` is the same activation pair in every lane
  static F32 dot_bf16(F32 acc, const uint16_t* pairs, uint32_t pair) {
    return {_mm512_dpbf16_ps(acc.v, (__m512bh)_mm512_loadu_si512(pairs), (__m512bh)_mm512_set1_epi32((int)pair))};
  }
  void store_bf16(uint16_t* p, int64_t n) const {  // rounded to nearest even; n <= kLanes
    _mm256_mask_storeu_epi16(p, first_lanes(n), (__m256i)_mm512_cvtneps_pbh(v));
  }
#endif

  friend F32 operator+(F32 a, F32 b) { return {_mm512_add_ps(a.v, b.v)}; }
  friend F32 operator-(F32 a, F32 b) { return {_mm512_sub_ps(a.v, b.v)}; }
  friend F32 operator*(F32 a, F32 b) { return {_mm512_mul_ps(a.v, b.v)}; }
  friend F32 operator/(F32 a, F32 b) { return {_mm512_div_ps(a.v, b.v)}; }
  friend Mask operator<(F32 a, F32 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
};

struct Pairs {  // lane by lane
  F32 first, second;
};

inline F32 fma(F32 a, F32 b, F32 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline F32 select(Mask m, F32 yes, F32 no) { return {_mm512_mask_blend_ps(m.bits, no.v, yes.v)}; }
// The second operand of the instruction wins when either is NaN: a NaN in `a` stays, as in portable.h.
inline F32 max(F32 a, F32 b) { return {_mm512_max_ps(b.v, a.v)}; }
inline F32 min(F32 a, F32 b) { return {_mm512_min_ps(b.v, a.v)}; }
inline F32 abs(F32 x) { return {_mm512_abs_ps(x.v)}; }
inline F32 copysign(F32 size, F32 sign) {
  const __m512 bit = _mm512_set1_ps(-0.0f);
  return {_mm512_or_ps(_mm512_andnot_ps(bit, size.v), _mm512_and_ps(bit, sign.v))};
}
inline F32 round(F32 x) { return {_mm512_roundscale_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline F32 pow2(F32 n) {
  const __m512i biased = _mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(biased, 23))};
}
// Lanes below float32's range are left out: the instruction takes a hundred times as long to round one to 0.
inline F32 scale_pow2(F32 x, F32 n) {
  return {_mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(n.v, _mm512_set1_ps(-127.0f), _CMP_NLE_UQ), x.v, n.v)};
}
// The division instruction takes 16 cycles. The remainder of a first quotient, exact in one fused operation, turns
// the 14 bits of the approximate reciprocal into all 24.
inline F32 divide(F32 a, F32 b) {
  const __m512 r = _mm512_rcp14_ps(b.v), q = _mm512_mul_ps(a.v, r);
  return {_mm512_fmadd_ps(_mm512_fnmadd_ps(q, b.v, a.v), r, q)};
}
inline F32 times(F32 x, double factor) {
  const float high = (float)factor;
  return fma(x, F32::set(high), x * F32::set((float)(factor - high)));
}

inline Pairs split_pairs(F32 low, F32 high) {
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
  return {{_mm512_permutex2var_ps(low.v, even, high.v)}, {_mm512_permutex2var_ps(low.v, odd, high.v)}};
}
inline Pairs join_pairs(F32 first, F32 second) {
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
  return {{_mm512_permutex2var_ps(first.v, low, second.v)}, {_mm512_permutex2var_ps(first.v, high, second.v)}};
}

inline float reduce_add(F32 x) {
  const __m256 s8 = _mm256_add_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1));
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
inline float reduce_max(F32 x) { return _mm512_reduce_max_ps(x.v); }

}  // namespace
}  // namespace qkv::QKV_ISA
