// The vector contract (see portable.h) on AVX2 + FMA: eight lanes.
#pragma once

#include <immintrin.h>
#include <stdint.h>

namespace qkv::QKV_ISA {
namespace {

constexpr int kLanes = 8;
constexpr int kPanelVectors = 2;  // 6 x 2 accumulators + 2 weight vectors + 1 broadcast of 16 registers
constexpr bool kDotBf16 = false;
constexpr int kActivationOffset = 0;

struct Mask {
  __m256 bits;
  uint32_t lanes() const { return (uint32_t)_mm256_movemask_ps(bits); }  // a bit for each, the first one lowest
};

inline __m256i first_lanes(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

struct F32 {
  using Lane = float;
  __m256 v;

  static F32 set(float x) { return {_mm256_set1_ps(x)}; }
  static F32 load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static F32 load(const float* p, int64_t n) { return {_mm256_maskload_ps(p, first_lanes(n))}; }
  void store(float* p) const { _mm256_storeu_ps(p, v); }
  void store(float* p, int64_t n) const { _mm256_maskstore_ps(p, first_lanes(n), v); }

  __m128i to_int8() const {  // in the low half
    const __m256i i32 = _mm256_cvtps_epi32(v);
    const __m128i i16 = _mm_packs_epi32(_mm256_castsi256_si128(i32), _mm256_extracti128_si256(i32, 1));
    return _mm_packs_epi16(i16, i16);
  }
  void store_int8(uint8_t* p) const { _mm_storel_epi64((__m128i*)p, to_int8()); }
  void store_int8(uint8_t* p, int64_t n) const {
    const __m128i bytes = to_int8();
    __builtin_memcpy(p, &bytes, (size_t)n);
  }

  static F32 low_bf16(const uint16_t* pairs) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_loadu_si256((const __m256i*)pairs), 16))};
  }
  static F32 high_bf16(const uint16_t* pairs) {
    const __m256i high = _mm256_set1_epi32((int)0xffff0000);
    return {_mm256_castsi256_ps(_mm256_and_si256(_mm256_loadu_si256((const __m256i*)pairs), high))};
  }

  static F32 widen(const int8_t* p) {
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)))};
  }

  friend F32 operator+(F32 a, F32 b) { return {_mm256_add_ps(a.v, b.v)}; }
  friend F32 operator-(F32 a, F32 b) { return {_mm256_sub_ps(a.v, b.v)}; }
  friend F32 operator*(F32 a, F32 b) { return {_mm256_mul_ps(a.v, b.v)}; }
  friend F32 operator/(F32 a, F32 b) { return {_mm256_div_ps(a.v, b.v)}; }
  friend Mask operator<(F32 a, F32 b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)}; }
};

struct Pairs {  // lane by lane
  F32 first, second;
};

inline F32 fma(F32 a, F32 b, F32 c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
inline F32 select(Mask m, F32 yes, F32 no) { return {_mm256_blendv_ps(no.v, yes.v, m.bits)}; }
// The second operand of the instruction wins when either is NaN: a NaN in `a` stays, as in portable.h.
inline F32 max(F32 a, F32 b) { return {_mm256_max_ps(b.v, a.v)}; }
inline F32 min(F32 a, F32 b) { return {_mm256_min_ps(b.v, a.v)}; }
inline F32 abs(F32 x) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), x.v)}; }
inline F32 copysign(F32 size, F32 sign) {
  const __m256 bit = _mm256_set1_ps(-0.0f);
  return {_mm256_or_ps(_mm256_andnot_ps(bit, size.v), _mm256_and_ps(bit, sign.v))};
}
inline F32 round(F32 x) { return {_mm256_round_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline F32 round_bf16(F32 x) {
  const __m256i bits = _mm256_castps_si256(x.v),
                odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i up = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  return {_mm256_castsi256_ps(_mm256_and_si256(up, _mm256_set1_epi32((int)0xffff0000)))};
}
inline F32 pow2(F32 n) {
  const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(biased, 23))};
}
inline F32 divide(F32 a, F32 b) { return a / b; }
inline F32 times(F32 x, double factor) {
  const float high = (float)factor;
  return fma(x, F32::set(high), x * F32::set((float)(factor - high)));
}

