#include "weight.h"

#include <algorithm>
#include <cstring>

#include "error.h"
#include "isa.h"
#include "numbers.h"
#include "quantise.h"
#include "threads.h"

namespace qkv {
namespace {

int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

template <class To>
To convert(float x) {
  if constexpr (sizeof(To) == 2) return round_to_bfloat16(x);
  else return x;
}

// Reads element i of a source as float32. A checkpoint's file aligns nothing, so that elements are copied out.
template <class T>
T element(const void* data, int64_t i) {
  T x;
  std::memcpy(&x, static_cast<const char*>(data) + i * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return x;
}
struct ReadFloat32 {
  const void* p;
  float operator()(int64_t i) const { return element<float>(p, i); }
};
struct ReadFloat16 {
  const void* p;
  float operator()(int64_t i) const { return widen_float16(element<uint16_t>(p, i)); }
};
struct ReadBfloat16 {
  const void* p;
  float operator()(int64_t i) const { return widen_bfloat16(element<uint16_t>(p, i)); }
};

template <class Use>
void with_reader(const Source& source, const Use& use) {
  switch (source.type) {
    case Source::Type::float32: return use(ReadFloat32{source.data});
    case Source::Type::float16: return use(ReadFloat16{source.data});
    case Source::Type::bfloat16: return use(ReadBfloat16{source.data});
  }
}

// Neighbours of `in` that lie side by side in a column of a panel.
int64_t group_of(DType dtype, Layout layout) {
  switch (dtype) {
    case DType::float32: return 1;
    case DType::bfloat16: return layout == Layout::rows ? 1 : 2;
    case DType::int8: return 4;
    case DType::int4: return kInt4Group;
  }
  return 1;
}

int64_t bytes_of(DType dtype, int64_t values) {
  switch (dtype) {
    case DType::float32: return 4 * values;
    case DType::bfloat16: return 2 * values;
    case DType::int8: return values;
    case DType::int4: return values / kInt4Group * int4_group_bytes(1);
  }
  return 0;
}

bool quantised(DType dtype) { return dtype == DType::int8 || dtype == DType::int4; }

}  // namespace

DType dtype_of(const std::string& name) {
  for (const DType dtype : {DType::float32, DType::bfloat16, DType::int8, DType::int4})
    if (name == name_of(dtype)) return dtype;
  throw Error("a dtype is float32, bfloat16, int8 or int4, not '" + name + "'");
}

const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::float32: return "float32";
    case DType::bfloat16: return "bfloat16";
    case DType::int8: return "int8";
    case DType::int4: return "int4";
  }
  return "";
}

DType activations_of(DType weights, const Kernels& kernels) {
  if (quantised(weights)) return DType::int8;
  return weights == DType::bfloat16 && kernels.bf16_activations ? DType::bfloat16 : DType::float32;
}

std::string layout_traits(DType dtype, const Kernels& kernels) {
  std::string traits = "panels of " + std::to_string(kernels.panel) + " columns";
  if (quantised(dtype)) traits += ", activations " + std::to_string(kernels.activation_offset) + " off zero";
  return traits;
}

Weight::Weight(const Shape& shape)
    : kernels_(&chosen_kernels()), out_(shape.out), in_(shape.in), dtype_(shape.dtype), layout_(shape.layout) {
  const auto [out, in, dtype, layout] = shape;
  require(out > 0 && in > 0, "weight: ", out, " x ", in, " is not a size");
  require(layout != Layout::gated_panels || out % 2 == 0, "weight: ", out, " rows are not two halves");
  require(dtype != DType::int4 || layout != Layout::rows, "weight: a table to look up rows in can't be int4");
  // 127 * 255 * in must stay below 2^31
  require(!quantised(dtype) || in <= 65536, "weight: ", in, " inputs are too many for int8 sums; the most is 65536");
  panel_ = layout == Layout::rows ? 1 : kernels_->panel;
  group_ = group_of(dtype, layout);
  in_padded_ = round_up(in, group_);
  panels_ = gated() ? round_up(out / 2, panel_ / 2) / (panel_ / 2) : round_up(out, panel_) / panel_;
}

