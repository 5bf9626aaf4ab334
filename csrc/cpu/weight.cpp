#include "weight.h"

#include <algorithm>
#include <cstring>

#include "error.h"
#include "isa.h"
#include "numbers.h"
#include "threads.h"

namespace qkv {
namespace {

int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

template <class To>
To convert(float x) {
  if constexpr (sizeof(To) == 2) return round_to_bfloat16(x);
  else return x;
}

// Reads element i of a source as float32.
struct ReadFloat32 {
  const float* p;
  float operator()(int64_t i) const { return p[i]; }
};
struct ReadFloat16 {
  const uint16_t* p;
  float operator()(int64_t i) const { return widen_float16(p[i]); }
};
struct ReadBfloat16 {
  const uint16_t* p;
  float operator()(int64_t i) const { return widen_bfloat16(p[i]); }
};

template <class Use>
void with_reader(const Source& source, const Use& use) {
  const auto* halves = static_cast<const uint16_t*>(source.data);
  switch (source.type) {
    case Source::Type::float32: return use(ReadFloat32{static_cast<const float*>(source.data)});
    case Source::Type::float16: return use(ReadFloat16{halves});
    case Source::Type::bfloat16: return use(ReadBfloat16{halves});
  }
}

}  // namespace

Weight::Weight(int64_t out, int64_t in, DType dtype, Layout layout)
    : kernels_(&chosen_kernels()), out_(out), in_(in), dtype_(dtype), layout_(layout) {
  require(out > 0 && in > 0, "weight: ", out, " x ", in, " is not a size");
  require(layout != Layout::gated_panels || out % 2 == 0, "weight: ", out, " rows are not two halves");
  const bool rows = layout == Layout::rows;
  panel_ = rows ? 1 : kernels_->panel;
  group_ = rows || dtype == DType::float32 ? 1 : 2;
  in_padded_ = round_up(in, group_);
  panels_ = gated() ? round_up(out / 2, panel_ / 2) / (panel_ / 2) : round_up(out, panel_) / panel_;
  data_ = Memory(static_cast<size_t>(panels_ * panel_ * in_padded_) * (dtype == DType::float32 ? 4 : 2));
  // What no source fills must be 0: columns behind `out`, and the odd end of `in`.
  if (panels_ * panel_ != out || in_padded_ != in) {
    const size_t last = data_.bytes() / panels_;
    if (in_padded_ != in) std::memset(data_.data(), 0, data_.bytes());
    else std::memset(static_cast<char*>(data_.data()) + data_.bytes() - last, 0, last);
  }
}

int64_t Weight::packed_column(int64_t row, int half) const {
  if (!gated()) return row;
  const int64_t width = panel_ / 2;
  return row / width * panel_ + half * width + row % width;
}

template <class To, int64_t Group>
void Weight::fill_as(const Source& source, int64_t at, int half, int threads) {
  constexpr int64_t kRows = 64, kColumns = 64;  // a block of both sides stays in L1
  static_assert(kColumns % Group == 0);
  const int64_t step = panel_ * Group;
  with_reader(source, [&](auto read) {
    parallel_for((source.rows + kRows - 1) / kRows, threads, [&](int64_t task, int) {
      const int64_t end = std::min(source.rows, (task + 1) * kRows);
      for (int64_t k0 = 0; k0 < in_; k0 += kColumns) {
        const int64_t count = std::min(kColumns, in_ - k0);
        for (int64_t row = task * kRows; row < end; ++row) {
          const int64_t column = packed_column(at + row, half);
          const int64_t start = column / panel_ * panel_ * in_padded_ + column % panel_ * Group + k0 / Group * step;
          To* to = static_cast<To*>(data_.data()) + start;
          const int64_t from = row * source.row_stride + k0 * source.column_stride;
          for (int64_t k = 0; k < count; ++k)
            to[k / Group * step + k % Group] = convert<To>(read(from + k * source.column_stride));
        }
      }
    });
  });
}

void Weight::fill(const Source& source, int64_t at, int half, int threads) {
  require(source.columns == in_, "weight: rows of ", source.columns, " values do not fit ", in_, " inputs");
  require(half == 0 || (gated() && half == 1), "weight: there is no half ", half);
  require(at >= 0 && at + source.rows <= half_out(), "weight: rows ", at, " ... ", at + source.rows, " do not fit ",
          half_out());
  if (dtype_ == DType::float32) fill_as<float, 1>(source, at, half, threads);
  else if (group_ == 1) fill_as<uint16_t, 1>(source, at, half, threads);
  else fill_as<uint16_t, 2>(source, at, half, threads);
}

void Weight::fill_bias(const Source& source, int64_t at, int half) {
  require(source.rows == 1 && at >= 0 && at + source.columns <= half_out() && (half == 0 || (gated() && half == 1)),
          "weight: bias of ", source.columns, " values at ", at, " does not fit ", half_out(), " outputs");
  bias_.resize(static_cast<size_t>(panels_ * panel_));
  with_reader(source, [&](auto read) {
    for (int64_t i = 0; i < source.columns; ++i)
      bias_[static_cast<size_t>(packed_column(at + i, half))] = read(i * source.column_stride);
  });
}

void Weight::add_row(int64_t row, float* y) const {
  const int64_t start = row / panel_ * panel_ * in_padded_ + row % panel_ * group_, step = panel_ * group_;
  if (dtype_ == DType::float32) {
    const float* w = static_cast<const float*>(data_.data()) + start;
    for (int64_t k = 0; k < in_; ++k) y[k] += w[k * step];
  } else {
    const uint16_t* w = static_cast<const uint16_t*>(data_.data()) + start;
    for (int64_t k = 0; k < in_; k += group_, w += step)
      for (int64_t i = 0; i < std::min(group_, in_ - k); ++i) y[k + i] += widen_bfloat16(w[i]);
  }
}

}  // namespace qkv
