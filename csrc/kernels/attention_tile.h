// The register tile of tile.h over a matrix that lies in pages.
#pragma once

#include <stddef.h>

#include "kernels.h"
#include "tile.h"

namespace qkv::QKV_ISA {
namespace {

// The right-hand side of a product over pages: `k` of its rows, `per_page` of them in a page, where the matrix begins
// `offset` bytes from the start and `stride` elements lie between two groups of rows. `past` rows of the first page
// are left out. What is used after the last page lies at `behind`; null: the memory is asked for nothing.
struct PagedMatrix {
  const uint8_t* const* pages;
  int64_t offset, stride, per_page, past, k;
  const uint8_t* behind;
};

// A page lies apart from the next one, so a processor does not see by itself where the next reads will be. A tile asks
// for what it will use so many bytes later, or a page's keys or values later where these are shorter. (4 KiB are too
// few for the bfloat16 dot instruction: 0.94 of the speed on Zen 4, one token over 2,048 cached ones.)
constexpr int64_t kAhead = 8192;

// C (+)= A . B with sums held in registers over all pages.
template <class Format, int Rows, int Vectors>
void paged_tile(const typename Format::A* a, int64_t a_stride, const PagedMatrix& b, bool fresh, float* c,
                int64_t c_stride) {
  F32 acc[Rows][Vectors];
#pragma GCC unroll 6
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) acc[r][v] = fresh ? F32::set(0) : F32::load(c + r * c_stride + v * kLanes);

  const uint8_t* const* page = b.pages;
  for (int64_t left = b.k, past = b.past, n; left > 0; left -= n, past = 0) {
    n = left < b.per_page - past ? left : b.per_page - past;
    auto* w = (const typename Format::B*)(*page++ + b.offset) + past / Format::kGroup * b.stride;
    const int64_t bytes = b.stride * (int64_t)sizeof *w, steps = n / Format::kGroup;
    const int64_t distance = kAhead / bytes < steps ? kAhead / bytes : steps;
    const uint8_t* ahead = (const uint8_t*)(w + distance * b.stride);
    for (int64_t g = 0; g < steps; ++g) {
      if (b.behind) {
        if (g == steps - distance) ahead = left > n ? *page + b.offset : b.behind;
        for (size_t line = 0; line < Vectors * kLanes * Format::kGroup * sizeof *w; line += kAlignment)
          __builtin_prefetch(ahead + line, 0, 2);
        ahead += bytes;
      }
      Format::step(acc, a, a_stride, w);
      a += Format::kGroup;
      w += b.stride;
    }
    if constexpr (Format::kGroup == 2)
      if (n % 2) Format::last(acc, a, a_stride, w);
  }

#pragma GCC unroll 6
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) acc[r][v].store(c + r * c_stride + v * kLanes);
}

template <class Format, int Vectors>
inline void paged_rows(int64_t rows, const typename Format::A* a, int64_t a_stride, const PagedMatrix& b, bool fresh,
                       float* c, int64_t c_stride) {
  switch (rows) {
    case 1: return paged_tile<Format, 1, Vectors>(a, a_stride, b, fresh, c, c_stride);
    case 2: return paged_tile<Format, 2, Vectors>(a, a_stride, b, fresh, c, c_stride);
    case 3: return paged_tile<Format, 3, Vectors>(a, a_stride, b, fresh, c, c_stride);
    case 4: return paged_tile<Format, 4, Vectors>(a, a_stride, b, fresh, c, c_stride);
    case 5: return paged_tile<Format, 5, Vectors>(a, a_stride, b, fresh, c, c_stride);
    case 6: return paged_tile<Format, 6, Vectors>(a, a_stride, b, fresh, c, c_stride);
  }
}

// The same for any number of column vectors, cut into tiles of nearly equal width (5 vectors: 3 + 2, not 4 + 1).
template <class Format>
inline void multiply_pages(int64_t rows, int64_t vectors, const typename Format::A* a, int64_t a_stride, PagedMatrix b,
                           bool fresh, float* c, int64_t c_stride) {
  for (int64_t n; vectors > 0; vectors -= n) {
    const int64_t tiles = (vectors + kPanelVectors - 1) / kPanelVectors;
    n = (vectors + tiles - 1) / tiles;
    if (n == 1) paged_rows<Format, 1>(rows, a, a_stride, b, fresh, c, c_stride);
    if (n == 2) paged_rows<Format, 2>(rows, a, a_stride, b, fresh, c, c_stride);
    if constexpr (kPanelVectors > 2) {
      if (n == 3) paged_rows<Format, 3>(rows, a, a_stride, b, fresh, c, c_stride);
      if (n == 4) paged_rows<Format, 4>(rows, a, a_stride, b, fresh, c, c_stride);
    }
    const int64_t bytes = n * kLanes * Format::kGroup * (int64_t)sizeof(typename Format::B);
    b.offset += bytes;
    if (b.behind) b.behind += bytes;
    c += n * kLanes;
  }
}

}  // namespace
}  // namespace qkv::QKV_ISA
