// y = f(x . W^T + bias) (* gate) + residual, for up to kBlockRows rows against one panel of weight columns. The tile's
// sums pass through a small buffer in L1, where the epilogue finds them: at k = 768 that costs under 1 % and
// keeps the inner loop the same for every epilogue.
#pragma once

#include "elementwise.h"
#include "kernels.h"
#include "tile.h"

namespace qkv::QKV_ISA {
namespace {

constexpr int64_t kPanel = kPanelVectors * kLanes;

// One row of one panel, of which `columns` are wanted: sums -> y.
template <class Format, class Activation>
inline void finish_row(const LinearArgs& args, Activation f, const typename Format::Sum::Lane* sums, int64_t row,
                       int64_t panel) {
  const int64_t width = args.gated ? kPanel / 2 : kPanel;  // columns of y that one panel makes
  const int64_t column = panel * width;
  const int64_t columns = args.n - column < width ? args.n - column : width;
  const float* bias = args.bias ? args.bias + panel * kPanel : nullptr;
  const float* residual = args.residual ? args.residual + row * args.residual_stride + column : nullptr;
  float* y = args.y + row * args.y_stride + column;

  F32 x_scale = F32::set(0);
  if constexpr (Format::kQuantised) x_scale = F32::set(args.x_scales[row]);
  const auto sum = [&](int64_t i) {
    F32 value;
    if constexpr (Format::kQuantised)
      value = to_float(I32::load(sums + i)) * (x_scale * F32::load(args.w_scales + panel * kPanel + i));
    else value = F32::load(sums + i);
    return bias ? value + F32::load(bias + i) : value;
  };
  const auto out = [&](int64_t i) { return args.gated ? f(sum(i)) * sum(width + i) : f(sum(i)); };
  int64_t i = 0;
  for (; i + kLanes <= columns; i += kLanes) {
    const F32 value = out(i);
    (residual ? value + F32::load(residual + i) : value).store(y + i);
  }
  if (const int64_t tail = columns - i; tail > 0) {
    const F32 value = out(i);
    (residual ? value + F32::load(residual + i, tail) : value).store(y + i, tail);
  }
}

template <class Format>
inline void begin(const LinearArgs& args, typename Format::Sum::Lane* sums, int64_t rows, int64_t panel) {
  for (int64_t i = 0; i < rows * kPanel; i += kLanes) {
    if constexpr (Format::kQuantised) I32::load(args.w_offsets + panel * kPanel + i % kPanel).store(sums + i);
    else F32::set(0).store(sums + i);
  }
}

template <class Format>
inline void finish(const LinearArgs& args, const typename Format::Sum::Lane* sums, int64_t row, int64_t rows,
                   int64_t panel) {
  with_activation(args.activation, [&](auto f) {
    for (int64_t r = 0; r < rows; ++r) finish_row<Format>(args, f, sums + r * kPanel, row + r, panel);
  });
}

// Bytes of a panel that all tiles go through before the next ones: they come from memory once and stay in the L2 cache,
// and meanwhile the tiles ask for those behind them, which for the last chunk are those of the next panel.
constexpr int64_t kChunkBytes = 64 << 10;

template <class Format>
inline void linear_panel(const LinearArgs& args, int64_t row, int64_t rows, int64_t panel, const void* packed) {
  using Lane = typename Format::Sum::Lane;
  constexpr int64_t kStepBytes = kPanel * Format::kColumnBytes;
  const int64_t groups = (args.k + Format::kGroup - 1) / Format::kGroup;
  const int64_t k = Format::kQuantised ? groups * Format::kGroup : args.k;
  const int64_t chunks = (groups * kStepBytes + kChunkBytes - 1) / kChunkBytes, each = (groups + chunks - 1) / chunks;
  const int64_t tiles = (rows + kTileRows - 1) / kTileRows;
  const auto* x = (const typename Format::A*)args.x + row * args.x_stride;

  alignas(kAlignment) Lane sums[kBlockRows * kPanel];
  for (int64_t from = 0; from < groups; from += each) {
    const char* w = (const char*)packed + from * kStepBytes;
    const int64_t k0 = from * Format::kGroup, k1 = from + each < groups ? (from + each) * Format::kGroup : k;
    int64_t r = 0;
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t n = next_rows(rows - r);
      Lane* c = sums + (chunks == 1 ? 0 : r * kPanel);
      if (from == 0) begin<Format>(args, c, n, panel);
      const Ahead ahead = {w + each * kStepBytes * (tiles + tile) / tiles, kStepBytes / tiles};
      tile_rows<Format, kPanelVectors>(n, x + r * args.x_stride + k0, args.x_stride, (const typename Format::B*)w,
                                       kStepBytes / (int64_t)sizeof(typename Format::B), k1 - k0, c, kPanel, ahead);
      if (from + each >= groups) finish<Format>(args, c, row + r, n, panel);
      r += n;
    }
  }
}

template <class Format>
void linear(const LinearArgs& args, int64_t row, int64_t rows, int64_t panel) {
  const int64_t groups = (args.k + Format::kGroup - 1) / Format::kGroup;
  linear_panel<Format>(args, row, rows, panel, (const char*)args.w + panel * groups * kPanel * Format::kColumnBytes);
}

// One panel of int4 as the int8 values it stands for.
inline void unpack_int4(const uint8_t* group, int64_t k, int8_t* w) {
  for (int64_t done = 0; done < k; done += kInt4Group, group += int4_group_bytes(kPanel), w += kInt4Group * kPanel)
    for (int64_t column = 0; column < kPanel; column += kLanes) {
      const Int4Line line = Int4Line::load(group, kPanel, column);
      for (int j = 0; j < 4; ++j) {
        const uint8_t* bytes = group + 4 * (j * kPanel + column);
        line(I8::low_nibbles(bytes)).store(w + 4 * (j * kPanel + column));
        line(I8::high_nibbles(bytes)).store(w + 4 * ((j + 4) * kPanel + column));
      }
    }
}

// A tile of rows unpacks int4 in registers. More of them share what one of them unpacks: the sums are exact, so both
// ways give the same bits.
void linear_int4(const LinearArgs& args, int64_t row, int64_t rows, int64_t panel) {
  if (rows <= kTileRows) return linear<Int4Format>(args, row, rows, panel);
  const int64_t groups = (args.k + kInt4Group - 1) / kInt4Group;
  unpack_int4((const uint8_t*)args.w + panel * groups * int4_group_bytes(kPanel), args.k, args.scratch);
  LinearArgs unpacked = args;
  unpacked.k = groups * kInt4Group;  // what the columns' offsets were summed over
  linear_panel<Int8Format>(unpacked, row, rows, panel, args.scratch);
}

// Symmetric, one scale a row. A row that is not finite gets NaN as its scale, so that it spoils its products and no
// others; one that stays below 1e-30 counts as 0, as 127 / 1e-38 would be infinite.
void quantise(const float* x, uint8_t* q, float* scale, int64_t n, int64_t padded) {
  F32 top = F32::set(0), spoilt = F32::set(0);
  const auto look = [&](F32 v) {
    top = max(top, abs(v));
    spoilt = fma(v, F32::set(0), spoilt);
  };
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) look(F32::load(x + i));
  if (i < n) look(F32::load(x + i, n - i));
  const float largest = reduce_max(top);
  *scale = largest / 127.0f + reduce_add(spoilt);
  const F32 inverse = F32::set(largest > 1e-30f ? 127.0f / largest : 0.0f);
  for (i = 0; i + kLanes <= n; i += kLanes) round(F32::load(x + i) * inverse).store_int8(q + i, kLanes);
  if (i < n) round(F32::load(x + i, n - i) * inverse).store_int8(q + i, n - i);
  for (i = n; i < padded; ++i) q[i] = (uint8_t)kActivationOffset;
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
