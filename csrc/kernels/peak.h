// Ceilings: what a core does when nothing but the instruction set limits it. A kernel's speed is stated as a share
// of these.
#pragma once

#include "kernels.h"
#include "tile.h"

namespace qkv::QKV_ISA {
namespace {

// The tile's multiply-adds with operands that never leave L1; returns the operations done, two for each multiply-add.
// A loop on registers alone is no faster (there are more than two multiply-adds to a load), and with the operands in
// registers the compiler would take products of the portable version out of the loop. The operands' bytes are small
// numbers in every type, none subnormal.
template <class Format>
double peak(int64_t rounds) {
  alignas(kAlignment) uint32_t a[kTileRows], b[kPanelVectors * kLanes];
  uint32_t random = 1;
  for (uint32_t& word : a) word = 0x3c003c00 | ((random = random * 1664525 + 1013904223) >> 8 & 0x00ff00ff);
  for (uint32_t& word : b) word = 0x3c003c00 | ((random = random * 1664525 + 1013904223) >> 8 & 0x00ff00ff);

  // These loops are unrolled so that the sums are registers.
  using Sum = typename Format::Sum;
  alignas(kAlignment) typename Sum::Lane out[kLanes] = {};
  Sum sums[kTileRows][kPanelVectors];
#pragma GCC unroll 6
  for (int r = 0; r < kTileRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kPanelVectors; ++v) sums[r][v] = Sum::load(out);
  for (int64_t i = 0; i < rounds; ++i) {
    __asm__ volatile("" : : "r"(a), "r"(b) : "memory");  // the operands count as changed: nothing is computed ahead
    Format::step(sums, (const typename Format::A*)a, int64_t{sizeof *a / sizeof(typename Format::A)},
                 (const typename Format::B*)b);
  }
#pragma GCC unroll 6
  for (int r = 0; r < kTileRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kPanelVectors; ++v) {
      sums[r][v].store(out);
      __asm__ volatile("" : : "r"(out) : "memory");  // the sums count as used
    }
  return 2.0 * Format::kGroup * kTileRows * kPanelVectors * kLanes * (double)rounds;
}

// Widened bfloat16 products are float32 multiply-adds.
template <bool Dot>
struct PeakOfBf16 {
  using Format = Float32Format;
};
template <>
struct PeakOfBf16<true> {
  using Format = Bf16Format;
};

// Reads n floats, a multiple of 128, and returns their sum. Zen 4 reads 2 to 7 % more when what lies 4 KiB ahead is
// asked for, into the L2 cache, than when it is not, or into L1.
float read(const float* x, int64_t n) {
  constexpr int kSums = 8, kLine = kAlignment / sizeof(float);
  F32 sums[kSums];
  for (F32& sum : sums) sum = F32::set(0);
  for (int64_t i = 0; i < n; i += kSums * kLanes) {
    for (int j = 0; j < kSums * kLanes; j += kLine) __builtin_prefetch((const char*)(x + i + j) + 4096, 0, 2);
#pragma GCC unroll 8
    for (int j = 0; j < kSums; ++j) sums[j] = sums[j] + F32::load(x + i + j * kLanes);
  }
  for (int j = 1; j < kSums; ++j) sums[0] = sums[0] + sums[j];
  return reduce_add(sums[0]);
}

}  // namespace
}  // namespace qkv::QKV_ISA
