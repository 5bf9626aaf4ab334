// softmax(scale q.k) v (Vaswani et al. 2017) over keys and values that lie in pages, in blocks of kBlockTokens keys.
// A block gives its own largest score m, sum of weights l and weighted values o; blocks are merged in order, as in
// flash-decoding (Dao et al. 2023), by the online softmax of Milakov and Gimelshein (2018). Blocks are aligned to
// absolute position, and what a block gives depends on no other: so a token's bits depend neither on how the prompt
// was cut, nor on what was cached, nor on which thread took which blocks. Keys that a row does not see get the weight
// 0 and change nothing, exactly; their values are left alone, as 0 would not hide a NaN.
#pragma once

#include "attention_block.h"
#include "attention_pages.h"
#include "kernels.h"

namespace qkv::QKV_ISA {
namespace {

// sum = sum and part, for the rows that see keys of this block.
inline void merge(const AttentionArgs& args, const QueryTile& tile, int64_t block, const Partial& part,
                  const Partial& sum) {
  alignas(kAlignment) float old_factor[kMostLanes], new_factor[kMostLanes];
  for (int i = 0; i < kMostLanes; i += kLanes) {
    const F32 m0 = F32::load(sum.m + i), m1 = F32::load(part.m + i), m = max(m0, m1), base = softmax_base(m);
    const F32 f0 = exp2(m0 - base), f1 = exp2(m1 - base);
    f0.store(old_factor + i);
    f1.store(new_factor + i);
    m.store(sum.m + i);
    fma(F32::load(part.l + i), f1, F32::load(sum.l + i) * f0).store(sum.l + i);
  }
  const int64_t stride = value_stride(args.head_dim);
  for (int64_t r = 0; r < tile.rows; ++r) {
    if (tile.seen_in(block, r).empty()) continue;
    const bool first = tile.seen[r].first / kBlockTokens == block;
    const F32 f0 = F32::set(old_factor[r]), f1 = F32::set(new_factor[r]);
    for (int64_t i = r * stride; i < (r + 1) * stride; i += kLanes) {
      const F32 o1 = F32::load(part.o + i);
      (first ? o1 : fma(o1, f1, F32::load(sum.o + i) * f0)).store(sum.o + i);
    }
  }
}

inline void write_rows(const AttentionArgs& args, const QueryTile& tile, const Partial& sum) {
  const int64_t dim = args.head_dim, whole = dim / kLanes * kLanes;
  for (int64_t r = 0; r < tile.rows; ++r) {
    const int64_t token = (tile.row + r) / args.group, head = (tile.row + r) % args.group;
    const float* o = sum.o + r * value_stride(dim);
    float* y = args.y + token * args.y_stride + head * dim;
    const F32 factor = F32::set(1.0f / sum.l[r]);
    for (int64_t i = 0; i < whole; i += kLanes) (F32::load(o + i) * factor).store(y + i);
    if (whole < dim) (F32::load(o + whole) * factor).store(y + whole, dim - whole);
  }
}

// The scratch memory of a thread.
struct AttentionScratch {
  float *q, *scores;
  Partial part, sum;

  explicit AttentionScratch(const AttentionArgs& args)
      : q(args.scratch),
        scores(q + kTileRows * value_stride(args.head_dim)),
        part(scores + kTileRows * kBlockTokens),
        sum(scores + kTileRows * kBlockTokens + partial_floats(args.head_dim)) {}
};

template <class Page>
void attend_pages(const AttentionArgs& args, int64_t row, int64_t rows) {
  const AttentionScratch scratch(args);
  for (int64_t n; rows > 0; row += n, rows -= n) {
    n = next_rows(rows);
    const QueryTile tile = query_tile(args, row, n);
    turn_queries<Page>(args, tile, scratch.q);
    int64_t block = tile.first_block();
    if (tile.starts_in_one_block()) attend_block<Page>(args, tile, block++, scratch.q, scratch.scores, scratch.sum);
    else scratch.sum.clear();
    for (; block < tile.end_block(); ++block) {
      attend_block<Page>(args, tile, block, scratch.q, scratch.scores, scratch.part);
      merge(args, tile, block, scratch.part, scratch.sum);
    }
    write_rows(args, tile, scratch.sum);
  }
}

template <class Page>
void attend_some_blocks(const AttentionArgs& args, int64_t row, int64_t rows, int64_t block, int64_t blocks,
                        float* parts) {
  const AttentionScratch scratch(args);
  const QueryTile tile = query_tile(args, row, rows);
  turn_queries<Page>(args, tile, scratch.q);
  for (int64_t i = 0; i < blocks; ++i)
    attend_block<Page>(args, tile, block + i, scratch.q, scratch.scores,
                       Partial(parts + i * partial_floats(args.head_dim)));
}

void attend(const AttentionArgs& args, int64_t row, int64_t rows) {
  switch (args.type) {
    case KVType::float32: return attend_pages<Float32Page>(args, row, rows);
    case KVType::bfloat16: return attend_pages<Bf16Page>(args, row, rows);
    case KVType::int8: return attend_pages<Int8Page>(args, row, rows);
  }
}

void attend_blocks(const AttentionArgs& args, int64_t row, int64_t rows, int64_t block, int64_t blocks, float* parts) {
  switch (args.type) {
    case KVType::float32: return attend_some_blocks<Float32Page>(args, row, rows, block, blocks, parts);
    case KVType::bfloat16: return attend_some_blocks<Bf16Page>(args, row, rows, block, blocks, parts);
    case KVType::int8: return attend_some_blocks<Int8Page>(args, row, rows, block, blocks, parts);
  }
}

void merge_blocks(const AttentionArgs& args, int64_t row, int64_t rows, float* parts) {
  const AttentionScratch scratch(args);
  const QueryTile tile = query_tile(args, row, rows);
  scratch.sum.clear();
  for (int64_t block = tile.first_block(); block < tile.end_block(); ++block) {
    merge(args, tile, block, Partial(parts), scratch.sum);
    parts += partial_floats(args.head_dim);
  }
  write_rows(args, tile, scratch.sum);
}

void store_keys_values(const KeyValueArgs& args, int64_t first, int64_t count) {
  switch (args.type) {
    case KVType::float32: return store_pages<Float32Page>(args, first, count);
    case KVType::bfloat16: return store_pages<Bf16Page>(args, first, count);
    case KVType::int8: return store_pages<Int8Page>(args, first, count);
  }
}

}  // namespace
}  // namespace qkv::QKV_ISA
