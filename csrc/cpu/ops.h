// Kernels over whole arrays, for program steps and for qkv.ops: work is cut into tasks for threads. No result depends
// on how it was cut.
#pragma once

#include <string>

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

// y = f(x W^T + bias) (* gate) + residual. x: [rows, in]; y and residual (or null): [rows, half_out]. `halves` holds
// the bfloat16 copy of x where the instruction set wants one.
void linear(const Weight& w, const float* x, int64_t rows, Function activation, const float* residual, float* y,
            int threads, Memory& halves);

void rope(const Kernels& kernels, const RopeArgs& args, int64_t rows, int threads);

struct AttentionArrays {
  const float* q;       // [batch, tokens, heads, head_dim]
  const float* k;       // [batch, keys, kv_heads, head_dim]
  const float* v;       // as k
  const float* rotary;  // [keys, rotary_dim] or null; queries take the last rows
  float* y;             // as q
  int64_t batch, tokens, keys, heads, kv_heads, head_dim, rotary_dim;
  float scale;
  bool causal;  // queries are the last positions
};
void attention(const Kernels& kernels, const AttentionArrays& arrays, int threads);

}  // namespace qkv
