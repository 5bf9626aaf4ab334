// Kernels over whole arrays, for program steps and for qkv.ops: work is cut into tasks for threads. No result depends
// on how it was cut.
#pragma once

#include <string>
#include <vector>

#include "memory.h"
#include "weight.h"

namespace qkv {

// "identity", "relu", "gelu", "gelu_tanh", "silu", "sigmoid", "tanh", "erf", "exp"; throws Error for other names.
Function function_of(const std::string& name);
const char* name_of(Function function);

void map(const Kernels& kernels, Function function, const float* x, float* y, int64_t n, int threads);
// Softmax of each row.
void softmax(const Kernels& kernels, const float* x, float* y, int64_t rows, int64_t n, int threads);
void norm(const Kernels& kernels, const NormArgs& args, int64_t rows, int threads);

// Rows of n values as a linear layer reads them: float32, bfloat16 (padded to an even number), or int8 (padded with
// zeros to 64 bytes) with a scale for each row behind all rows.
class Activations {
 public:
  Activations(DType type, void* data, int64_t rows, int64_t n);
  static size_t bytes(DType type, int64_t rows, int64_t n);

  DType type() const { return type_; }
  int64_t n() const { return n_; }
  int64_t stride() const { return stride_; }  // values
  void* data() const { return data_; }
  float* scales() const { return scales_; }  // of int8
  // Copies a row of others of the same type and width.
  void copy(const Activations& others, int64_t from, int64_t to) const;
  // Writes float32 x [n] as row `row`.
  void put(const Kernels& kernels, const float* x, int64_t row) const;

 private:
  DType type_;
  void* data_;
  int64_t n_, stride_;
  float* scales_;
};

void convert(const Kernels& kernels, const float* x, int64_t rows, const Activations& to, int threads);

// y = f(x W^T + bias) (* gate) + residual. x: w.activations(), [rows, in]; y and residual (or null): [rows, half_out].
// `scratch`: one Memory a thread. maxima: null, or [rows, w.panels()], see LinearArgs.
void linear(const Weight& w, const Activations& x, int64_t rows, Function activation, const float* residual, float* y,
            int threads, std::vector<Memory>& scratch, float* maxima = nullptr);

void rope(const Kernels& kernels, const RopeArgs& args, int64_t rows, int threads);

}  // namespace qkv
