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

// A head's rows, `count` of n values that lie `stride` apart, are used in order; then those of the next head, `beside`
// values further on. Asks for what comes `ahead` rows after row number i, which is x.
inline void ask_for_row_ahead(const float* x, int64_t i, int64_t count, int64_t ahead, int64_t stride, int64_t beside,
                              int64_t n) {
  if (i + ahead >= count) x += beside - count * stride;
  ask_for<For::reading>(x + ahead * stride, n);
}

}  // namespace
}  // namespace qkv::QKV_ISA
