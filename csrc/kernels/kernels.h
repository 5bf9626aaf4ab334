// What the rest of the library sees of the compute kernels: plain argument structs and one table of function
// pointers per instruction set. Kernels get raw pointers and ranges that were checked above; they allocate
// nothing, start no threads and know no Python. All float32 arrays are row-major; strides count elements.
#pragma once

#include <stdint.h>

namespace qkv {

constexpr int kTileRows = 6;                   // rows of a register tile
constexpr int kBlockRows = 24 * kTileRows;     // rows of one call of a linear kernel, at most
constexpr int64_t kUnpackedBytes = 36 << 10;   // a chunk of 16 KiB, and a step more, unpacked to twice its size
constexpr int kPageTokens = 64;                // positions of a KV page
constexpr int kBlockTokens = 4 * kPageTokens;  // attention walks keys in blocks of this many
constexpr int kMaximaBlock = 64;               // neighbouring logits whose maximum is taken first
constexpr int kAlignment = 64;                 // bytes: a cache line, an AVX-512 vector

enum class DType : uint8_t { float32, bfloat16, int8, int4 };
constexpr int kInt4Group = 32;  // neighbours of k that share a multiplier and an offset

// Elementwise functions. Those up to tanh are activations of linear steps, too.
enum class Function : uint8_t { identity, relu, gelu, gelu_tanh, quick_gelu, silu, tanh, sigmoid, erf, exp };

// y[m, n] = f(x[m, k] . w[n, k]^T + bias) (* gate) (+ residual); panels are described in docs/kernels.md.
struct LinearArgs {
  const void* x;  // [rows, k] float32; bfloat16 for a bfloat16 w when the table's `bf16_activations`; or quantised
  int64_t x_stride;
  const float* x_scales;     // of quantised rows
  const void* w;             // panels
  const float* w_scales;     // of an int8 or int4 w, one per packed column
  const int32_t* w_offsets;  // and what its sums begin with: -activation_offset * the column's sum
  void* scratch;             // kUnpackedBytes, for bfloat16 and int4
  int64_t k;                 // input features
  int64_t n;                 // output features (of one half when gated)
  const float* bias;         // one per packed column, or null
  Function activation;
  bool gated;             // each panel: half columns of gate, half of up; y = f(gate) * up
  const float* residual;  // [rows, n] or null; may be `y` itself
  int64_t residual_stride;
  float* y;  // [rows, n]
  int64_t y_stride;
  float* maxima;  // or null; [rows, panels]: the largest value that each panel gives, infinity where one is NaN; only
                  // without an activation
  int64_t maxima_stride;
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

// What a page holds keys and values as: float32; bfloat16; or int8 with one float32 scale for each position's key and
// one for its value. docs/kernels.md has the layouts.
enum class KVType : uint8_t { float32, bfloat16, int8 };

// New keys and values of one key/value head, to be written into its pages.
struct KeyValueArgs {
  const float* k;  // [positions, head_dim], k_stride apart
  int64_t k_stride;
  const float* v;  // [positions, head_dim], v_stride apart
  int64_t v_stride;
  const float* rotary;  // [positions, rotary_dim]: cosines, then sines, to turn keys by; or null
  int64_t rotary_dim;
  bool interleaved;  // as in RopeArgs
  int64_t head_dim;
  KVType type;
  uint8_t* const* pages;  // of the whole sequence
  float* scratch;         // attention_scratch(head_dim) floats
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
// token r / group, head r % group. The token at position p sees the keys at p - before ... p + after that exist.
struct AttentionArgs {
  const float* q;  // [tokens, group, head_dim], tokens q_stride apart
  int64_t q_stride;
  float* y;  // as q, tokens y_stride apart
  int64_t y_stride;
  const float* rotary;  // [tokens, rotary_dim]: cosines, then sines; or null
  int64_t rotary_dim;
  bool interleaved;  // as in RopeArgs
  int64_t group;
  int64_t head_dim;
  float scale;  // of q.k
  // A score becomes soft_cap tanh(score / soft_cap) unless soft_cap is 0; then, for the distance d = key - query,
  // - slopes[head] |d| is subtracted, unless null; when rounded_alibi, scale (t(key) - t(query)) is added instead, with
  //   t(p) = b(b(slopes[head]) b(p)) of positions p from the text's start, where b rounds to bfloat16;
  // - bias[head][reach + d] (d held between -reach and reach) is added, unless null.
  float soft_cap;
  const float* slopes;  // [group]
  bool rounded_alibi;
  const float* bias;  // [group, 2 reach + 1]
  int64_t reach;
  int64_t past;           // absolute position of the first query token
  int64_t keys;           // keys present
  int64_t before, after;  // at most kEverything
  KVType type;
  const uint8_t* const* pages;
  float* scratch;  // attention_scratch(head_dim) floats
};
constexpr int64_t kEverything = int64_t{1} << 62;  // of keys before or after a query

static constexpr int64_t int4_group_bytes(int64_t columns) { return columns * (kInt4Group / 2 + 2); }

// static: a unit built for AVX-512 must not lend its copy to the others
static inline int64_t first_seen(const AttentionArgs& args, int64_t row) {  // by a row: first_seen ... end_seen - 1
  const int64_t first = args.past + row / args.group - args.before;
  return first > 0 ? first : 0;
}
static inline int64_t end_seen(const AttentionArgs& args, int64_t row) {
  const int64_t end = args.past + row / args.group + args.after + 1;
  return end < args.keys ? end : args.keys;
}
static inline int64_t value_stride(int64_t head_dim) { return (head_dim + 15) / 16 * 16; }
static inline int64_t key_bytes(KVType type, int64_t head_dim) {  // of a page
  switch (type) {
    case KVType::float32: return head_dim * kPageTokens * 4;
    case KVType::bfloat16: return (head_dim + head_dim % 2) * kPageTokens * 2;
    case KVType::int8: return head_dim * kPageTokens;
  }
  return 0;
}
static inline int64_t page_bytes(KVType type, int64_t head_dim) {
  const int64_t values = kPageTokens * value_stride(head_dim);
  switch (type) {
    case KVType::float32: return key_bytes(type, head_dim) + values * 4;
    case KVType::bfloat16: return key_bytes(type, head_dim) + values * 2;
    case KVType::int8: return key_bytes(type, head_dim) + values + 2 * kPageTokens * 4;
  }
  return 0;
}
// What a block of keys gives to the rows of a tile: for each row the largest score and the sum of the weights
// (kMostLanes floats each), and the sum of the weighted values.
constexpr int kMostLanes = 16;
static inline int64_t partial_floats(int64_t head_dim) { return 2 * kMostLanes + kTileRows * value_stride(head_dim); }
static inline int64_t attention_scratch(int64_t head_dim) {
  const int64_t stride = value_stride(head_dim), rows = kMostLanes * (stride + kMostLanes) + stride;
  const int64_t attend = kTileRows * (stride + kBlockTokens) + 2 * partial_floats(head_dim);
  return attend > rows ? attend : rows;
}

struct Kernels {
  const char* isa;
  int panel;              // columns of a weight panel
  int lanes;              // float32 lanes of a vector
  bool bf16_activations;  // linear_bfloat16 reads x as bfloat16
  int activation_offset;  // of quantised bytes: 128 where the dot instruction wants them unsigned

