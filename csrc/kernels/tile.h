// The register tile: C += A . B for up to 6 rows of A and up to kPanelVectors vectors of columns of B. Linear
// layers, attention scores and attention values are all this loop. Each element of C is one chain of
// multiply-adds in the order of k, whatever the number of rows, so a row's bits never depend on its neighbours.
//
// B comes in one of these formats, which say how k is stepped through:
#pragma once

#include "kernels.h"

namespace qkv::QKV_ISA {
namespace {

// float32 B: [k][columns]
struct Float32Format {
  using A = float;
  using B = float;
  static constexpr int kGroup = 1;  // values of k interleaved per column

  template <int Rows, int Vectors>
  static inline void step(F32 (&c)[Rows][Vectors], const A* a, int64_t a_stride, const B* b) {
    F32 w[Vectors];
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) w[v] = F32::load(b + v * kLanes);
#pragma GCC unroll 6
    for (int r = 0; r < Rows; ++r) {
      const F32 x = F32::set(a[r * a_stride]);
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) c[r][v] = fma(x, w[v], c[r][v]);
    }
  }
};

// bfloat16 B: [k / 2][columns][2], widened to float32 in registers; A stays float32 and must be readable (not
// NaN where B is 0) up to an even k: see last().
struct WidenedBf16Format {
  using A = float;
  using B = uint16_t;
  static constexpr int kGroup = 2;

  template <int Rows, int Vectors>
  static inline void step(F32 (&c)[Rows][Vectors], const A* a, int64_t a_stride, const B* b) {
    last(c, a, a_stride, b);
#pragma GCC unroll 6
    for (int r = 0; r < Rows; ++r) {
      const F32 x = F32::set(a[r * a_stride + 1]);
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) c[r][v] = fma(x, F32::high_bf16(b + 2 * v * kLanes), c[r][v]);
    }
  }
  // the first half of a step: what remains when k is odd
  template <int Rows, int Vectors>
  static inline void last(F32 (&c)[Rows][Vectors], const A* a, int64_t a_stride, const B* b) {
#pragma GCC unroll 6
    for (int r = 0; r < Rows; ++r) {
      const F32 x = F32::set(a[r * a_stride]);
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) c[r][v] = fma(x, F32::low_bf16(b + 2 * v * kLanes), c[r][v]);
    }
  }
};

// bfloat16 A and B through the dot instruction; A is padded with a 0 to an even k. A template, so that only
// instruction sets that have V::dot_bf16 compile it.
template <class V>
struct DottedBf16Format {
  using A = uint16_t;
  using B = uint16_t;
  static constexpr int kGroup = 2;

  template <int Rows, int Vectors>
  static inline void step(V (&c)[Rows][Vectors], const A* a, int64_t a_stride, const B* b) {
#pragma GCC unroll 6
    for (int r = 0; r < Rows; ++r) {
      uint32_t pair;
      __builtin_memcpy(&pair, a + r * a_stride, sizeof pair);
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) c[r][v] = V::dot_bf16(c[r][v], b + 2 * v * kLanes, pair);
    }
  }
  template <int Rows, int Vectors>
  static inline void last(V (&c)[Rows][Vectors], const A* a, int64_t a_stride, const B* b) {
    step(c, a, a_stride, b);
  }
};

template <bool Dot, class V>
struct ChooseBf16 {
  using Format = WidenedBf16Format;
};
template <class V>
struct ChooseBf16<true, V> {
  using Format = DottedBf16Format<V>;
};
using Bf16Format = ChooseBf16<kDotBf16, F32>::Format;

// c: [Rows][c_stride] float32, b_stride: elements of B from one group of k to the next.
template <class Format, int Rows, int Vectors>
inline void tile(const typename Format::A* a, int64_t a_stride, const typename Format::B* b, int64_t b_stride,
                 int64_t k, float* c, int64_t c_stride) {
  F32 acc[Rows][Vectors];
#pragma GCC unroll 6
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) acc[r][v] = F32::load(c + r * c_stride + v * kLanes);

  for (int64_t g = 0; g < k / Format::kGroup; ++g) {
    // A single row waits for memory: ask for every line of the weights 4 KiB ahead (in bfloat16 decode a sixth
    // faster than one line in four, 2 KiB ahead). More rows wait for arithmetic.
    if constexpr (Rows == 1)
      for (int v = 0; v < Vectors; ++v) __builtin_prefetch((const char*)b + 4096 + v * sizeof(F32));
    Format::step(acc, a, a_stride, b);
    a += Format::kGroup;
    b += b_stride;
  }
  if constexpr (Format::kGroup == 2)
    if (k % 2) Format::last(acc, a, a_stride, b);

#pragma GCC unroll 6
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) acc[r][v].store(c + r * c_stride + v * kLanes);
}

// The same with row and vector counts known at run time.
template <class Format, int Vectors>
inline void tile_rows(int64_t rows, const typename Format::A* a, int64_t a_stride, const typename Format::B* b,
                      int64_t b_stride, int64_t k, float* c, int64_t c_stride) {
  switch (rows) {
    case 1: return tile<Format, 1, Vectors>(a, a_stride, b, b_stride, k, c, c_stride);
    case 2: return tile<Format, 2, Vectors>(a, a_stride, b, b_stride, k, c, c_stride);
    case 3: return tile<Format, 3, Vectors>(a, a_stride, b, b_stride, k, c, c_stride);
    case 4: return tile<Format, 4, Vectors>(a, a_stride, b, b_stride, k, c, c_stride);
    case 5: return tile<Format, 5, Vectors>(a, a_stride, b, b_stride, k, c, c_stride);
    case 6: return tile<Format, 6, Vectors>(a, a_stride, b, b_stride, k, c, c_stride);
  }
}

// Rows are cut into tiles of nearly equal height (13 rows: 5 + 4 + 4, not 6 + 6 + 1): a tile of one row is slow.
inline int64_t next_rows(int64_t rows_left) {
  const int64_t tiles = (rows_left + kTileRows - 1) / kTileRows;
  return (rows_left + tiles - 1) / tiles;
}

}  // namespace
}  // namespace qkv::QKV_ISA
