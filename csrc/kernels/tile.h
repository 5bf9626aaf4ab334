// The register tile: C = start + A . B for up to 6 rows of A and up to kPanelVectors vectors of columns of B. Linear
// layers, attention scores and attention values are all this loop. Each element of C is one chain of
// multiply-adds in the order of k, whatever the number of rows, so a row's bits never depend on its neighbours.
//
// B comes in one of these formats, which say how k is stepped through. Sums are float32, or int32 (and exact) for
// quantised formats; those want k to be a multiple of their group, A and B being padded with values that add 0.
#pragma once

#include "kernels.h"

namespace qkv::QKV_ISA {
namespace {

// float32 B: [k][columns]
struct Float32Format {
  using A = float;
  using B = float;
  using Sum = F32;
  static constexpr int kGroup = 1;        // values of k interleaved per column
  static constexpr int kColumnBytes = 4;  // of B in a step
  static constexpr bool kQuantised = false;

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
  using Sum = F32;
  static constexpr int kGroup = 2;
  static constexpr int kColumnBytes = 4;
  static constexpr bool kQuantised = false;

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
  // one half of a step: number `half` of each pair
  static inline F32 one(F32 c, const A* a, const B* b, int64_t half) {
    return fma(F32::set(a[half]), half ? F32::high_bf16(b) : F32::low_bf16(b), c);
  }
};

// bfloat16 A and B through the dot instruction; A is padded with a 0 to an even k. A template, so that only
// instruction sets that have V::dot_bf16 compile it.
template <class V>
struct DottedBf16Format {
  using A = uint16_t;
  using B = uint16_t;
  using Sum = V;
  static constexpr int kGroup = 2;
  static constexpr int kColumnBytes = 4;
  static constexpr bool kQuantised = false;

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
  // The other half of B counts as 0: times 0 it could still be a NaN.
  static inline V one(V c, const A* a, const B* b, int64_t half) {
    alignas(kAlignment) uint32_t pairs[kLanes];
    __builtin_memcpy(pairs, b, sizeof pairs);
    for (uint32_t& pair : pairs) pair &= 0xffffu << 16 * half;
    return V::dot_bf16(c, (const uint16_t*)pairs, (uint32_t)a[half] << 16 * half);
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

// Four values of A, in the lowest bytes of a word as the dot instructions want them.
inline uint32_t four_bytes(const uint8_t* a) {
  uint32_t four;
  __builtin_memcpy(&four, a, sizeof four);
  return four;
}

// int8 B: [k / 4][columns][4]; A: quantised rows, see quantise().
struct Int8Format {
  using A = uint8_t;
  using B = int8_t;
  using Sum = I32;
  static constexpr int kGroup = 4;
  static constexpr int kColumnBytes = 4;
  static constexpr bool kQuantised = true;

  template <int Rows, int Vectors>
  static inline void step(I32 (&c)[Rows][Vectors], const A* a, int64_t a_stride, const B* b) {
    I8 w[Vectors];
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) w[v] = I8::load(b + 4 * v * kLanes);
#pragma GCC unroll 6
    for (int r = 0; r < Rows; ++r) {
      const uint32_t four = four_bytes(a + r * a_stride);
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) c[r][v] = dot(c[r][v], w[v], four);
    }
  }
};

// int4 B: int8 values that lie on a line in each group of 32 of k, multiplier * q + offset with q in 0 ... 15. A group:
// [4][columns][4] bytes, of which number j holds the values 4j ... 4j + 3 in its low halves and 16 + 4j ... in its high
// ones; then [columns] multipliers (0 ... 17), [columns] offsets (int8).
struct Int4Line {  // of a vector of columns
  I8 multiplier, offset;
  static Int4Line load(const uint8_t* group, int64_t columns, int64_t column) {
    const uint8_t* lines = group + columns * (kInt4Group / 2) + column;
    return {I8::spread(lines), I8::spread(lines + columns)};
  }
  I8 operator()(I8 q) const { return q * multiplier + offset; }
};

struct Int4Format {
  using A = uint8_t;
  using B = uint8_t;
  using Sum = I32;
  static constexpr int kGroup = kInt4Group;
  static constexpr int kColumnBytes = int4_group_bytes(1);
  static constexpr bool kQuantised = true;

  template <int Rows, int Vectors>
  static inline void step(I32 (&c)[Rows][Vectors], const A* a, int64_t a_stride, const B* b) {
    constexpr int64_t columns = Vectors * kLanes;
    Int4Line line[Vectors];
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) line[v] = Int4Line::load(b, columns, v * kLanes);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j)
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) {
        const uint8_t* bytes = b + 4 * (j * columns + v * kLanes);
        const I8 low = line[v](I8::low_nibbles(bytes)), high = line[v](I8::high_nibbles(bytes));
#pragma GCC unroll 6
        for (int r = 0; r < Rows; ++r) {
          c[r][v] = dot(c[r][v], low, four_bytes(a + r * a_stride + 4 * j));
          c[r][v] = dot(c[r][v], high, four_bytes(a + r * a_stride + 16 + 4 * j));
        }
      }
  }
};

// What a tile asks the memory for while it computes: `step` bytes from `at` on in each step.
struct Ahead {
  const char* at;
  int64_t step;
};

// `start` [Rows][start_stride] is what the sums begin with (one row for all when the stride is 0; may be c).
// c: [Rows][c_stride], b_stride: elements of B from one group of k to the next.
template <class Format, int Rows, int Vectors>
inline void tile(const typename Format::A* a, int64_t a_stride, const typename Format::B* b, int64_t b_stride,
                 int64_t k, const typename Format::Sum::Lane* start, int64_t start_stride,
                 typename Format::Sum::Lane* c, int64_t c_stride, Ahead ahead) {
  using Sum = typename Format::Sum;
  Sum acc[Rows][Vectors];
#pragma GCC unroll 6
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) acc[r][v] = Sum::load(start + r * start_stride + v * kLanes);

  for (int64_t g = 0; g < k / Format::kGroup; ++g) {
    for (int64_t line = 0; line < ahead.step; line += kAlignment) __builtin_prefetch(ahead.at + line, 0, 2);
    ahead.at += ahead.step;
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
                      int64_t b_stride, int64_t k, const typename Format::Sum::Lane* start, int64_t start_stride,
                      typename Format::Sum::Lane* c, int64_t c_stride, Ahead ahead) {
  switch (rows) {
    case 1: return tile<Format, 1, Vectors>(a, a_stride, b, b_stride, k, start, start_stride, c, c_stride, ahead);
    case 2: return tile<Format, 2, Vectors>(a, a_stride, b, b_stride, k, start, start_stride, c, c_stride, ahead);
    case 3: return tile<Format, 3, Vectors>(a, a_stride, b, b_stride, k, start, start_stride, c, c_stride, ahead);
    case 4: return tile<Format, 4, Vectors>(a, a_stride, b, b_stride, k, start, start_stride, c, c_stride, ahead);
    case 5: return tile<Format, 5, Vectors>(a, a_stride, b, b_stride, k, start, start_stride, c, c_stride, ahead);
    case 6: return tile<Format, 6, Vectors>(a, a_stride, b, b_stride, k, start, start_stride, c, c_stride, ahead);
  }
}

// Rows are cut into tiles of nearly equal height (13 rows: 5 + 4 + 4, not 6 + 6 + 1): a tile of one row is slow.
inline int64_t next_rows(int64_t rows_left) {
  const int64_t tiles = (rows_left + kTileRows - 1) / kTileRows;
  return (rows_left + tiles - 1) / tiles;
}

}  // namespace
}  // namespace qkv::QKV_ISA
