// Transcendental functions and activations on vectors: branch-free, at most one division, the same code on each
// instruction set. A NaN lane stays NaN everywhere. Polynomials are minimax fits (Lawson's iteratively reweighted
// least squares in float64) whose coefficients were rounded to float32 one by one, each time refitting the rest.
//
// Largest errors against float64, over every float32 with 2^-13 <= |x| < 112 and each 1024th of the others:
//                                     exp    tanh   erf    sigmoid   gelu   gelu_tanh   silu
//   with fused multiply-add (ULP)     1.01   1.30   1.59   2.49
//   portable (ULP)                    0.96   1.30   1.82   2.49
//   both, |error| / max(1, |x|)                                      9.6e-8   1.3e-7   1.2e-7
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

inline F32 log2_steps(F32 x) { return round(x * F32::set(1.44269504f)); }  // n with x = n ln 2 + r, |r| <= ln 2 / 2

// e^r - 1 of the remainder r = x - n ln 2, for r in -0.347 ... 0.694, as r + r^2 p(r) with p of degree 5; error of the
// fit relative to e^r: 8e-10 where |r| < 0.347, 6e-9 beyond. Cody and Waite's reduction: n times the 16 leading bits of
// ln 2 is exact for |n| < 256.
inline F32 expm1_of_remainder(F32 x, F32 n) {
  F32 r = fma(n, F32::set(-0.693145752f), x);
  r = fma(n, F32::set(-1.42860677e-6f), r);
  const F32 p = polynomial(r, 0.5f, 0.166666925f, 0.0416667201f, 0.00832816958f, 0.00139101211f, 0.000223287643f);
  return fma(r * r, p, r);
}

// e^x where -88 <= x <= 88, without exp's two bounds
inline F32 exp_bounded(F32 x) {
  const F32 n = log2_steps(x);
  const F32 scale = pow2(n);
  return fma(scale, expm1_of_remainder(x, n), scale);
}

// e^x; 0 below -87.68. The bounds keep 2^n finite: n = -127 makes it 0; n = 127 leaves r up to ln 2 before the
// result overflows.
inline F32 exp(F32 x) {
  x = max(x, F32::set(-88.0f));
  const F32 n = min(log2_steps(x), F32::set(127.0f));
  const F32 scale = pow2(n);
  return fma(scale, expm1_of_remainder(x, n), scale);
}

// Below 0.65 an odd polynomial, x + x^3 p(x^2) (error of the fit 7e-9); above it 1 - 2 / (e^2|x| + 1), |x| held at 10
// because the result rounds to 1 from 9.02 on. The form without a select, t / (t + 2) with t = e^2|x| - 1, errs by up
// to 3.3 ULP near 0.
inline F32 tanh(F32 x) {
  const F32 a = abs(x), z = x * x;
  const F32 p = polynomial(z, -0.333332628f, 0.133308977f, -0.0536928102f, 0.0204828493f, -0.00552816177f);
  const F32 one = F32::set(1.0f), two = F32::set(2.0f);
  const F32 large = one - two / (exp_bounded(two * min(a, F32::set(10.0f))) + one);
  return copysign(select(a < F32::set(0.65f), fma(a * z, p, a), large), x);
}

// Upper tail of the standard normal distribution, Q(a) = erfc(a / sqrt 2) / 2, for a in 0 ... kTailEnd: e^P(a) with P
// fitted to log Q on 0 ... 5.8. There Q's absolute error counts, up to 7e-9 (relative 4e-8 where a < 1.2); from 5.8,
// where Q is 3e-9, P only falls, and at kTailEnd it reaches -88: far enough for an exact 0.
constexpr float kTailEnd = 10.118f;
inline F32 normal_tail(F32 a) {
  return exp_bounded(polynomial(a, -0.693147182f, -0.797886074f, -0.318291247f, -0.0364128835f, 0.00493484735f,
                                -0.000126154977f, -0.000115530944f, 2.43240938e-05f, -1.7060737e-06f));
}

// Below 0.95 an odd polynomial, x + x p(x^2) (error of the fit 3e-8); above it 1 - erfc |x| = 1 - 2 Q(sqrt 2 |x|),
// which needs no relative accuracy of Q.
inline F32 erf(F32 x) {
  const F32 a = abs(x), z = x * x;
  const F32 p =
      polynomial(z, 0.128379136f, -0.376124114f, 0.112810135f, -0.02673929f, 0.00495534111f, -0.000580804597f);
  const F32 tail = normal_tail(min(a * F32::set(1.41421356f), F32::set(kTailEnd)));
  const F32 large = fma(F32::set(-2.0f), tail, F32::set(1.0f));
  return copysign(select(a < F32::set(0.95f), fma(a, p, a), large), x);
}

inline F32 sigmoid(F32 x) {
  const F32 one = F32::set(1.0f);
  return one / (one + exp(F32::set(0.0f) - x));
}

inline F32 finite_below(F32 x) { return max(x, F32::set(-3.40282347e38f)); }  // -inf * 0 would be NaN

inline F32 relu(F32 x) { return max(x, F32::set(0.0f)); }

// x Phi(x) = x (1 + erf(x / sqrt 2)) / 2 (Hendrycks & Gimpel 2016). As Phi(x) = 1 - Q(x) = Q(-x), this is
// max(x, 0) - |x| Q(|x|): no select, no division and no cancellation where x < 0; the bound makes -inf give 0.
inline F32 gelu(F32 x) {
  const F32 a = min(abs(x), F32::set(kTailEnd));
  return relu(x) - a * normal_tail(a);
}

// x (1 + tanh u) / 2 with u = sqrt(2 / pi) (x + 0.044715 x^3), where (1 + tanh u) / 2 = sigmoid(2 u)
inline F32 gelu_tanh(F32 x) {
  x = finite_below(x);
  const F32 minus_2u = x * fma(x * x, F32::set(-0.0713548163f), F32::set(-1.59576912f));
  return x / (F32::set(1.0f) + exp(minus_2u));
}

// x sigmoid(x)
inline F32 silu(F32 x) {
  x = finite_below(x);
  return x / (F32::set(1.0f) + exp(F32::set(0.0f) - x));
}

}  // namespace
}  // namespace qkv::QKV_ISA
