#include "quantise.h"

#include <algorithm>
#include <cmath>

namespace qkv {
namespace {

constexpr float kLargest = 127;

// Of a row that stays below 1e-30 the values count as 0: 127 / 1e-38 would be infinite. A row that is not finite
// becomes 0 with NaN as its scale: what is computed with it is NaN too.
struct Scaling {
  float scale, inverse;
};

Scaling scaling_of(const float* w, int64_t n) {
  float largest = 0, spoilt = 0;
  for (int64_t i = 0; i < n; ++i) {
    largest = std::max(largest, std::fabs(w[i]));
    spoilt += w[i] * 0;
  }
  if (spoilt != 0) return {spoilt, 0};
  return {largest / kLargest, largest > 1e-30f ? kLargest / largest : 0};
}

struct Line {
  int multiplier, offset;
};

int nearest(float x) { return static_cast<int>(x + (x < 0 ? -0.5f : 0.5f)); }

int held(int offset) { return std::clamp(offset, -127, 127); }

// Writes q of each value and returns the squared error; `residue` is the mean of value - multiplier * q.
float place(const float* values, Line line, uint8_t* q, float& residue) {
  const float inverse = 1.0f / static_cast<float>(line.multiplier), offset = static_cast<float>(line.offset);
  const float most = static_cast<float>(std::min(15, (127 - line.offset) / line.multiplier)) + 0.5f;
  float sum = 0, squares = 0;
  for (int i = 0; i < kInt4Group; ++i) {
    const float at = std::min(std::max((values[i] - offset) * inverse + 0.5f, 0.0f), most);
    q[i] = static_cast<uint8_t>(at);
    const float rest = values[i] - static_cast<float>(line.multiplier * q[i]);
    sum += rest;
    squares += (rest - offset) * (rest - offset);
  }
  residue = sum / kInt4Group;
  return squares;
}

// The line with the least squared error among a few: spans up to a quarter shorter than that of the values, as clipping
// the two ends can cost less than a coarser step, each first centred and then moved to the mean of what it left.
Int4Group best_group(const float* values) {
  const auto [low, high] = std::minmax_element(values, values + kInt4Group);
  const float step = (*high - *low) / 15;
  const int most = std::clamp(static_cast<int>(std::ceil(step)), 1, 17);
  const int least = std::max(1, static_cast<int>(0.75f * step));
  Int4Group best{};
  float best_error = INFINITY;
  for (int multiplier = least; multiplier <= most; ++multiplier) {
    Line line{multiplier, held(nearest((*low + *high - 15.0f * static_cast<float>(multiplier)) / 2))};
    for (int attempt = 0; attempt < 2; ++attempt) {
      Int4Group group{};
      float residue;
      const float error = place(values, line, group.q, residue);
      if (error < best_error) {
        best_error = error;
        best = group;
        best.multiplier = static_cast<uint8_t>(line.multiplier);
        best.offset = static_cast<int8_t>(line.offset);
      }
      line.offset = held(nearest(residue));
    }
  }
  return best;
}

}  // namespace

Int8Row quantise_int8(const float* w, int64_t n, int8_t* values) {
  const auto [scale, inverse] = scaling_of(w, n);
  Int8Row row{scale, 0};
  for (int64_t i = 0; i < n; ++i) {
    values[i] = static_cast<int8_t>(inverse > 0 ? nearest(w[i] * inverse) : 0);
    row.sum += values[i];
  }
  return row;
}

Int8Row quantise_int4(const float* w, int64_t n, Int4Group* groups) {
  const auto [scale, inverse] = scaling_of(w, n);
  Int8Row row{scale, 0};
  for (int64_t first = 0; first < n; first += kInt4Group) {
    float values[kInt4Group] = {};
    if (inverse > 0)
      for (int64_t i = 0; i < kInt4Group; ++i) values[i] = w[first + i] * inverse;
    const Int4Group group = groups[first / kInt4Group] = best_group(values);
    for (const uint8_t q : group.q) row.sum += group.multiplier * q + group.offset;
  }
  return row;
}

}  // namespace qkv
