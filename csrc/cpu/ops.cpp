#include "ops.h"

#include <algorithm>
#include <array>
#include <vector>

#include "error.h"
#include "threads.h"

namespace qkv {
namespace {

int64_t blocks_of(int64_t n, int64_t size) { return (n + size - 1) / size; }

// Rows of n values in a task: about a microsecond's work, much more than it costs to hand out.
constexpr int64_t kTaskValues = 8192;
int64_t rows_of_task(int64_t n) { return std::max<int64_t>(1, kTaskValues / std::max<int64_t>(1, n)); }

double values(int64_t rows, int64_t n) { return static_cast<double>(rows) * static_cast<double>(n); }

// Work per value for threads_for, whose unit is about 0.01 ns of one core: rough figures of AVX-512 kernels.
constexpr double kMapWork = 20, kSoftmaxWork = 40, kNormWork = 16, kRopeWork = 16;

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
  parallel_for(blocks_of(n, kTaskValues), threads_for(kMapWork * values(1, n), threads), [&](int64_t task, int) {
    const int64_t i = task * kTaskValues;
    kernels.map(function, x + i, y + i, std::min(kTaskValues, n - i));
  });
}

void softmax(const Kernels& kernels, const float* x, float* y, int64_t rows, int64_t n, int threads) {
  const int64_t each = rows_of_task(n);
  parallel_for(blocks_of(rows, each), threads_for(kSoftmaxWork * values(rows, n), threads), [&](int64_t task, int) {
    const int64_t first = task * each;
    kernels.softmax(x + first * n, y + first * n, std::min(each, rows - first), n);
  });
}

void norm(const Kernels& kernels, const NormArgs& args, int64_t rows, int threads) {
  const int64_t each = rows_of_task(args.n);
  parallel_for(blocks_of(rows, each), threads_for(kNormWork * values(rows, args.n), threads),
               [&](int64_t task, int) { kernels.norm(args, task * each, std::min(each, rows - task * each)); });
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

void rope(const Kernels& kernels, const RopeArgs& args, int64_t rows, int threads) {
  const int64_t each = rows_of_task(args.head_dim);
  parallel_for(blocks_of(rows, each), threads_for(kRopeWork * values(rows, args.head_dim), threads),
               [&](int64_t task, int) { kernels.rope(args, task * each, std::min(each, rows - task * each)); });
}

void attention(const Kernels& kernels, const AttentionArrays& a, int threads) {
  const int64_t group = a.heads / a.kv_heads, rows = a.tokens * group, past = a.keys - a.tokens;
  const int64_t kv_width = a.kv_heads * a.head_dim, q_width = a.heads * a.head_dim;
  const double flops =
      4.0 * static_cast<double>(a.batch * a.heads * a.tokens) * static_cast<double>(a.keys * a.head_dim);
  threads = threads_for(flops, threads);

  // A task puts keys and values of one head into pages of its thread's memory, where they stay in cache. Only when
  // there are fewer heads than threads are queries cut too, and every task of a head writes the pages again.
  const int64_t problems = a.batch * a.kv_heads;
  const int64_t blocks = problems < threads ? std::max<int64_t>(1, std::min<int64_t>(threads, rows / kTileRows)) : 1;
  const int64_t pages = blocks_of(a.keys, kPageTokens), floats = page_floats(a.head_dim);
  const int64_t scratch = attention_scratch(a.head_dim), per_thread = scratch + pages * floats;
  threads = static_cast<int>(std::min<int64_t>(threads, problems * blocks));
  const Memory memory(static_cast<size_t>(threads * per_thread) * sizeof(float));
  std::vector<float*> lists(static_cast<size_t>(threads * pages));
  for (int64_t i = 0; i < threads * pages; ++i)
    lists[static_cast<size_t>(i)] = memory.floats() + i / pages * per_thread + scratch + i % pages * floats;

  parallel_for(problems * blocks, threads, [&](int64_t task, int thread) {
    const int64_t batch = task / blocks / a.kv_heads, head = task / blocks % a.kv_heads, block = task % blocks;
    float* const* list = lists.data() + thread * pages;
    for (int64_t key = 0; key < a.keys; ++key) {
      const int64_t from = (batch * a.keys + key) * kv_width + head * a.head_dim;
      kernels.store_key_value(a.k + from, a.v + from, a.rotary ? a.rotary + key * a.rotary_dim : nullptr, a.rotary_dim,
                              a.head_dim, list[key / kPageTokens], key % kPageTokens);
    }
    const int64_t from = batch * a.tokens * q_width + head * group * a.head_dim;
    const AttentionArgs args = {.q = a.q + from,
                                .q_stride = q_width,
                                .y = a.y + from,
                                .y_stride = q_width,
                                .rotary = a.rotary ? a.rotary + past * a.rotary_dim : nullptr,
                                .rotary_dim = a.rotary_dim,
                                .group = group,
                                .head_dim = a.head_dim,
                                .scale = a.scale,
                                .causal = a.causal,
                                .past = past,
                                .keys = a.keys,
                                .pages = list,
                                .scratch = memory.floats() + thread * per_thread};
    const int64_t first = block * rows / blocks, end = (block + 1) * rows / blocks;
    kernels.attend(args, first, end - first);
  });
}

}  // namespace qkv
