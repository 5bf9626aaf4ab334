// The weights of attention themselves, for who wants to look at them. They are made of the same scores as in
// attention.h; a row's scores wait in the result until all of its blocks are known.
#pragma once

#include "attention.h"
#include "elementwise.h"

namespace qkv::QKV_ISA {
namespace {

// y = 2^x / the sum of these, in place.
inline void normalise(float* x, int64_t n) {
  const F32 base = softmax_base(F32::set(max_of(x, n)));
  map_row([=](F32 score) { return exp2(score - base); }, x, x, n);
  F32 sum = F32::set(0);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) sum = sum + F32::load(x + i);
  if (i < n) sum = sum + F32::load(x + i, n - i);
  const F32 factor = F32::set(1.0f / reduce_add(sum));
  map_row([=](F32 weight) { return weight * factor; }, x, x, n);
}

template <class Page>
void weigh_pages(const AttentionArgs& args, int64_t row, int64_t rows, float* weights, int64_t head_stride) {
  const AttentionScratch scratch(args);
  const auto at = [&](int64_t i) {  // the keys of row i
    return weights + i % args.group * head_stride + i / args.group * args.keys;
  };
  for (int64_t i = row; i < row + rows; ++i) __builtin_memset(at(i), 0, (size_t)args.keys * sizeof(float));
  for (int64_t n; rows > 0; row += n, rows -= n) {
    n = next_rows(rows);
    const QueryTile tile = query_tile(args, row, n);
    turn_queries<Page>(args, tile, scratch.q);
    for (int64_t block = tile.first_block(); block < tile.end_block(); ++block) {
      score_block<Page>(args, tile, block, scratch.q, scratch.scores, scratch.part.m);
      for (int64_t r = 0; r < n; ++r) {
        const Span seen = tile.seen_in(block, r);
        if (!seen.empty())
          __builtin_memcpy(at(row + r) + block * kBlockTokens + seen.first,
                           scratch.scores + r * kBlockTokens + seen.first,
                           (size_t)(seen.end - seen.first) * sizeof(float));
      }
    }
    for (int64_t r = 0; r < n; ++r)
      if (const Span seen = tile.seen[r]; !seen.empty()) normalise(at(row + r) + seen.first, seen.end - seen.first);
  }
}

void attention_weights(const AttentionArgs& args, int64_t row, int64_t rows, float* weights, int64_t head_stride) {
  switch (args.type) {
    case KVType::float32: return weigh_pages<Float32Page>(args, row, rows, weights, head_stride);
    case KVType::bfloat16: return weigh_pages<Bf16Page>(args, row, rows, weights, head_stride);
    case KVType::int8: return weigh_pages<Int8Page>(args, row, rows, weights, head_stride);
  }
}

}  // namespace
}  // namespace qkv::QKV_ISA
