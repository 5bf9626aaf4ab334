// Rows of a matrix lie apart, and what one task uses of each is too short for a processor to see what comes next: it is
// asked for while something else is computed.
#pragma once

#include "kernels.h"

namespace qkv::QKV_ISA {
namespace {

enum class For { reading = 0, writing = 1 };

// The empty asm: GCC takes a function that only prefetches for one without effect, and drops calls of it.
template <For Use>
inline void ask_for(const float* x, int64_t n) {
  for (int64_t i = 0; i < n; i += kAlignment / (int64_t)sizeof(float)) __builtin_prefetch(x + i, (int)Use);
  __asm__ volatile("");
}

}  // namespace
}  // namespace qkv::QKV_ISA