inline Pairs split_pairs(F32 low, F32 high) {
  // halves of 128 bits first, as the shuffles below work within them
  const __m256 a = _mm256_permute2f128_ps(low.v, high.v, 0x20), b = _mm256_permute2f128_ps(low.v, high.v, 0x31);
  return {{_mm256_shuffle_ps(a, b, 0x88)}, {_mm256_shuffle_ps(a, b, 0xdd)}};
}
inline Pairs join_pairs(F32 first, F32 second) {
  const __m256 a = _mm256_unpacklo_ps(first.v, second.v), b = _mm256_unpackhi_ps(first.v, second.v);
  return {{_mm256_permute2f128_ps(a, b, 0x20)}, {_mm256_permute2f128_ps(a, b, 0x31)}};
}

struct I32 {
  using Lane = int32_t;
  __m256i v;
  static I32 load(const int32_t* p) { return {_mm256_loadu_si256((const __m256i*)p)}; }
  void store(int32_t* p) const { _mm256_storeu_si256((__m256i*)p, v); }
};

inline F32 to_float(I32 x) { return {_mm256_cvtepi32_ps(x.v)}; }

struct I8 {
  __m256i v;
  static I8 load(const void* p) { return {_mm256_loadu_si256((const __m256i*)p)}; }
  void store(void* p) const { _mm256_storeu_si256((__m256i*)p, v); }
  static I8 low_nibbles(const void* p) { return {_mm256_and_si256(load(p).v, _mm256_set1_epi8(15))}; }
  static I8 high_nibbles(const void* p) {
    return {_mm256_and_si256(_mm256_srli_epi16(load(p).v, 4), _mm256_set1_epi8(15))};
  }
  static I8 spread(const uint8_t* p) {
    const __m256i words = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p));
    return {_mm256_mullo_epi32(words, _mm256_set1_epi32(0x01010101))};
  }
  // No product reaches 256, so a 16-bit lane holds two of them side by side.
  friend I8 operator*(I8 a, I8 b) { return {_mm256_mullo_epi16(a.v, _mm256_and_si256(b.v, _mm256_set1_epi16(255)))}; }
  friend I8 operator+(I8 a, I8 b) { return {_mm256_add_epi8(a.v, b.v)}; }
};

// vpmaddubsw multiplies unsigned by signed bytes and saturates pairs: |a| (w * sign a) stays within 2 * 127 * 127.
inline I32 dot(I32 acc, I8 w, uint32_t a) {
  const __m256i four = _mm256_set1_epi32((int)a);
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(four), _mm256_sign_epi8(w.v, four));
  return {_mm256_add_epi32(acc.v, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))};
}

inline F32 fraction(F32 x) {
  x = max(x, F32::set(-127.0f));
  return x - F32{_mm256_floor_ps(x.v)};
}
inline F32 scale_pow2(F32 x, F32 n) { return x * pow2({_mm256_floor_ps(max(n, F32::set(-127.0f)).v)}); }

// Pairs, then pairs of pairs within 128 bits, then halves.
inline void transpose(const void* x, int64_t x_stride, void* y, int64_t y_stride) {
  __m256 r[8], s[8];
  for (int i = 0; i < 8; ++i) r[i] = _mm256_loadu_ps((const float*)x + i * x_stride);
  for (int i = 0; i < 8; i += 2) {
    s[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    s[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int i = 0; i < 8; i += 4)
    for (int j = 0; j < 2; ++j) {
      r[i + 2 * j] = _mm256_shuffle_ps(s[i + j], s[i + j + 2], 0x44);
      r[i + 2 * j + 1] = _mm256_shuffle_ps(s[i + j], s[i + j + 2], 0xee);
    }
  for (int j = 0; j < 4; ++j) {
    _mm256_storeu_ps((float*)y + j * y_stride, _mm256_permute2f128_ps(r[j], r[j + 4], 0x20));
    _mm256_storeu_ps((float*)y + (j + 4) * y_stride, _mm256_permute2f128_ps(r[j], r[j + 4], 0x31));
  }
}

inline float reduce_add(F32 x) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(x.v), _mm256_extractf128_ps(x.v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
inline float reduce_max(F32 x) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(x.v), _mm256_extractf128_ps(x.v, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

}  // namespace
}  // namespace qkv::QKV_ISA
