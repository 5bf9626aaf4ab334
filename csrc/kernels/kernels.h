// What the rest of the library sees of the compute kernels: plain argument structs and one table of function
// pointers per instruction set. Kernels get raw pointers and ranges that were checked above; they allocate
// nothing, start no threads and know no Python. All float32 arrays are row-major; strides count elements.
#pragma once

#include <stdint.h>

namespace qkv {

constexpr int kTileRows = 6;     // rows of a register tile
constexpr int kPageTokens = 64;  // positions of a KV page; attention walks keys in blocks of this many
constexpr int kAlignment = 64;   // bytes: a cache line, an AVX-512 vector

enum class DType : uint8_t { float32, bfloat16 };

// Elementwise functions. The first five are activations of linear steps; the others serve ops and tests.
enum class Function : uint8_t { identity, relu, gelu, gelu_tanh, silu, sigmoid, tanh, erf, exp };

// y[m, n] = f(x[m, k] . w[n, k]^T + bias) (* gate) (+ residual); panels are described in docs/kernels.md.
struct LinearArgs {
  const void* x;  // [rows, k] float32, or bfloat16 when the table's `bf16_activations` and w is bfloat16
  int64_t x_stride;
  const void* w;      // panels
  int64_t k;          // input features
  int64_t n;          // output features (of one half when gated)
  const float* bias;  // one per packed column, or null
  Function activation;
  bool gated;             // each panel: half columns of gate, half of up; y = f(gate) * up
  const float* residual;  // [rows, n] or null; may be `y` itself
  int64_t residual_stride;
  float* y;  // [rows, n]
  int64_t y_stride;
};

struct NormArgs {
  const float* x;  // [rows, n]
  int64_t x_stride;
  const float* weight;  // [n]
  const float* bias;    // [n] or null
  int64_t n;
  float eps;
  bool centred;  // LayerNorm; otherwise RMSNorm
  float* y;
  int64_t y_stride;
};

// y[r] = x[r] turned by the angles of token r % tokens
struct RopeArgs {
  const float* x;       // [rows, head_dim]
  const float* rotary;  // [tokens, rotary_dim]: cosines, then sines
  int64_t tokens;
  int64_t rotary_dim;  // leading values of a head that turn
  int64_t head_dim;
  bool interleaved;  // pairs (2i, 2i + 1); otherwise (i, i + rotary_dim / 2)
  float* y;
};

// Attention of the query heads that share one key/value head, over one sequence. Row r of the problem is query
// token r / group, head r % group. A page holds keys transposed [head_dim][kPageTokens], then values
// [kPageTokens][value_stride(head_dim)].
struct AttentionArgs {
  const float* q;  // [tokens, group, head_dim], tokens q_stride apart
  int64_t q_stride;
  float* y;  // as q, tokens y_stride apart
  int64_t y_stride;
  const float* rotary;  // [tokens, rotary_dim]: cosines, then sines; or null
  int64_t rotary_dim;
  int64_t group;
  int64_t head_dim;
  float scale;  // of q.k
  bool causal;
  int64_t past;  // absolute position of the first query token
  int64_t keys;  // keys present
  const float* const* pages;
  float* scratch;  // attention_scratch(head_dim) floats
};

// static: a unit built for AVX-512 must not lend its copy to the others
static inline int64_t value_stride(int64_t head_dim) { return (head_dim + 15) / 16 * 16; }
static inline int64_t page_floats(int64_t head_dim) { return kPageTokens * (head_dim + value_stride(head_dim)); }
static inline int64_t attention_scratch(int64_t head_dim) {
  return kTileRows * (2 * value_stride(head_dim) + kPageTokens);
}

struct Kernels {
  const char* isa;
  int panel;              // columns of a weight panel
  int lanes;              // float32 lanes of a vector
  bool bf16_activations;  // linear_bfloat16 reads x as bfloat16

  void (*linear_float32)(const LinearArgs&, int64_t row, int64_t rows, int64_t panel);
  void (*linear_bfloat16)(const LinearArgs&, int64_t row, int64_t rows, int64_t panel);
  void (*to_bfloat16)(const float* x, uint16_t* y, int64_t n, int64_t padded);
  void (*norm)(const NormArgs&, int64_t row, int64_t rows);
  void (*attend)(const AttentionArgs&, int64_t row, int64_t rows);
  void (*rope)(const RopeArgs&, int64_t row, int64_t rows);
  // rotates (when rotary) and writes one token's key and value into slot of a page
  void (*store_key_value)(const float* key, const float* value, const float* rotary, int64_t rotary_dim,
                          int64_t head_dim, float* page, int64_t slot);
  void (*softmax)(const float* x, float* y, int64_t rows, int64_t n);
  void (*map)(Function, const float* x, float* y, int64_t n);
  void (*add)(const float* x, float* y, int64_t n);  // y += x
};

extern const Kernels kernels_portable;
#ifdef QKV_X86
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
extern const Kernels kernels_avx512_bf16;
#endif

}  // namespace qkv
