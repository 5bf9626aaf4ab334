// Kernels that pass over a row several times take a few rows through each pass together: the last sum or maximum of
// a row is a chain of instructions that wait for each other, and the next rows fill that time.
#pragma once

#include <stdint.h>

namespace qkv::QKV_ISA {
namespace {

constexpr int64_t kMaxRowsTogether = 8;

inline int64_t rows_together(int64_t rows, int64_t n) {
  constexpr int64_t kCached = 4096;  // values of x, and as many of y, that stay in the first cache
  const int64_t fit = n < kCached / kMaxRowsTogether ? kMaxRowsTogether : n < kCached ? kCached / n : 1;
  return rows < fit ? rows : fit;
}

}  // namespace
}  // namespace qkv::QKV_ISA
