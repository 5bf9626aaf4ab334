#include "ops.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

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
constexpr double kMapWork = 20, kSoftmaxWork = 40, kNormWork = 16, kRopeWork = 16, kConvertWork = 12;

constexpr std::array kFunctionNames = {"identity", "relu", "gelu",    "gelu_tanh", "quick_gelu",
                                       "silu",     "tanh", "sigmoid", "erf",       "exp"};

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

namespace {

int64_t stride_of(DType type, int64_t n) {
  switch (type) {
    case DType::bfloat16: return blocks_of(n, 2) * 2;
    case DType::int8: return blocks_of(n, kAlignment) * kAlignment;
    default: return n;
  }
}

size_t row_bytes(DType type, int64_t n) {  // without an int8 row's scale
  const size_t size = type == DType::float32 ? 4 : type == DType::bfloat16 ? 2 : 1;
  return static_cast<size_t>(stride_of(type, n)) * size;
}

}  // namespace

Activations::Activations(DType type, void* data, int64_t rows, int64_t n)
    : type_(type), data_(data), n_(n), stride_(stride_of(type, n)), scales_(nullptr) {
  if (type == DType::int8) scales_ = reinterpret_cast<float*>(static_cast<uint8_t*>(data) + rows * stride_);
}

size_t Activations::bytes(DType type, int64_t rows, int64_t n) {
  const size_t scales = type == DType::int8 ? sizeof(float) : 0;
  return static_cast<size_t>(rows) * (row_bytes(type, n) + scales);
}

void Activations::copy(const Activations& others, int64_t from, int64_t to) const {
  const auto bytes = static_cast<int64_t>(row_bytes(type_, n_));
  std::memcpy(static_cast<uint8_t*>(data_) + to * bytes, static_cast<const uint8_t*>(others.data_) + from * bytes,
              static_cast<size_t>(bytes));
  if (scales_) scales_[to] = others.scales_[from];
}

void Activations::put(const Kernels& kernels, const float* x, int64_t row) const {
  if (type_ == DType::int8)
    kernels.quantise(x, static_cast<uint8_t*>(data_) + row * stride_, scales_ + row, n_, stride_);
  else kernels.to_bfloat16(x, static_cast<uint16_t*>(data_) + row * stride_, n_, stride_);
}

void convert(const Kernels& kernels, const float* x, int64_t rows, const Activations& to, int threads) {
  constexpr int64_t kRows = 4;
  parallel_for(blocks_of(rows, kRows), threads_for(kConvertWork * values(rows, to.n()), threads),
               [&](int64_t task, int) {
                 for (int64_t r = task * kRows; r < std::min(rows, (task + 1) * kRows); ++r)
                   to.put(kernels, x + r * to.n(), r);
               });
}

// From so many rows a thread on, reading all weights for each thread costs less than rows from other threads' caches.
constexpr int64_t kOwnRows = 64;

void linear(const Weight& w, const Activations& x, int64_t rows, Function activation, const float* residual, float* y,
            int threads, std::vector<Memory>& scratch, float* maxima) {
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
                           .y_stride = n,
                           .maxima = maxima,
                           .maxima_stride = w.panels()};
  const bool unpacks = (w.dtype() == DType::int4 || w.dtype() == DType::bfloat16) && rows > kTileRows;
  if (unpacks) {
    scratch.resize(std::max(scratch.size(), static_cast<size_t>(threads)));
    for (Memory& memory : scratch) memory.reserve(kUnpackedBytes);
  }

  // A task is one panel against a block of rows. Of many rows each thread takes its own, those that it wrote in the
  // step before and finds in its own cache. Of fewer, tasks of one panel follow each other, so that it is read from
  // memory once; blocks of few rows would read it from the L2 cache too often, but three tasks for each thread go
  // first.
  const bool own_rows = threads > 1 && rows >= kOwnRows * threads;
  const int64_t wished = std::min(rows / kTileRows, blocks_of(3 * threads, w.panels()));
  const int64_t needed = blocks_of(rows, kBlockRows);
  const int64_t blocks = own_rows ? blocks_of(needed, threads) * threads : std::max(needed, wished);
  const auto kernel = linear_kernel(kernels, w.dtype());
  const double flops = 2.0 * static_cast<double>(rows) * static_cast<double>(w.out() * k);
  parallel_for(blocks * w.panels(), threads_for(flops, threads), [&](int64_t task, int thread) {
    const auto [block, panel] =
        own_rows ? std::pair(task / w.panels(), task % w.panels()) : std::pair(task % blocks, task / blocks);
    const int64_t first = block * rows / blocks, end = (block + 1) * rows / blocks;
    LinearArgs own = args;
    if (unpacks) own.scratch = scratch[static_cast<size_t>(thread)].data();
    kernel(own, first, end - first, panel);
  });
}

void rope(const Kernels& kernels, const RopeArgs& args, int64_t rows, int threads) {
  const int64_t each = rows_of_task(args.head_dim);
  parallel_for(blocks_of(rows, each), threads_for(kRopeWork * values(rows, args.head_dim), threads),
               [&](int64_t task, int) { kernels.rope(args, task * each, std::min(each, rows - task * each)); });
}

}  // namespace qkv
