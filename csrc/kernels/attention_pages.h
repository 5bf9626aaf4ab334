// Pages of keys and values: how they are written, and how the register tile reads them. A page holds, for
// kPageTokens positions of one head, where dim is head_dim and stride its value_stride,
//
//   float32    keys [dim][64] (transposed: a key is a column), values [64][stride]
//   bfloat16   keys [ceil(dim / 2)][64][2], values [32][stride][2]: pairs along what the tile sums over
//   int8       keys [dim][64], values [64][stride], then float32 scales of the keys [64] and of the values [64]
#pragma once

#include <stddef.h>

#include "activations.h"
#include "kernels.h"
#include "prefetch.h"
#include "rotary.h"
#include "tile.h"

namespace qkv::QKV_ISA {
namespace {

// y = x [n], then zeros up to `padded`.
inline void copy_padded(const float* x, int64_t n, int64_t padded, float* y) {
  const int64_t whole = n / kLanes * kLanes;
  for (int64_t i = 0; i < whole; i += kLanes) F32::load(x + i).store(y + i);
  for (int64_t i = whole; i < padded; ++i) y[i] = i < n ? x[i] : 0;
}

struct Float32Page {
  using Format = Float32Format;
  static constexpr KVType kType = KVType::float32;
  static constexpr bool kScaled = false;

  // A key, padded with zeros, becomes words of 32 bits; up to kLanes keys are transposed together.
  static int64_t words(int64_t dim) { return dim; }
  static void key_words(const float* key, int64_t dim, float* words, float*) { copy_padded(key, dim, dim, words); }
  static void put_word(uint8_t* keys, int64_t at, float word) { ((float*)keys)[at] = word; }
  static void put_words(uint8_t* keys, int64_t at, const float* words, int64_t n) {
    if (n == kLanes) F32::load(words).store((float*)keys + at);
    else F32::load(words).store((float*)keys + at, n);
  }
  static void put_values(const KeyValueArgs& args, const float* v, int64_t n, int64_t slot, uint8_t* values, float*) {
    const int64_t stride = value_stride(args.head_dim);
    for (int64_t i = 0; i < n; ++i)
      copy_padded(v + i * args.v_stride, args.head_dim, stride, (float*)values + (slot + i) * stride);
  }
};

inline uint32_t bits_of(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
}

// Rounded to nearest even; NaN stays NaN.
inline uint32_t bfloat16_bits(float x) {
  const uint32_t bits = bits_of(x);
  return (bits & 0x7fffffff) > 0x7f800000 ? bits >> 16 | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

struct Bf16Page {
  using Format = Bf16Format;
  static constexpr KVType kType = KVType::bfloat16;
  static constexpr bool kScaled = false;

  static int64_t words(int64_t dim) { return (dim + 1) / 2; }
  static void key_words(const float* __restrict key, int64_t dim, float* __restrict words, float*) {
    if constexpr (kDotBf16) return to_bfloat16<F32>(key, (uint16_t*)words, dim, 2 * Bf16Page::words(dim));
    for (int64_t i = 0; i < (dim + 1) / 2; ++i) {
      const uint32_t pair = bfloat16_bits(key[2 * i]) | bfloat16_bits(key[2 * i + 1]) << 16;
      __builtin_memcpy(words + i, &pair, sizeof pair);
    }
  }
  static void put_word(uint8_t* keys, int64_t at, float word) { Float32Page::put_word(keys, at, word); }
  static void put_words(uint8_t* keys, int64_t at, const float* words, int64_t n) {
    Float32Page::put_words(keys, at, words, n);
  }
  static void put_values(const KeyValueArgs& args, const float* v, int64_t n, int64_t slot, uint8_t* values, float*) {
    const int64_t dim = args.head_dim, stride = value_stride(dim);
    for (int64_t i = 0; i < n; ++i, v += args.v_stride) {
      uint16_t* pairs = (uint16_t*)values + ((slot + i) / 2 * stride) * 2;
      if ((slot + i) % 2 == 0 && i + 1 < n) {
        put_pair<F32>(v, v + args.v_stride, dim, pairs);
        ++i, v += args.v_stride;
      } else {
        for (int64_t c = 0; c < dim; ++c) pairs[2 * c + (slot + i) % 2] = (uint16_t)bfloat16_bits(v[c]);
      }
    }
  }
  template <class V>
  static void put_pair(const float* even, const float* odd, int64_t dim, uint16_t* pairs) {
    int64_t c = 0;
    if constexpr (kDotBf16)
      for (; c + kLanes <= dim; c += kLanes) V::store_bf16_pairs(V::load(even + c), V::load(odd + c), pairs + 2 * c);
    for (; c < dim; ++c) {
      const uint32_t pair = bfloat16_bits(even[c]) | bfloat16_bits(odd[c]) << 16;
      __builtin_memcpy(pairs + 2 * c, &pair, sizeof pair);
    }
  }
};

// int8 B with a scale for each column or row, which is the caller's business: [k][columns], widened in registers.
struct WidenedInt8Format {
  using A = float;
  using B = int8_t;
  static constexpr int kGroup = 1;

  template <int Rows, int Vectors>
  static inline void step(F32 (&c)[Rows][Vectors], const A* a, int64_t a_stride, const B* b) {
    F32 w[Vectors];
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) w[v] = F32::widen(b + v * kLanes);
#pragma GCC unroll 6
    for (int r = 0; r < Rows; ++r) {
      const F32 x = F32::set(a[r * a_stride]);
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) c[r][v] = fma(x, w[v], c[r][v]);
    }
  }
};

struct Int8Page {
  using Format = WidenedInt8Format;
  static constexpr KVType kType = KVType::int8;
  static constexpr bool kScaled = true;

