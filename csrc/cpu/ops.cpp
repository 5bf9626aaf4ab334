#include "ops.h"

#include <algorithm>
#include <array>

#include "error.h"
#include "threads.h"

namespace qkv {
namespace {

int64_t blocks_of(int64_t n, int64_t size) { return (n + size - 1) / size; }

constexpr std::array kFunctionNames = {"identity", "relu", "gelu", "gelu_tanh", "silu",
                                       "sigmoid",  "tanh", "erf",  "exp"};

}  // namespace

Function function_of(const std::string& name) {
  const auto found = std::find(kFunctionNames.begin(), kFunctionNames.end(), name);
  require(found != kFunctionNames.end(), "no function '", name, "'");
  return static_cast<Function>(found - kFunctionNames.begin());
}

const char* name_of(Function function) { return kFunctionNames[static_cast<size_t>(function)]; }

void map(const Kernels& kernels, Function function, const float* x, float* y, int64_t n, int threads) {
  constexpr int64_t kBlock = 4096;
  parallel_for(blocks_of(n, kBlock), threads_for(10.0 * static_cast<double>(n), threads), [&](int64_t task, int) {
    const int64_t i = task * kBlock;
    kernels.map(function, x + i, y + i, std::min(kBlock, n - i));
  });
}

void softmax(const Kernels& kernels, const float* x, float* y, int64_t rows, int64_t n, int threads) {
  constexpr int64_t kRows = 8;
  const double values = static_cast<double>(rows * n);
  parallel_for(blocks_of(rows, kRows), threads_for(10 * values, threads), [&](int64_t task, int) {
    for (int64_t r = task * kRows; r < std::min(rows, (task + 1) * kRows); ++r)
      kernels.softmax(x + r * n, y + r * n, n);
  });
}

void norm(const Kernels& kernels, const NormArgs& args, int64_t rows, int threads) {
  constexpr int64_t kRows = 8;
  const double values = static_cast<double>(rows * args.n);
  parallel_for(blocks_of(rows, kRows), threads_for(4 * values, threads),
               [&](int64_t task, int) { kernels.norm(args, task * kRows, std::min(kRows, rows - task * kRows)); });
}

void linear(const Weight& w, const float* x, int64_t rows, Function activation, const float* residual, float* y,
            int threads, Memory& halves) {
  const Kernels& kernels = w.kernels();
  const int64_t k = w.in(), n = w.half_out();
  LinearArgs args = {.x = x,
                     .x_stride = k,
                     .w = w.data(),
                     .k = k,
                     .n = n,
                     .bias = w.bias(),
                     .activation = activation,
                     .gated = w.gated(),
                     .residual = residual,
                     .residual_stride = n,
                     .y = y,
                     .y_stride = n};
  if (w.dtype() == DType::bfloat16 && kernels.bf16_activations) {
    const int64_t padded = k + k % 2;
    halves.reserve(static_cast<size_t>(rows * padded) * sizeof(uint16_t));
    auto* to = static_cast<uint16_t*>(halves.data());
    constexpr int64_t kRows = 16;
    parallel_for(blocks_of(rows, kRows), threads_for(static_cast<double>(rows * k), threads), [&](int64_t task, int) {
      for (int64_t r = task * kRows; r < std::min(rows, (task + 1) * kRows); ++r)
        kernels.to_bfloat16(x + r * k, to + r * padded, k, padded);
    });
    args.x = to;
    args.x_stride = padded;
  }

  // A task is one panel against a block of rows. Tasks of one panel follow each other, so that it is read from
  // memory once; blocks of few rows would read it from the L2 cache too often.
  constexpr int64_t kRows = 16 * kTileRows;
  const int64_t blocks = std::max<int64_t>(1, rows / kRows);
  const auto kernel = w.dtype() == DType::float32 ? kernels.linear_float32 : kernels.linear_bfloat16;
  const double flops = 2.0 * static_cast<double>(rows) * static_cast<double>(w.out() * k);
  parallel_for(blocks * w.panels(), threads_for(flops, threads), [&](int64_t task, int) {
    const int64_t block = task % blocks, first = block * rows / blocks, end = (block + 1) * rows / blocks;
    kernel(args, first, end - first, task / blocks);
  });
}

void rope(const Kernels& kernels, const float* x, const float* rotary, float* y, int64_t sequences, int64_t tokens,
          int64_t head_dim, int64_t rotary_dim, int threads) {
  constexpr int64_t kRows = 64;
  const int64_t rows = sequences * tokens;
  const double operations = 4.0 * static_cast<double>(rows * head_dim);
  parallel_for(blocks_of(rows, kRows), threads_for(operations, threads), [&](int64_t task, int) {
    for (int64_t r = task * kRows; r < std::min(rows, (task + 1) * kRows); ++r)
      kernels.rotate(x + r * head_dim, rotary + r % tokens * rotary_dim, rotary_dim, head_dim, 1.0f, y + r * head_dim);
  });
}

}  // namespace qkv
