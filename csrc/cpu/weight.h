// A weight matrix [out, in] as the kernels read it: panels of columns, `in` interleaved in groups to suit the
// multiply instruction of its type. Element (n, k) of W lies at
//
//   (n / panel) * panel * in_padded  +  (k / group) * panel * group  +  (n % panel) * group  +  k % group
//
// so one panel is read front to back while k advances. An embedding table that nothing multiplies with has panels of
// one column: the formula then says row-major. A tied one keeps its panels, and rows are gathered from them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/kernels.h"
#include "memory.h"

namespace qkv {

enum class Layout { panels, gated_panels, rows };

// Goes up whenever packed bytes mean something else than before, so that files of packed weights are packed again.
constexpr int kLayoutVersion = 1;
// What else packed bytes depend on: kernels with the same answer read each other's weights.
std::string layout_traits(DType dtype, const Kernels& kernels);

// A matrix as a checkpoint holds it: float32, float16 or bfloat16, any strides (counted in elements).
struct Source {
  enum class Type { float32, float16, bfloat16 };
  const void* data;
  Type type;
  int64_t rows, columns, row_stride, column_stride;
};

// "float32", "bfloat16", "int8", "int4"; throws Error for other names.
DType dtype_of(const std::string& name);
const char* name_of(DType dtype);

// The type of activations that a linear layer with weights of this type reads.
DType activations_of(DType weights, const Kernels& kernels);

class Weight {
 public:
  // What a weight consists of; parts that it does not have are empty.
  struct Parts {
    std::span<const std::byte> panels;  // aligned to kAlignment
    std::span<const float> scales;
    std::span<const int32_t> offsets;
    std::span<const float> bias;
  };

  // `out` rows in all; gated panels hold two halves (gate, up) of out / 2 rows each, side by side in every panel.
  Weight(int64_t out, int64_t in, DType dtype, Layout layout);

  // From parts that were packed before; `owner` keeps the panels in place, the others are copied. Throws Error when the
  // parts are not of the sizes that this weight needs. Their values are not looked at: with any of them the kernels
  // stay inside these sizes, and only the results are wrong.
  Weight(int64_t out, int64_t in, DType dtype, Layout layout, const Parts& parts, std::shared_ptr<const void> owner);

  Parts parts() const;

  // Packs the source's rows as rows `at`, `at + 1`, ... of half `half` (0 but for gated panels).
  void fill(const Source& source, int64_t at, int half, int threads);
  void fill_bias(const Source& source, int64_t at, int half);

  const Kernels& kernels() const { return *kernels_; }
  int64_t out() const { return out_; }
  int64_t in() const { return in_; }
  int64_t half_out() const { return gated() ? out_ / 2 : out_; }  // features of the layer's output
  bool gated() const { return layout_ == Layout::gated_panels; }
  Layout layout() const { return layout_; }
  DType dtype() const { return dtype_; }
  int64_t panels() const { return panels_; }
  const void* data() const { return panels_data_; }
  const float* scales() const { return scales_.empty() ? nullptr : scales_.data(); }
  const int32_t* offsets() const { return offsets_.empty() ? nullptr : offsets_.data(); }
  const float* bias() const { return bias_.empty() ? nullptr : bias_.data(); }
  int64_t nbytes() const;
  DType activations() const;  // the type of x that the kernel of these panels reads

  // y[k] += W[row, k] for all k; not for int4
  void add_row(int64_t row, float* y) const;

 private:
  struct Shape {
    int64_t out, in;
    DType dtype;
    Layout layout;
  };
  explicit Weight(const Shape& shape);  // all but the memory
  size_t panel_bytes() const;           // of all panels
  int64_t packed_column(int64_t row, int half) const;
  template <class To, int64_t Group>
  void fill_as(const Source& source, int64_t at, int half, int threads);
  void fill_quantised(const Source& source, int64_t at, int half, int threads);
  void put_int8(const float* row, int64_t column);
  void put_int4(const float* row, int64_t column);

  const Kernels* kernels_;
  int64_t out_, in_, panel_, group_, in_padded_, panels_;
  DType dtype_;
  Layout layout_;
  Memory data_;                        // the panels, or nothing when
  std::shared_ptr<const void> owner_;  // somebody else has them
  const void* panels_data_ = nullptr;
  // one per packed column
  std::vector<float> bias_;
  std::vector<float> scales_;     // of int8 and int4 columns
  std::vector<int32_t> offsets_;  // what their sums begin with, see LinearArgs
};

}  // namespace qkv