  static int64_t words(int64_t dim) { return dim; }
  static void key_words(const float* key, int64_t dim, float* words, float* scale) {
    *scale = quantise(key, value_stride(dim), words);
  }
  static void put_word(uint8_t* keys, int64_t at, float word) { ((int8_t*)keys)[at] = (int8_t)(int32_t)word; }
  static void put_words(uint8_t* keys, int64_t at, const float* words, int64_t n) {
    int8_t* y = (int8_t*)keys + at;
    if (n == kLanes)
      for (int i = 0; i < kLanes; ++i) y[i] = (int8_t)(int32_t)words[i];
    else
      for (int64_t i = 0; i < n; ++i) y[i] = (int8_t)(int32_t)words[i];
  }
  static void put_values(const KeyValueArgs& args, const float* v, int64_t n, int64_t slot, uint8_t* values,
                         float* scales) {
    const int64_t stride = value_stride(args.head_dim);
    float* row = args.scratch;
    for (int64_t i = 0; i < n; ++i) {
      copy_padded(v + i * args.v_stride, args.head_dim, stride, row);
      scales[slot + i] = quantise(row, stride, row);
      int8_t* y = (int8_t*)values + (slot + i) * stride;
      for (int64_t c = 0; c < stride; ++c) y[c] = (int8_t)(int32_t)row[c];
    }
  }
  // x = scale y with y integral in -127 ... 127; n is a multiple of kLanes. An infinity or a NaN makes the scale NaN.
  static float quantise(const float* x, int64_t n, float* y) {
    F32 top = F32::set(0), poison = top;
    for (int64_t i = 0; i < n; i += kLanes) {
      const F32 part = F32::load(x + i);
      top = max(top, abs(part));
      poison = fma(part, F32::set(0), poison);
    }
    const float most = reduce_max(top), nothing = reduce_add(poison);
    const bool usable = nothing == 0 && most > 1e-36f;  // 127 / most is finite
    const F32 factor = F32::set(usable ? 127.0f / most : 0.0f);
    for (int64_t i = 0; i < n; i += kLanes) (usable ? round(F32::load(x + i) * factor) : F32::set(0)).store(y + i);
    return usable ? most / 127.0f : nothing;
  }
};

// Keys go into their page kLanes at a time: turned and rounded side by side, then transposed in registers.
template <class Page>
inline void store_pages(const KeyValueArgs& args, int64_t first, int64_t count) {
  const int64_t dim = args.head_dim, stride = value_stride(dim), words = Page::words(dim);
  const int64_t ahead = count < kLanes ? count : kLanes;
  const auto turn = rotation(args.interleaved);
  float* rows = args.scratch;             // [kLanes][stride] words
  float* block = rows + kLanes * stride;  // [kLanes][kLanes]
  float* key = block + kLanes * kLanes;   // [stride]
  for (int64_t done = 0, n; done < count; done += n) {
    const int64_t slot = (first + done) % kPageTokens, free = kLanes - slot % kLanes;
    n = count - done < free ? count - done : free;
    uint8_t* keys = args.pages[(first + done) / kPageTokens];
    uint8_t* values = keys + key_bytes(Page::kType, dim);
    float* scales = (float*)(values + kPageTokens * stride);  // where the type has them
    for (int64_t i = 0; i < n; ++i) {
      const float* rotary = args.rotary ? args.rotary + (done + i) * args.rotary_dim : nullptr;
      const float *k = args.k + (done + i) * args.k_stride, *v = args.v + (done + i) * args.v_stride;
      ask_for_row_ahead(k, done + i, count, ahead, args.k_stride, dim, dim);
      ask_for_row_ahead(v, done + i, count, ahead, args.v_stride, dim, dim);
      turn(k, rotary, args.rotary_dim, dim, 1.0f, key);
      for (int64_t c = dim; c < stride; ++c) key[c] = 0;
      Page::key_words(key, dim, rows + i * stride, scales + slot + i);
    }
    if (n == 1)
      for (int64_t word = 0; word < words; ++word) Page::put_word(keys, word * kPageTokens + slot, rows[word]);
    for (int64_t word = 0; n > 1 && word < words; word += kLanes) {
      transpose(rows + word, stride, block, kLanes);
      for (int64_t i = 0; i < kLanes && word + i < words; ++i)
        Page::put_words(keys, (word + i) * kPageTokens + slot, block + i * kLanes, n);
    }
    Page::put_values(args, args.v + done * args.v_stride, n, slot, values, scales + kPageTokens);
  }
}

}  // namespace
}  // namespace qkv::QKV_ISA
