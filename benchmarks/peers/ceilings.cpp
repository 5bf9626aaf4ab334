// The most that one core can do: multiplications in registers, and memory read in order. Nothing here is useful work.
#include <immintrin.h>

#include <cstdint>

namespace {

// Independent sums enough to hide the latency of a multiply-add (4 cycles) on two ports, few enough for 16 registers.
constexpr int sums = 12;

#ifdef __AVX512F__
constexpr int width = 64;  // bytes of a register
#else
constexpr int width = 32;
#endif
typedef float Floats __attribute__((vector_size(width)));
typedef int32_t Integers __attribute__((vector_size(width), aligned(4), may_alias));

}  // namespace

// Each returns the operations (a multiplication and an addition are two) or bytes that it went through, 0 where the
// instruction does not exist.
extern "C" {

int64_t float32(int64_t repeats) {
  Floats a = {}, x = a + 0.5f;
  Floats sum[sums] = {};
  for (int64_t i = 0; i < repeats; ++i)
#pragma GCC unroll 12
    for (int j = 0; j < sums; ++j) {
      sum[j] = sum[j] * x + x;
      asm volatile("" : "+v"(sum[j]));
    }
  return repeats * sums * (width / 4) * 2;
}

int64_t bfloat16([[maybe_unused]] int64_t repeats) {
#ifdef __AVX512BF16__
  __m512bh x = (__m512bh)_mm512_set1_epi16(0x3f00);
  __m512 sum[sums] = {};
  for (int64_t i = 0; i < repeats; ++i)
#pragma GCC unroll 12
    for (int j = 0; j < sums; ++j) {
      sum[j] = _mm512_dpbf16_ps(sum[j], x, x);
      asm volatile("" : "+v"(sum[j]));
    }
  return repeats * sums * 32 * 2;
#else
  return 0;
#endif
}

int64_t int8([[maybe_unused]] int64_t repeats) {
#ifdef __AVX512VNNI__
  __m512i x = _mm512_set1_epi8(1);
  __m512i sum[sums] = {};
  for (int64_t i = 0; i < repeats; ++i)
#pragma GCC unroll 12
    for (int j = 0; j < sums; ++j) {
      sum[j] = _mm512_dpbusd_epi32(sum[j], x, x);
      asm volatile("" : "+v"(sum[j]));
    }
  return repeats * sums * 64 * 2;
#else
  return 0;
#endif
}

int64_t read(const char* data, int64_t bytes) {
  Integers sum = {};
  for (int64_t i = 0; i + 4 * width <= bytes; i += 4 * width) {
    __builtin_prefetch(data + i + 4096);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) sum ^= *reinterpret_cast<const Integers*>(data + i + j * width);
  }
  asm volatile("" : "+v"(sum));
  return bytes;
}
}
