// Weights that cost a tile instructions to read are unpacked once for all tiles that share them. Both ways give the
// same bits: what is unpacked is exact, and summed in the same order.
#pragma once

#include "tile.h"

namespace qkv::QKV_ISA {
namespace {

// Formats whose values are read as they lie.
template <class Format>
struct Unpacked {
  using As = Format;
  static constexpr int64_t kFromRows = INT64_MAX;
  static void unpack(const typename Format::B*, int64_t, int64_t, void*) {}
};

template <>
struct Unpacked<WidenedBf16Format> {
  using As = Float32Format;
  static constexpr int64_t kFromRows = 7 * kTileRows;  // with more it pays

  static void unpack(const uint16_t* pairs, int64_t groups, int64_t columns, void* scratch) {
    auto* to = (float*)scratch;
    for (int64_t g = 0; g < groups; ++g, pairs += 2 * columns, to += 2 * columns)
      for (int64_t column = 0; column < columns; column += kLanes) {
        F32::low_bf16(pairs + 2 * column).store(to + column);
        F32::high_bf16(pairs + 2 * column).store(to + columns + column);
      }
  }
};

template <>
struct Unpacked<Int4Format> {
  using As = Int8Format;
  static constexpr int64_t kFromRows = kTileRows;

  static void unpack(const uint8_t* group, int64_t groups, int64_t columns, void* scratch) {
    auto* to = (int8_t*)scratch;
    for (int64_t g = 0; g < groups; ++g, group += int4_group_bytes(columns), to += kInt4Group * columns)
      for (int64_t column = 0; column < columns; column += kLanes) {
        const Int4Line line = Int4Line::load(group, columns, column);
        for (int j = 0; j < 4; ++j) {
          const uint8_t* bytes = group + 4 * (j * columns + column);
          line(I8::low_nibbles(bytes)).store(to + 4 * (j * columns + column));
          line(I8::high_nibbles(bytes)).store(to + 4 * ((j + 4) * columns + column));
        }
      }
  }
};

}  // namespace
}  // namespace qkv::QKV_ISA
