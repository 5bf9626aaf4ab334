// y = f(x . W^T + bias) (* gate) + residual, for a range of rows against one panel of weight columns. The tile's
// sums pass through a small buffer in L1, where the epilogue finds them: at k = 768 that costs under 1 % and
// keeps the inner loop the same for every epilogue.
#pragma once

#include "elementwise.h"
#include "kernels.h"
#include "tile.h"

namespace qkv::QKV_ISA {
namespace {

constexpr int64_t kPanel = kPanelVectors * kLanes;

// One row of one panel: sums -> y. `columns` of y are written.
inline void finish_row(const LinearArgs& args, float* sums, const float* bias, const float* residual, float* y,
                       int64_t columns) {
  if (bias)
    for (int64_t i = 0; i < kPanel; i += kLanes) (F32::load(sums + i) + F32::load(bias + i)).store(sums + i);
  const int64_t width = args.gated ? kPanel / 2 : kPanel;
  if (args.activation != Function::identity) apply(args.activation, sums, sums, width);
  if (args.gated)
    for (int64_t i = 0; i < width; i += kLanes) (F32::load(sums + i) * F32::load(sums + width + i)).store(sums + i);
  int64_t i = 0;
  for (; i + kLanes <= columns; i += kLanes) {
    F32 out = F32::load(sums + i);
    if (residual) out = out + F32::load(residual + i);
    out.store(y + i);
  }
  if (const int64_t tail = columns - i; tail > 0) {
    F32 out = F32::load(sums + i);
    if (residual) out = out + F32::load(residual + i, tail);
    out.store(y + i, tail);
  }
}

template <class Format>
void linear(const LinearArgs& args, int64_t row, int64_t rows, int64_t panel) {
  const int64_t groups = (args.k + Format::kGroup - 1) / Format::kGroup;
  const auto* w = (const typename Format::B*)args.w + panel * groups * Format::kGroup * kPanel;
  const float* bias = args.bias ? args.bias + panel * kPanel : nullptr;
  const int64_t width = args.gated ? kPanel / 2 : kPanel;  // columns of y that one panel makes
  const int64_t column = panel * width;
  const int64_t columns = args.n - column < width ? args.n - column : width;

  for (int64_t n; rows > 0; row += n, rows -= n) {
    n = next_rows(rows);
    alignas(kAlignment) float sums[kTileRows * kPanel] = {};
    const auto* x = (const typename Format::A*)args.x + row * args.x_stride;
    tile_rows<Format, kPanelVectors>(n, x, args.x_stride, w, Format::kGroup * kPanel, args.k, sums, kPanel);
    for (int64_t r = 0; r < n; ++r) {
      const float* residual = args.residual ? args.residual + (row + r) * args.residual_stride + column : nullptr;
      finish_row(args, sums + r * kPanel, bias, residual, args.y + (row + r) * args.y_stride + column, columns);
    }
  }
}

// x [n] -> y [padded], zeros behind n. Only tables with bf16_activations are asked to.
template <class V>
void to_bfloat16(const float* x, uint16_t* y, int64_t n, int64_t padded) {
  int64_t i = 0;
  if constexpr (kDotBf16) {
    for (; i + kLanes <= n; i += kLanes) V::load(x + i).store_bf16(y + i, kLanes);
    if (i < n) V::load(x + i, n - i).store_bf16(y + i, n - i);
    i = n;
  }
  for (; i < padded; ++i) y[i] = 0;
}

}  // namespace
}  // namespace qkv::QKV_ISA
