// What this machine gives at most, measured: the arithmetic of all cores with operands in L1, and reading memory. And
// linear layers timed in the same way, so that their speed can be stated as a share. For `qkv bench`.
#pragma once

#include "memory.h"
#include "ops.h"
#include "weight.h"

namespace qkv {

// Operations a second of `threads` cores on products of this type (a multiply-add counts as two), over about `seconds`.
double peak_rate(const Kernels& kernels, DType dtype, int threads, double seconds);

// A block of memory to read.
class Stream {
 public:
  explicit Stream(int64_t bytes);

  // Bytes read a second, the whole block over and over for at least `seconds`.
  double read_rate(const Kernels& kernels, int threads, double seconds) const;

 private:
  Memory memory_;
};

// Seconds of one linear layer, repeated for at least `seconds`. With `prepared` the input is converted beforehand and
// not in that time: what remains is the kernel itself.
double linear_seconds(const Weight& w, const float* x, int64_t rows, Function activation, const float* residual,
                      bool prepared, int threads, double seconds);

}  // namespace qkv
