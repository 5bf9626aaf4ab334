// Transcendental functions and activations on vectors: branch-free, at most one division, the same code on each
// instruction set. A NaN lane stays NaN everywhere. Polynomials are minimax fits (Lawson's iteratively reweighted
// least squares in float64) whose coefficients were rounded to float32 one by one, each time refitting the rest.
//
// Largest errors against float64, over each 16th float32 with 2^-13 <= |x| < 112 and each 1024th of the others:
//                                     exp    tanh   erf    sigmoid   gelu   gelu_tanh   silu
//   with fused multiply-add (ULP)     1.00   1.28   1.51   2.34
//   portable (ULP)                    0.95   1.28   1.74   2.34
//   both, |error| / max(1, |x|)                                      8.8e-8   8.7e-8   8.1e-8
//   of the coarse forms, |error|                                     3.4e-6   8.2e-6
#pragma once

#include <stdint.h>

namespace qkv::QKV_ISA {
namespace {

// c0 + c1 x + c2 x^2 + ... by Horner's rule
inline F32 polynomial(F32, float c0) { return F32::set(c0); }
template <class... Floats>
inline F32 polynomial(F32 x, float c0, Floats... higher) {
  return fma(polynomial(x, higher...), x, F32::set(c0));
}

// n with x = n ln 2 + r, |r| <= ln 2 / 2, for |x| < 2^21: adding 1.5 * 2^23 leaves no fraction bits
inline F32 log2_steps(F32 x) {
  const F32 magic = F32::set(12582912.0f);
  return fma(x, F32::set(1.44269504f), magic) - magic;
}

// e^r of the remainder r = x - n ln 2, for r in -0.347 ... 0.694, as 1 + r + r^2 p(r) with p of degree 5; relative
// error of the fit: 8e-10 where |r| < 0.347, 6e-9 beyond. Cody and Waite's reduction: n times the 16 leading bits of
// ln 2 is exact for |n| < 256.
inline F32 exp_of_remainder(F32 x, F32 n) {
  F32 r = fma(n, F32::set(-0.693145752f), x);
  r = fma(n, F32::set(-1.42860677e-6f), r);
  const F32 p = polynomial(r, 0.5f, 0.166666925f, 0.0416667201f, 0.00832816958f, 0.00139101211f, 0.000223287643f);
  return F32::set(1.0f) + fma(r * r, p, r);
}

constexpr float kExpZero = -88.0f;  // makes 2^-127 of it, and so 0: float32's normal range ends at e^-87.34

// e^x where kExpZero <= x <= 88, without exp's two bounds
inline F32 exp_bounded(F32 x) {
  const F32 n = log2_steps(x);
  return scale_pow2(exp_of_remainder(x, n), n);
}

// e^x where x <= 88
inline F32 exp_of_negative(F32 x) { return exp_bounded(max(x, F32::set(kExpZero))); }

// e^x; 0 below -87.68. The bounds keep n finite; n = 127 leaves r up to ln 2 before the result overflows.
inline F32 exp(F32 x) {
  x = max(x, F32::set(kExpZero));
  const F32 n = min(log2_steps(x), F32::set(127.0f));
  return scale_pow2(exp_of_remainder(x, n), n);
}

// 2^x for x < 128; 0 for -inf. 2^f for the fraction 0 <= f < 1 is 1 + f p(f), p of degree 5: a minimax fit of the
// relative error, 2e-9, made as the others but with 2^0 = 1 exact. Largest error for -126 < x < 0: 1.6 ULP.
inline F32 exp2(F32 x) {
  const F32 p = polynomial(fraction(x), 1.0f, 0.693147063f, 0.240229085f, 0.0554861836f, 0.00967377517f, 0.00124822895f,
                           0.000215659718f);
  return scale_pow2(p, x);
}

// Below 0.65 an odd polynomial, x + x^3 p(x^2) (error of the fit 7e-9); above it 1 - 2 / (e^2|x| + 1), |x| held at 10
// because the result rounds to 1 from 9.02 on. The form without a select, t / (t + 2) with t = e^2|x| - 1, errs by up
// to 3.3 ULP near 0.
inline F32 tanh(F32 x) {
  const F32 a = abs(x), z = x * x;
  const F32 p = polynomial(z, -0.333332628f, 0.133308977f, -0.0536928102f, 0.0204828493f, -0.00552816177f);
  const F32 one = F32::set(1.0f), two = F32::set(2.0f);
  const F32 large = one - divide(two, exp_bounded(two * min(a, F32::set(10.0f))) + one);
  return copysign(select(a < F32::set(0.65f), fma(a * z, p, a), large), x);
}

// Upper tail of the standard normal distribution, Q(a) = erfc(a / sqrt 2) / 2, for a = -minus_a in 0 ... kTailEnd:
// 2^P(a) with P fitted to log2 Q on 0 ... 5.8. There the errors of Q and of a Q count, both up to 2e-8; from 5.8, where
// Q is 3e-9, P only falls, and at kTailEnd it is below -127: far enough for an exact 0.
constexpr float kTailEnd = 10.26f;
inline F32 normal_tail(F32 minus_a) {
  return exp2(polynomial(minus_a, -0.99999994f, 1.15110755f, -0.459188074f, 0.0525614098f, 0.00716383709f,
                         0.000217909081f, -0.000151236338f, -3.17759404e-05f, -2.18327045e-06f));
}

// Below 0.95 an odd polynomial, x + x p(x^2) (error of the fit 3e-8); above it 1 - erfc |x| = 1 - 2 Q(sqrt 2 |x|),
// which needs no relative accuracy of Q.
inline F32 erf(F32 x) {
  const F32 a = abs(x), z = x * x;
  const F32 p =
      polynomial(z, 0.128379136f, -0.376124114f, 0.112810135f, -0.02673929f, 0.00495534111f, -0.000580804597f);
  const F32 tail = normal_tail(max(a * F32::set(-1.41421356f), F32::set(-kTailEnd)));
  const F32 large = fma(F32::set(-2.0f), tail, F32::set(1.0f));
  return copysign(select(a < F32::set(0.95f), fma(a, p, a), large), x);
}

inline F32 sigmoid(F32 x) {
  const F32 one = F32::set(1.0f);
  return one / (one + exp(F32::set(0.0f) - x));
}

inline F32 relu(F32 x) { return max(x, F32::set(0.0f)); }

// The activations below are x F(x) with F a distribution function around 0: F(x) = 1 - F(-x). So x F(x) is
// max(x, 0) - |x| F(-|x|): no select, and no cancellation where x < 0. |x| is held where F(-|x|) becomes an exact 0,
// which keeps infinities out of the products.
inline F32 minus_abs(F32 x, float end) { return max(copysign(x, F32::set(-1.0f)), F32::set(-end)); }

// x Phi(x) = x (1 + erf(x / sqrt 2)) / 2 (Hendrycks & Gimpel 2016)
inline F32 gelu(F32 x) {
  const F32 a = minus_abs(x, kTailEnd);
  return fma(a, normal_tail(a), relu(x));
}

// x / (1 + e^-z) for an odd function z(x) of which minus_z is z(-|x|), minus_a = -|x|
inline F32 times_logistic(F32 x, F32 minus_a, F32 minus_z) {
  const F32 t = exp_bounded(minus_z);
  return fma(minus_a, divide(t, F32::set(1.0f) + t), relu(x));
}

// x (1 + tanh u) / 2 with u = sqrt(2 / pi) (x + 0.044715 x^3), where (1 + tanh u) / 2 = 1 / (1 + e^-2u); 2u reaches
// -kExpZero at |x| = 10.03
inline F32 gelu_tanh(F32 x) {
  const F32 a = minus_abs(x, 10.03f);
  return times_logistic(x, a, a * fma(a * a, F32::set(0.0713548163f), F32::set(1.59576912f)));
}

// max(x, 0) - |x| u^4 with u = P(-|x|), P fitted so that it is 0 at `end`, from where |x| is held
template <class... Floats>
inline F32 coarse_times_distribution(F32 x, float end, Floats... coefficients) {
  const F32 a = minus_abs(x, end), u = polynomial(a, coefficients...), square = u * u;
  return fma(a, square * square, relu(x));
}

// As gelu and gelu_tanh at half their cost, for sums of quantised weights, which err a thousand times as much.
inline F32 coarse_gelu(F32 x) {
  return coarse_times_distribution(x, 5.75f, 0.840924859f, 0.168131456f, -0.0485912375f, -0.00176573265f,
                                   0.00648959074f, 0.00142766442f, 9.06520872e-05f);
}

inline F32 coarse_gelu_tanh(F32 x) {
  return coarse_times_distribution(x, 5.55f, 0.840806186f, 0.167046249f, -0.0516895056f, -0.00569615699f,
                                   0.00447202846f, 0.00103497668f, 6.5410597e-05f);
}

// x / (1 + e^-x)
inline F32 silu(F32 x) {
  const F32 a = minus_abs(x, -kExpZero);
  return times_logistic(x, a, a);
}

}  // namespace
}  // namespace qkv::QKV_ISA