  void (*linear_float32)(const LinearArgs&, int64_t row, int64_t rows, int64_t panel);
  void (*linear_bfloat16)(const LinearArgs&, int64_t row, int64_t rows, int64_t panel);
  void (*linear_int8)(const LinearArgs&, int64_t row, int64_t rows, int64_t panel);
  void (*linear_int4)(const LinearArgs&, int64_t row, int64_t rows, int64_t panel);
  // x [n] -> bytes of value / scale + activation_offset, the largest of them +-127; `padded` are written, 0 behind n
  void (*quantise)(const float* x, uint8_t* q, float* scale, int64_t n, int64_t padded);
  void (*to_bfloat16)(const float* x, uint16_t* y, int64_t n, int64_t padded);
  void (*norm)(const NormArgs&, int64_t row, int64_t rows);
  void (*attend)(const AttentionArgs&, int64_t row, int64_t rows);
  // The same for up to kTileRows rows in two steps: some blocks of keys, partial_floats for each; all of them together.
  void (*attend_blocks)(const AttentionArgs&, int64_t row, int64_t rows, int64_t block, int64_t blocks, float* parts);
  void (*merge_blocks)(const AttentionArgs&, int64_t row, int64_t rows, float* parts);
  // The softmax itself: weights of all keys, 0 for those not seen. Heads lie head_stride apart, tokens args.keys.
  void (*attention_weights)(const AttentionArgs&, int64_t row, int64_t rows, float* weights, int64_t head_stride);
  void (*rope)(const RopeArgs&, int64_t row, int64_t rows);
  // turns (when rotary) and writes `count` positions from `first` on; args.k, v and rotary begin there
  void (*store_keys_values)(const KeyValueArgs&, int64_t first, int64_t count);
  void (*softmax)(const float* x, float* y, int64_t rows, int64_t n);
  // Softmax of factor * x, a row whose largest value is `most`; factor > 0.
  void (*softmax_with_max)(const float* x, float most, float factor, float* y, int64_t n);
  double (*exp_sum)(const float* x, float most, int64_t n);                      // sum of e^(x - most)
  void (*subtract)(const float* x, float high, float low, float* y, int64_t n);  // y = (x - high) - low
  // The largest of each kMaximaBlock values of x, the last block shorter; returns that of all, or NaN if there is one.
  float (*block_maxima)(const float* x, int64_t n, float* most);
  void (*block_sums)(const float* x, int64_t n, double* sums);  // of the same blocks, each added up in order
  // How many of x, none of them NaN, are at least `bound`, and which, in order; n < 2^24.
  int64_t (*count_from)(float bound, const float* x, int64_t n);
  int64_t (*positions_from)(float bound, const float* x, int64_t n, int64_t* positions);
  void (*map)(Function, const float* x, float* y, int64_t n);
  void (*add)(const float* x, float* y, int64_t n);                       // y += x
  void (*add_scaled)(const float* x, float factor, float* y, int64_t n);  // y += factor * x

  // Ceilings of one core; see peak.h. Rounds of multiply-adds, and what they count as operations.
  double (*peak_float32)(int64_t rounds);
  double (*peak_bfloat16)(int64_t rounds);
  double (*peak_int8)(int64_t rounds);
  float (*read)(const float* x, int64_t n);  // n: a multiple of 128
};

extern const Kernels kernels_portable;
#ifdef QKV_X86
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
extern const Kernels kernels_avx512_vnni;
extern const Kernels kernels_avx512_bf16;
#endif
#ifdef QKV_ARM
extern const Kernels kernels_neon;
extern const Kernels kernels_neon_dotprod;
extern const Kernels kernels_neon_bf16;
#endif

}  // namespace qkv
