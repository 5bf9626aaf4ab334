#include "ops.h"

#include <algorithm>
#include <array>
#include <vector>

#include "error.h"
#include "threads.h"

namespace qkv {
namespace {

int64_t blocks_of(int64_t n, int64_t size) { return (n + size - 1) / size; }

constexpr std::array kFunctionNames = {"identity", "relu", "gelu", "gelu_tanh", "silu",
                                       "sigmoid",  "tanh", "erf",  "exp"};

auto linear_kernel(const Kernels& kernels, DType dtype) {
  switch (dtype) {
    case DType::bfloat16: return kernels.linear_bfloat16;
    case DType::int8: return kernels.linear_int8;
    case DType::int4: return kernels.linear_int4;
    default: return kernels.linear_float32;
  }
}

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

namespace {

int64_t stride_of(DType type, int64_t n) {
  switch (type) {
    case DType::bfloat16: return blocks_of(n, 2) * 2;
    case DType::int8: return blocks_of(n, kAlignment) * kAlignment;
    default: return n;
  }
}

}  // namespace

Activations::Activations(DType type, void* data, int64_t rows, int64_t n)
    : type_(type), data_(data), n_(n), stride_(stride_of(type, n)), scales_(nullptr) {
  if (type == DType::int8) scales_ = reinterpret_cast<float*>(static_cast<uint8_t*>(data) + rows * stride_);
}

size_t Activations::bytes(DType type, int64_t rows, int64_t n) {
  const int64_t row = stride_of(type, n);
  if (type == DType::int8) return static_cast<size_t>(rows * (row + int64_t{sizeof(float)}));
  return static_cast<size_t>(rows * row) * (type == DType::bfloat16 ? 2 : 4);
}

void Activations::put(const Kernels& kernels, const float* x, int64_t row) const {
  if (type_ == DType::int8)
    kernels.quantise(x, static_cast<uint8_t*>(data_) + row * stride_, scales_ + row, n_, stride_);
  else kernels.to_bfloat16(x, static_cast<uint16_t*>(data_) + row * stride_, n_, stride_);
}

void convert(const Kernels& kernels, const float* x, int64_t rows, const Activations& to, int threads) {
  constexpr int64_t kRows = 8;
  parallel_for(blocks_of(rows, kRows), threads_for(static_cast<double>(rows * to.n()), threads),
               [&](int64_t task, int) {
                 for (int64_t r = task * kRows; r < std::min(rows, (task + 1) * kRows); ++r)
                   to.put(kernels, x + r * to.n(), r);
               });
}

void linear(const Weight& w, const Activations& x, int64_t rows, Function activation, const float* residual, float* y,
            int threads, std::vector<Memory>& scratch) {
  const Kernels& kernels = w.kernels();
  const int64_t k = w.in(), n = w.half_out();
  const LinearArgs args = {.x = x.data(),
                           .x_stride = x.stride(),
                           .x_scales = x.scales(),
                           .w = w.data(),
                           .w_scales = w.scales(),
                           .w_offsets = w.offsets(),
                           .scratch = nullptr,
                           .k = k,
                           .n = n,
                           .bias = w.bias(),
                           .activation = activation,
                           .gated = w.gated(),
                           .residual = residual,
                           .residual_stride = n,
                           .y = y,
                           .y_stride = n};
  const bool unpacks = w.dtype() == DType::int4 && rows > kTileRows;
  if (unpacks) {
    scratch.resize(std::max(scratch.size(), static_cast<size_t>(threads)));
    for (Memory& memory : scratch) memory.reserve(static_cast<size_t>(w.in_padded() * kernels.panel));
  }

  // A task is one panel against a block of rows. Tasks of one panel follow each other, so that it is read from
  // memory once; blocks of few rows would read it from the L2 cache too often, but three tasks for each thread go
  // first.
  constexpr int64_t kRows = 16 * kTileRows;
  const int64_t wished = std::min(rows / kTileRows, blocks_of(3 * threads, w.panels()));
  const int64_t blocks = std::max({int64_t{1}, rows / kRows, wished});
  const auto kernel = linear_kernel(kernels, w.dtype());
  const double flops = 2.0 * static_cast<double>(rows) * static_cast<double>(w.out() * k);
  parallel_for(blocks * w.panels(), threads_for(flops, threads), [&](int64_t task, int thread) {
    const int64_t block = task % blocks, first = block * rows / blocks, end = (block + 1) * rows / blocks;
    LinearArgs own = args;
    if (unpacks) own.scratch = static_cast<int8_t*>(scratch[static_cast<size_t>(thread)].data());
    kernel(own, first, end - first, task / blocks);
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
