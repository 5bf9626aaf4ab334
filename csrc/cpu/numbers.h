// Conversions between the number types of checkpoints, one value at a time.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace qkv {

inline float widen_bfloat16(uint16_t x) { return std::bit_cast<float>(uint32_t{x} << 16); }

inline uint16_t round_to_bfloat16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>(bits >> 16 | 0x40);  // NaN stays NaN
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);                 // ties to even
}

inline float widen_float16(uint16_t x) {
  const uint32_t sign = uint32_t{x} >> 15 << 31, exponent = x >> 10 & 31, fraction = x & 1023;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000 | fraction << 13);
  if (exponent == 0) return (sign ? -1.0f : 1.0f) * static_cast<float>(fraction) * 0x1p-24f;  // subnormal
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
}

}  // namespace qkv
