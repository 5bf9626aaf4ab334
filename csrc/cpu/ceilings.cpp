#include "ceilings.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "error.h"
#include "threads.h"

namespace qkv {
namespace {

constexpr int64_t kChunk = int64_t{1} << 20;  // bytes of memory that a thread reads in one go
constexpr int64_t kChunkFloats = kChunk / int64_t{sizeof(float)};

// Seconds of one call, by one team that is awake: the first call wakes it, fills caches, and does not count.
template <class Call>
double seconds_of(int threads, double seconds, const Call& call) {
  using Clock = std::chrono::steady_clock;
  std::chrono::duration<double> passed{};
  int64_t calls = 0;
  with_team(threads, [&] {
    call();
    const auto start = Clock::now();
    do {
      call();
      ++calls;
      passed = Clock::now() - start;
    } while (passed.count() < seconds);
  });
  return passed.count() / static_cast<double>(calls);
}

double (*peak_of(const Kernels& kernels, DType dtype))(int64_t) {
  switch (dtype) {
    case DType::float32: return kernels.peak_float32;
    case DType::bfloat16: return kernels.peak_bfloat16;
    default: return kernels.peak_int8;  // int4 weights are multiplied as int8
  }
}

}  // namespace

double peak_rate(const Kernels& kernels, DType dtype, int threads, double seconds) {
  const auto peak = peak_of(kernels, dtype);
  constexpr int64_t kRounds = 8000;  // some ten microseconds
  const int64_t tasks = 4 * threads;
  const double operations = static_cast<double>(tasks) * peak(kRounds);
  return operations /
         seconds_of(threads, seconds, [&] { parallel_for(tasks, threads, [&](int64_t, int) { peak(kRounds); }); });
}

Stream::Stream(int64_t bytes) {
  require(bytes > 0 && bytes <= int64_t{1} << 40, "Stream: ", bytes, " bytes is not a size");
  memory_ = Memory(static_cast<size_t>((bytes + kChunk - 1) / kChunk * kChunk));
  // Until written, all pages are the same one.
  parallel_for(static_cast<int64_t>(memory_.bytes()) / kChunk, 1,
               [&](int64_t chunk, int) { std::fill_n(memory_.floats() + chunk * kChunkFloats, kChunkFloats, 1.0f); });
}

double Stream::read_rate(const Kernels& kernels, int threads, double seconds) const {
  const auto chunks = static_cast<int64_t>(memory_.bytes()) / kChunk;
  const double once = seconds_of(threads, seconds, [&] {
    parallel_for(chunks, threads,
                 [&](int64_t task, int) { kernels.read(memory_.floats() + task * kChunkFloats, kChunkFloats); });
  });
  return static_cast<double>(memory_.bytes()) / once;
}

double linear_seconds(const Weight& w, const float* x, int64_t rows, Function activation, const float* residual,
                      bool prepared, int threads, double seconds) {
  const DType type = w.activations();
  const bool converts = type != DType::float32;
  const Memory copy(converts ? Activations::bytes(type, rows, w.in()) : 0);
  const Memory y(static_cast<size_t>(rows * w.half_out()) * sizeof(float));
  const Activations in(type, converts ? copy.data() : const_cast<float*>(x), rows, w.in());
  std::vector<Memory> scratch;
  if (converts) convert(w.kernels(), x, rows, in, threads);
  return seconds_of(threads, seconds, [&] {
    if (converts && !prepared) convert(w.kernels(), x, rows, in, threads);
    linear(w, in, rows, activation, residual, y.floats(), threads, scratch);
  });
}

}  // namespace qkv
