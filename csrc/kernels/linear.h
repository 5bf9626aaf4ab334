// y = f(x . W^T + bias) (* gate) + residual, for up to kBlockRows rows against one panel of weight columns. The tile's
// sums pass through a small buffer in L1, where the epilogue finds them: at k = 768 that costs under 1 % and
// keeps the inner loop the same for every epilogue.
#pragma once

#include "elementwise.h"
#include "kernels.h"
#include "prefetch.h"
#include "tile.h"
#include "unpack.h"

namespace qkv::QKV_ISA {
namespace {

constexpr int64_t kPanel = kPanelVectors * kLanes;

// A panel is gone through in chunks of about so many bytes: all tiles use one before the next. A chunk comes from
// memory once and stays in the L2 cache, and meanwhile the tiles ask for what lies behind it, which for the last chunk
// is the next panel. One that has to be unpacked, to twice its size, stays in L1 then.
constexpr int64_t kChunkBytes = 128 << 10, kPackedChunkBytes = 16 << 10;

// One or two rows compute less than they wait, so a panel is one chunk for them, and little ahead is asked for: the
// processor itself sees such a stream and fetches further on, while lines asked for from far away keep the few buffers
// for misses of the L1 cache busy. (Zen 4, one row: 16 KiB ahead reads 34 of the 50 GB/s that there are. Three to six
// rows take 0.85 to 0.97 there as well, but Sapphire Rapids needs lines from far away for four.) int4 computes as long
// as it reads.
constexpr int64_t kNearBytes = 1 << 10;
template <class Format>
constexpr int64_t kStreamedRows = 2;
template <>
constexpr int64_t kStreamedRows<Int4Format> = 0;

// One row of one panel: sums -> y, as many columns as it has. With kMaxima also the largest of them, where a NaN, which
// max() would drop, counts as infinity.
template <class Format, bool kMaxima, class Activation>
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
    if constexpr (Format::kQuantised) {
      const F32 value = to_float(I32::load(sums + i)), scale = x_scale * F32::load(args.w_scales + panel * kPanel + i);
      return bias ? fma(value, scale, F32::load(bias + i)) : value * scale;
    } else {
      return bias ? F32::load(sums + i) + F32::load(bias + i) : F32::load(sums + i);
    }
  };
  const auto out = [&](int64_t i) { return args.gated ? f(sum(i)) * sum(width + i) : f(sum(i)); };
  const F32 infinity = F32::set(__builtin_inff());
  F32 most = F32::set(-__builtin_inff());
  int64_t i = 0;
  for (; i + kLanes <= columns; i += kLanes) {
    F32 value = out(i);
    if (residual) value = value + F32::load(residual + i);
    value.store(y + i);
    if constexpr (kMaxima) most = max(most, select(value < infinity, value, infinity));
  }
  if (const int64_t tail = columns - i; tail > 0) {
    const F32 value = out(i);
    (residual ? value + F32::load(residual + i, tail) : value).store(y + i, tail);
  }
  if constexpr (kMaxima) {
    float m = reduce_max(most);
    for (; i < columns; ++i) m = y[i] <= m ? m : y[i] < __builtin_inff() ? y[i] : __builtin_inff();
    args.maxima[row * args.maxima_stride + panel] = m;
  }
}

// What the sums of every row begin with.
template <class Format>
inline const typename Format::Sum::Lane* start_of(const LinearArgs& args, int64_t panel) {
  alignas(kAlignment) static constexpr float zeros[kPanel] = {};
  if constexpr (Format::kQuantised) return args.w_offsets + panel * kPanel;
  else return zeros;
}

// As finish(), for an output layer. A function of its own, so that the other stays small enough to be inlined.
template <class Format>
[[gnu::noinline]] void finish_with_maxima(const LinearArgs& args, const typename Format::Sum::Lane* sums, int64_t row,
                                          int64_t rows, int64_t panel) {
  const auto identity = [](F32 x) { return x; };
  for (int64_t r = 0; r < rows; ++r) finish_row<Format, true>(args, identity, sums + r * kPanel, row + r, panel);
}

template <class Format>
inline void finish(const LinearArgs& args, const typename Format::Sum::Lane* sums, int64_t row, int64_t rows,
                   int64_t panel) {
  with_activation<Format::kQuantised>(args.activation, [&](auto f) {
    for (int64_t r = 0; r < rows; ++r) finish_row<Format, false>(args, f, sums + r * kPanel, row + r, panel);
  });
}

