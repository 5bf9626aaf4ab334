// Rows of weights to integers.
#pragma once

#include <cstdint>

#include "kernels/kernels.h"

namespace qkv {

struct Int8Row {
  float scale;  // w = scale * value
  int32_t sum;  // of the values
};

// Symmetric: values in -127 ... 127.
Int8Row quantise_int8(const float* w, int64_t n, int8_t* values);

// int4 is a shorter way to write int8 values: in each group they lie on a line, value = multiplier * q + offset, so
// that kernels unpack them without rounding and sum them as int8.
struct Int4Group {
  uint8_t q[kInt4Group];  // 0 ... 15
  uint8_t multiplier;     // 1 ... 17
  int8_t offset;
};

// n is a multiple of kInt4Group. The values stay in -127 ... 127.
Int8Row quantise_int4(const float* w, int64_t n, Int4Group* groups);

}  // namespace qkv
