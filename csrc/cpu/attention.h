// Attention over a list of sequences, for program steps and for qkv.ops: keys and values are put into pages, and work
// is cut into tasks for threads. No result depends on how it was cut.
#pragma once

#include <cstdint>
#include <vector>

#include "kv_cache.h"
#include "memory.h"

namespace qkv {

// What all sequences have in common.
struct AttentionShape {
  int64_t heads, kv_heads, head_dim;
  float scale;                 // of q.k
  int64_t before, after;       // the token at position p sees keys p - before ... p + after
  KVType type;                 // of keys and values in pages
  float soft_cap = 0;          // a score s becomes soft_cap tanh(s / soft_cap), unless 0
  std::vector<float> slopes;   // [heads] or empty: - slope |key - query| is added to scores (ALiBi, Press et al. 2022)
  bool rounded_alibi = false;  // scale times bfloat16(slope position) of the key, less the query's, is added instead
  std::vector<float> bias;  // [heads, 2 reach + 1] or empty: bias of distances -reach ... reach; those beyond as these
  int64_t reach = 0;
  bool interleaved = false;  // rotary pairs are (2i, 2i + 1); otherwise (i, i + rotary_dim / 2)

  bool causal() const { return after == 0; }
  void check() const;  // throws Error
};

// Rows of q, k, v, y and rotary lie these many floats apart.
struct AttentionStrides {
  int64_t q, k, v, y, rotary;
};

struct AttentionSequence {
  const float* q;  // [queries, heads, head_dim]
  float* y;        // as q
  int64_t queries;
  int64_t past;              // position of the first query
  const float* k;            // [new_keys, kv_heads, head_dim]
  const float* v;            // as k
  int64_t new_keys;          // the last of all keys
  int64_t keys;              // with those that are in the cache
  const float* rotary;       // [new_keys, rotary_dim] or null; queries take the last rows
  const int* pages;          // of the cache, if there is one
  float* weights = nullptr;  // [heads, queries, keys]: where the weights are written, too; or null
};

// Memory of one run, kept for the next.
struct AttentionWorkspace {
  std::vector<AttentionSequence> sequences;
  std::vector<Memory> threads;      // scratch of each thread, and the pages of one head where these are not shared
  Memory pages;                     // shared pages, where there is no cache
  Memory partials;                  // what blocks of keys give, before they are merged
  std::vector<int64_t> first_page;  // [sequences + 1]: where each begins in the page list of one head
  std::vector<uint8_t*> lists;      // the pages of every head
  struct Task {
    int64_t sequence, row, rows, block, blocks;
    int64_t part;  // where in `partials` its result goes; -1: straight to y
  };
  std::vector<Task> tasks, merges;
};

// Attention of workspace.sequences. `cache` may be null: keys and values are then forgotten.
void attention(const Kernels& kernels, const AttentionShape& shape, const AttentionStrides& strides, KVCache* cache,
               int64_t layer, int threads, AttentionWorkspace& workspace);

// Query-key pairs that `queries` tokens look at, the first at position `past`, out of `keys` keys.
double attended_pairs(const AttentionShape& shape, int64_t past, int64_t queries, int64_t keys);

}  // namespace qkv