// What the epilogue of a tile will read and write.
inline void ask_for_rows(const LinearArgs& args, int64_t row, int64_t rows, int64_t panel) {
  const int64_t width = args.gated ? kPanel / 2 : kPanel, column = panel * width;
  for (int64_t r = row; r < row + rows; ++r) {
    ask_for<For::writing>(args.y + r * args.y_stride + column, width);
    if (args.residual && args.residual != args.y)
      ask_for<For::reading>(args.residual + r * args.residual_stride + column, width);
  }
}

// A piece of a panel: k values from k0 on.
struct Chunk {
  const void* w;
  int64_t k0, k;
  bool first, last;
  const char* next;  // `bytes` behind it that the tiles ask for while they compute, each for its share
  int64_t bytes;
};

// All tiles against one chunk.
template <class Format>
inline void multiply_chunk(const LinearArgs& args, int64_t row, int64_t rows, int64_t panel, const Chunk& chunk,
                           typename Format::Sum::Lane* sums) {
  constexpr int64_t kStep = kPanel * Format::kColumnBytes / (int64_t)sizeof(typename Format::B);
  const auto* x = (const typename Format::A*)args.x + row * args.x_stride + chunk.k0;
  const auto* w = (const typename Format::B*)chunk.w;
  const int64_t tiles = (rows + kTileRows - 1) / kTileRows, steps = (chunk.k + Format::kGroup - 1) / Format::kGroup;
  int64_t r = 0;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t n = next_rows(rows - r);
    auto* c = sums + (chunk.first && chunk.last ? 0 : r * kPanel);  // nothing to keep: stay in L1
    const auto* start = chunk.first ? start_of<Format>(args, panel) : c;
    if (chunk.last) ask_for_rows(args, row + r, n, panel);
    const Ahead ahead = {chunk.next + chunk.bytes * tile / tiles, chunk.bytes / tiles / steps};
    tile_rows<Format, kPanelVectors>(n, x + r * args.x_stride, args.x_stride, w, kStep, chunk.k, start,
                                     chunk.first ? 0 : kPanel, c, kPanel, ahead);
    if (chunk.last) {
      if (args.maxima) finish_with_maxima<Format>(args, c, row + r, n, panel);
      else finish<Format>(args, c, row + r, n, panel);
    }
    r += n;
  }
}

template <class Format>
void linear(const LinearArgs& args, int64_t row, int64_t rows, int64_t panel) {
  constexpr int64_t kStepBytes = kPanel * Format::kColumnBytes;
  const int64_t groups = (args.k + Format::kGroup - 1) / Format::kGroup;
  const int64_t k = Format::kQuantised ? groups * Format::kGroup : args.k;
  const bool unpacks = rows > Unpacked<Format>::kFromRows;
  const bool streams = rows <= kStreamedRows<Format>;
  const int64_t size = unpacks || rows <= kTileRows ? kPackedChunkBytes : kChunkBytes;
  const int64_t chunks = streams ? 1 : (groups * kStepBytes + size - 1) / size, each = (groups + chunks - 1) / chunks;
  const char* w = (const char*)args.w + panel * groups * kStepBytes;

  alignas(kAlignment) typename Format::Sum::Lane sums[kBlockRows * kPanel];
  for (int64_t from = 0; from < groups; from += each, w += each * kStepBytes) {
    const int64_t count = each < groups - from ? each : groups - from, k0 = from * Format::kGroup;
    Chunk chunk = {.w = w,
                   .k0 = k0,
                   .k = from + count < groups ? count * Format::kGroup : k - k0,
                   .first = from == 0,
                   .last = from + count == groups,
                   .next = w + (streams ? kNearBytes : count * kStepBytes),
                   .bytes = each * kStepBytes};
    if (unpacks) {
      Unpacked<Format>::unpack((const typename Format::B*)w, count, kPanel, args.scratch);
      chunk.w = args.scratch;
      multiply_chunk<typename Unpacked<Format>::As>(args, row, rows, panel, chunk, sums);
    } else {
      multiply_chunk<Format>(args, row, rows, panel, chunk, sums);
    }
  }
}

}  // namespace
}  // namespace qkv::QKV_ISA