Weight::Weight(int64_t out, int64_t in, DType dtype, Layout layout) : Weight(Shape{out, in, dtype, layout}) {
  data_ = Memory(panel_bytes());
  panels_data_ = data_.data();
  if (quantised(dtype)) {
    scales_.resize(static_cast<size_t>(panels_ * panel_));
    offsets_.resize(static_cast<size_t>(panels_ * panel_));
  }
  // What no source fills must be 0: columns behind `out`, and the odd end of `in`.
  if (panels_ * panel_ != out || in_padded_ != in) {
    const size_t last = data_.bytes() / static_cast<size_t>(panels_);
    if (in_padded_ != in) std::memset(data_.data(), 0, data_.bytes());
    else std::memset(static_cast<char*>(data_.data()) + data_.bytes() - last, 0, last);
  }
}

Weight::Weight(int64_t out, int64_t in, DType dtype, Layout layout, const Parts& parts,
               std::shared_ptr<const void> owner)
    : Weight(Shape{out, in, dtype, layout}) {
  const auto columns = static_cast<size_t>(panels_ * panel_), quantised_columns = quantised(dtype) ? columns : 0;
  const auto check = [](const char* part, size_t count, size_t expected) {
    require(count == expected, "weight: ", count, " ", part, ", not ", expected);
  };
  check("bytes of panels", parts.panels.size(), panel_bytes());
  check("scales", parts.scales.size(), quantised_columns);
  check("offsets", parts.offsets.size(), quantised_columns);
  check("values of bias", parts.bias.size(), parts.bias.empty() ? 0 : columns);
  require(reinterpret_cast<uintptr_t>(parts.panels.data()) % kAlignment == 0, "weight: panels must be aligned to ",
          kAlignment, " bytes");
  owner_ = std::move(owner);
  panels_data_ = parts.panels.data();
  scales_.assign(parts.scales.begin(), parts.scales.end());
  offsets_.assign(parts.offsets.begin(), parts.offsets.end());
  bias_.assign(parts.bias.begin(), parts.bias.end());
}

Weight::Parts Weight::parts() const {
  return {{static_cast<const std::byte*>(panels_data_), panel_bytes()}, scales_, offsets_, bias_};
}

size_t Weight::panel_bytes() const { return static_cast<size_t>(bytes_of(dtype_, panels_ * panel_ * in_padded_)); }

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
  require(!owner_, "weight: is packed already");
  require(source.columns == in_, "weight: rows of ", source.columns, " values do not fit ", in_, " inputs");
  require(half == 0 || (gated() && half == 1), "weight: there is no half ", half);
  require(at >= 0 && at + source.rows <= half_out(), "weight: rows ", at, " ... ", at + source.rows, " do not fit ",
          half_out());
  if (quantised(dtype_)) fill_quantised(source, at, half, threads);
  else if (dtype_ == DType::float32) fill_as<float, 1>(source, at, half, threads);
  else if (group_ == 1) fill_as<uint16_t, 1>(source, at, half, threads);
  else fill_as<uint16_t, 2>(source, at, half, threads);
}

// Rows are read into float32 first: a row's scale comes from all of it.
void Weight::fill_quantised(const Source& source, int64_t at, int half, int threads) {
  constexpr int64_t kRows = 16, kColumns = 64;  // a block of both sides stays in L1
  with_reader(source, [&](auto read) {
    parallel_for((source.rows + kRows - 1) / kRows, threads, [&](int64_t task, int) {
      const int64_t first = task * kRows, count = std::min(kRows, source.rows - first);
      std::vector<float> rows(static_cast<size_t>(count * in_padded_));
      for (int64_t k0 = 0; k0 < in_; k0 += kColumns)
        for (int64_t r = 0; r < count; ++r)
          for (int64_t k = k0; k < std::min(in_, k0 + kColumns); ++k)
            rows[static_cast<size_t>(r * in_padded_ + k)] =
                read((first + r) * source.row_stride + k * source.column_stride);
      for (int64_t r = 0; r < count; ++r) {
        const float* row = rows.data() + r * in_padded_;
        const int64_t column = packed_column(at + first + r, half);
        if (dtype_ == DType::int8) put_int8(row, column);
        else put_int4(row, column);
      }
    });
  });
}

