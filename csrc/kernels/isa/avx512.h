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

#ifdef __AVX512VNNI__
constexpr int kActivationOffset = 128;  // vpdpbusd multiplies unsigned bytes with signed ones
#else
constexpr int kActivationOffset = 0;
#endif

struct Mask {
  __mmask16 bits;
  uint32_t lanes() const { return bits; }  // a bit for each, the first one lowest
};

inline __mmask16 first_lanes(int64_t n) { return (__mmask16)((1u << n) - 1); }

struct F32 {
  using Lane = float;
  __m512 v;

  static F32 set(float x) { return {_mm512_set1_ps(x)}; }
  static F32 load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static F32 load(const float* p, int64_t n) { return {_mm512_maskz_loadu_ps(first_lanes(n), p)}; }
  void store(float* p) const { _mm512_storeu_ps(p, v); }
  void store(float* p, int64_t n) const { _mm512_mask_storeu_ps(p, first_lanes(n), v); }

  __m128i to_int8() const {
    return _mm512_cvtepi32_epi8(_mm512_add_epi32(_mm512_cvtps_epi32(v), _mm512_set1_epi32(kActivationOffset)));
  }
  void store_int8(uint8_t* p) const { _mm_storeu_si128((__m128i*)p, to_int8()); }
  void store_int8(uint8_t* p, int64_t n) const { _mm_mask_storeu_epi8(p, first_lanes(n), to_int8()); }

  static F32 low_bf16(const uint16_t* pairs) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(pairs), 16))};
  }
  static F32 high_bf16(const uint16_t* pairs) {
    const __m512i high = _mm512_set1_epi32((int)0xffff0000);
    return {_mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(pairs), high))};
  }
  static F32 widen(const int8_t* p) {
    return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)))};
  }
#ifdef __AVX512BF16__
  // acc + low * low + high * high of each lane's pair; `pair` is the same activation pair in every lane
  static F32 dot_bf16(F32 acc, const uint16_t* pairs, uint32_t pair) {
    return {_mm512_dpbf16_ps(acc.v, (__m512bh)_mm512_loadu_si512(pairs), (__m512bh)_mm512_set1_epi32((int)pair))};
  }
  // Rounded to nearest even. `p` may be where the floats came from: these vector types may overlay any other.
  void store_bf16(uint16_t* p) const { _mm256_storeu_si256((__m256i*)p, (__m256i)_mm512_cvtneps_pbh(v)); }
  void store_bf16(uint16_t* p, int64_t n) const {
    _mm256_mask_storeu_epi16(p, first_lanes(n), (__m256i)_mm512_cvtneps_pbh(v));
  }
  // pairs of the lanes of both
  static void store_bf16_pairs(F32 first, F32 second, uint16_t* pairs) {
    static constexpr uint16_t kMixed[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                            8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(second.v, first.v);
    _mm512_storeu_si512(pairs, _mm512_permutexvar_epi16(_mm512_loadu_si512(kMixed), both));
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
inline F32 round_bf16(F32 x) {
  const __m512i bits = _mm512_castps_si512(x.v),
                odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i up = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  return {_mm512_castsi512_ps(_mm512_and_si512(up, _mm512_set1_epi32((int)0xffff0000)))};
}
inline F32 pow2(F32 n) {
  const __m512i biased = _mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(biased, 23))};
}
// Lanes below float32's range are left out: the instruction takes a hundred times as long to round one to 0.
inline F32 scale_pow2(F32 x, F32 n) {
  return {_mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(n.v, _mm512_set1_ps(-126.0f), _CMP_NLT_UQ), x.v, n.v)};
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

struct I32 {
  using Lane = int32_t;
  __m512i v;
  static I32 load(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
  void store(int32_t* p) const { _mm512_storeu_si512(p, v); }
};

inline F32 to_float(I32 x) { return {_mm512_cvtepi32_ps(x.v)}; }

struct I8 {
  __m512i v;
  static I8 load(const void* p) { return {_mm512_loadu_si512(p)}; }
  void store(void* p) const { _mm512_storeu_si512(p, v); }
  static I8 low_nibbles(const void* p) { return {_mm512_and_si512(load(p).v, _mm512_set1_epi8(15))}; }
  static I8 high_nibbles(const void* p) {
    return {_mm512_and_si512(_mm512_srli_epi16(load(p).v, 4), _mm512_set1_epi8(15))};
  }
  static I8 spread(const uint8_t* p) {
    const __m512i words = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p));
    return {_mm512_mullo_epi32(words, _mm512_set1_epi32(0x01010101))};
  }
  // No product reaches 256, so a 16-bit lane holds two of them side by side.
  friend I8 operator*(I8 a, I8 b) { return {_mm512_mullo_epi16(a.v, _mm512_and_si512(b.v, _mm512_set1_epi16(255)))}; }
  friend I8 operator+(I8 a, I8 b) { return {_mm512_add_epi8(a.v, b.v)}; }
};

inline I32 dot(I32 acc, I8 w, uint32_t a) {
  const __m512i four = _mm512_set1_epi32((int)a);
#ifdef __AVX512VNNI__
  return {_mm512_dpbusd_epi32(acc.v, four, w.v)};
#else
  // vpmaddubsw multiplies unsigned by signed bytes and saturates pairs: |a| (w * sign a) stays within 2 * 127 * 127.
  const __m512i turned = _mm512_mask_sub_epi8(w.v, _mm512_movepi8_mask(four), _mm512_setzero_si512(), w.v);
  const __m512i pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(four), turned);
  return {_mm512_add_epi32(acc.v, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))};
#endif
}

// vreduceps of -inf is 0
inline F32 fraction(F32 x) { return {_mm512_reduce_ps(x.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)}; }

// Pairs, then pairs of pairs within 128 bits, then quarters, then halves.
inline void transpose(const void* x, int64_t x_stride, void* y, int64_t y_stride) {
  __m512 r[16], s[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) r[i] = _mm512_loadu_ps((const float*)x + i * x_stride);
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    s[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
    s[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4)  // r[i + j]: columns j, j + 4, j + 8 and j + 12 of rows i ... i + 3
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      r[i + 2 * j] = _mm512_shuffle_ps(s[i + j], s[i + j + 2], 0x44);
      r[i + 2 * j + 1] = _mm512_shuffle_ps(s[i + j], s[i + j + 2], 0xee);
    }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512 low_even = _mm512_shuffle_f32x4(r[j], r[j + 4], 0x88),
                 low_odd = _mm512_shuffle_f32x4(r[j], r[j + 4], 0xdd);
    const __m512 high_even = _mm512_shuffle_f32x4(r[j + 8], r[j + 12], 0x88);
    const __m512 high_odd = _mm512_shuffle_f32x4(r[j + 8], r[j + 12], 0xdd);
    _mm512_storeu_ps((float*)y + j * y_stride, _mm512_shuffle_f32x4(low_even, high_even, 0x88));
    _mm512_storeu_ps((float*)y + (j + 4) * y_stride, _mm512_shuffle_f32x4(low_odd, high_odd, 0x88));
    _mm512_storeu_ps((float*)y + (j + 8) * y_stride, _mm512_shuffle_f32x4(low_even, high_even, 0xdd));
    _mm512_storeu_ps((float*)y + (j + 12) * y_stride, _mm512_shuffle_f32x4(low_odd, high_odd, 0xdd));
  }
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
