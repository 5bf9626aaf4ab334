#include "quantise.h"

#include <algorithm>
#include <cmath>
#include <numeric>

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
#pragma omp simd reduction(max : largest) reduction(+ : spoilt)
  for (int64_t i = 0; i < n; ++i) {
    const float size = std::fabs(w[i]);
    largest = size > largest ? size : largest;
    spoilt += w[i] * 0;
  }
  if (spoilt != 0) return {spoilt, 0};
  return {largest / kLargest, largest > 1e-30f ? kLargest / largest : 0};
}

// To the nearest integer, for |x| < 2^22: what is added leaves no room for a fraction. Unlike std::round it is two
// additions to any compiler.
float nearest(float x) { return (x + 0x1.8p23f) - 0x1.8p23f; }

float held(float offset) { return std::clamp(offset, -kLargest, kLargest); }

struct Line {  // both are integers
  float multiplier, offset;
};

// value -> q, the nearest of 0 ... 15 whose value stays in -127 ... 127
struct Place {
  float offset, inverse, most;
  // 0.01: the inverse is rounded, and a whole quotient must not come out just below itself.
  explicit Place(Line line)
      : offset(line.offset),
        inverse(1 / line.multiplier),
        most(static_cast<float>(std::min(15, static_cast<int>((kLargest - offset) * inverse + 0.01f)))) {}
  float operator()(float value) const {
    const float at = (value - offset) * inverse;
    return nearest(std::min(std::max(at, 0.0f), most));
  }
};

struct Fit {
  Line line;
  float error;  // squared, of the group, less what is common to all lines
};

// Least squares: the line that suits the places which `line` gives to the values.
Fit refined(const float* values, float mean, Line line) {
  const Place place(line);
  float sum = 0, squares = 0, products = 0;
#pragma omp simd reduction(+ : sum, squares, products)
  for (int i = 0; i < kInt4Group; ++i) {
    const float q = place(values[i]);
    sum += q;
    squares += q * q;
    products += q * values[i];
  }
  const float q_mean = sum / kInt4Group, variation = squares - sum * q_mean, together = products - sum * mean;
  const float multiplier = variation > 0 ? std::clamp(nearest(together / variation), 1.0f, 17.0f) : 1.0f;
  const float offset = held(nearest(mean - multiplier * q_mean));
  const float rest = mean - multiplier * q_mean - offset;
  const float error = multiplier * (multiplier * variation - 2 * together) + kInt4Group * rest * rest;
  return {{multiplier, offset}, error};
}

// The best of a few lines. Two have a value exactly at one end; one is a step shorter, as to clip both ends can cost
// less than a coarse step. Each is refined twice.
Int4Group best_group(const float* values) {
  float low = values[0], high = values[0], sum = 0;
#pragma omp simd reduction(min : low) reduction(max : high) reduction(+ : sum)
  for (int i = 0; i < kInt4Group; ++i) {
    low = values[i] < low ? values[i] : low;
    high = values[i] > high ? values[i] : high;
    sum += values[i];
  }
  const float mean = sum / kInt4Group;
  const float step = std::max(1.0f, nearest((high - low) / 15)), finer = std::max(1.0f, step - 1);
  Line lines[] = {{step, held(nearest(low))},
                  {step, held(nearest(high - 15 * step))},
                  {finer, held(nearest((low + high - 15 * finer) / 2))}};
  Fit best{{1, 0}, INFINITY};
  for (int time = 0; time < 2; ++time)
    for (Line& line : lines) {
      const Fit fit = refined(values, mean, line);
      if (fit.error < best.error) best = fit;
      line = fit.line;
    }
  Int4Group group;
  const Place place(best.line);
  for (int i = 0; i < kInt4Group; ++i) group.q[i] = static_cast<uint8_t>(static_cast<int>(place(values[i])));
  group.multiplier = static_cast<uint8_t>(best.line.multiplier);
  group.offset = static_cast<int8_t>(best.line.offset);
  return group;
}

}  // namespace

Int8Row quantise_int8(const float* w, int64_t n, int8_t* values) {
  const auto [scale, inverse] = scaling_of(w, n);
  Int8Row row{scale, 0};
  for (int64_t i = 0; i < n; ++i) {
    const int value = inverse > 0 ? static_cast<int>(nearest(w[i] * inverse)) : 0;
    values[i] = static_cast<int8_t>(value);
    row.sum += value;
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
    row.sum += group.multiplier * std::accumulate(group.q, group.q + kInt4Group, 0) + kInt4Group * group.offset;
  }
  return row;
}

}  // namespace qkv