void Weight::put_int8(const float* row, int64_t column) {
  std::vector<int8_t> values(static_cast<size_t>(in_padded_));
  const Int8Row packed = quantise_int8(row, in_padded_, values.data());
  scales_[static_cast<size_t>(column)] = packed.scale;
  offsets_[static_cast<size_t>(column)] = -kernels_->activation_offset * packed.sum;
  auto* to = static_cast<int8_t*>(data_.data()) + column / panel_ * panel_ * in_padded_ + column % panel_ * group_;
  for (int64_t k = 0; k < in_padded_; k += group_, to += panel_ * group_)
    std::memcpy(to, values.data() + k, static_cast<size_t>(group_));
}

// The layout of a group is that of Int4Format in kernels/tile.h.
void Weight::put_int4(const float* row, int64_t column) {
  const int64_t groups = in_padded_ / kInt4Group, in_panel = column % panel_;
  std::vector<Int4Group> packed(static_cast<size_t>(groups));
  const Int8Row all = quantise_int4(row, in_padded_, packed.data());
  scales_[static_cast<size_t>(column)] = all.scale;
  offsets_[static_cast<size_t>(column)] = -kernels_->activation_offset * all.sum;
  auto* to = static_cast<uint8_t*>(data_.data()) + column / panel_ * groups * int4_group_bytes(panel_);
  for (const Int4Group& group : packed) {
    for (int64_t k = 0; k < 16; ++k)
      to[4 * (k / 4 * panel_ + in_panel) + k % 4] = static_cast<uint8_t>(group.q[k] | group.q[k + 16] << 4);
    to[panel_ * 16 + in_panel] = group.multiplier;
    to[panel_ * 17 + in_panel] = static_cast<uint8_t>(group.offset);
    to += int4_group_bytes(panel_);
  }
}

int64_t Weight::nbytes() const {
  return static_cast<int64_t>(panel_bytes() + (bias_.size() + scales_.size() + offsets_.size()) * sizeof(float));
}

DType Weight::activations() const { return activations_of(dtype_, *kernels_); }

void Weight::fill_bias(const Source& source, int64_t at, int half) {
  require(!owner_, "weight: is packed already");
  require(source.rows == 1 && at >= 0 && at + source.columns <= half_out() && (half == 0 || (gated() && half == 1)),
          "weight: bias of ", source.columns, " values at ", at, " does not fit ", half_out(), " outputs");
  bias_.resize(static_cast<size_t>(panels_ * panel_));
  with_reader(source, [&](auto read) {
    for (int64_t i = 0; i < source.columns; ++i)
      bias_[static_cast<size_t>(packed_column(at + i, half))] = read(i * source.column_stride);
  });
}

namespace {

// y[k] += value(w[k]), w in groups that lie `step` apart; in a table of rows all of it lies in one piece, and the
// compiler makes vectors of the loop.
template <class From, class Value>
void add_values(const From* w, int64_t n, int64_t group, int64_t step, float* y, Value value) {
  if (group == step)
    for (int64_t k = 0; k < n; ++k) y[k] += value(w[k]);
  else
    for (int64_t k = 0; k < n; k += group, w += step)
      for (int64_t i = 0; i < std::min(group, n - k); ++i) y[k + i] += value(w[i]);
}

}  // namespace

void Weight::add_row(int64_t row, float* y) const {
  const int64_t start = row / panel_ * panel_ * in_padded_ + row % panel_ * group_, step = panel_ * group_;
  if (dtype_ == DType::float32) {
    add_values(static_cast<const float*>(panels_data_) + start, in_, group_, step, y, [](float w) { return w; });
  } else if (dtype_ == DType::int8) {
    const float scale = scales_[static_cast<size_t>(row)];
    add_values(static_cast<const int8_t*>(panels_data_) + start, in_, group_, step, y,
               [scale](int8_t w) { return scale * static_cast<float>(w); });
  } else {
    add_values(static_cast<const uint16_t*>(panels_data_) + start, in_, group_, step, y, widen_bfloat16);
  }
}

}  // namespace qkv
