// softmax(scale q.k) v (Vaswani et al. 2017) over keys and values that lie in pages, in blocks of kBlockTokens keys.
// A block gives its own largest score m, sum of weights l and weighted values o; blocks are merged in order, as in
// flash-decoding (Dao et al. 2023), by the online softmax of Milakov and Gimelshein (2018). Blocks are aligned to
// absolute position, and what a block gives depends on no other: so a token's bits depend neither on how the prompt
// was cut, nor on what was cached, nor on which thread took which blocks. Keys that a row does not see get the weight
// 0 and change nothing, exactly; their values are left alone, as 0 would not hide a NaN.
#pragma once

#include "attention_pages.h"
#include "attention_softmax.h"
#include "attention_tile.h"
#include "kernels.h"
#include "rotary.h"
#include "tile.h"

namespace qkv::QKV_ISA {
namespace {

// Up to kTileRows rows of the problem, and the positions of the keys that each sees; the limits never decrease.
struct QueryTile {
  int64_t row, rows;
  Span seen[kTileRows];

  bool fetches() const { return row == 0; }  // keys and values from memory: later tiles find them in the cache
  int64_t first_block() const { return seen[0].first / kBlockTokens; }
  int64_t end_block() const { return (seen[rows - 1].end + kBlockTokens - 1) / kBlockTokens; }
  bool starts_in_one_block() const { return first_block() == seen[rows - 1].first / kBlockTokens; }
  Span seen_in(int64_t block, int64_t r) const {  // counted from the block's start
    const int64_t start = block * kBlockTokens;
    const int64_t first = seen[r].first - start, end = seen[r].end - start;
    return {first < 0 ? 0 : first, end < kBlockTokens ? end : kBlockTokens};
  }
};

// What some keys give to the rows of a tile.
struct Partial {
  float *m, *l;  // [kMostLanes], one value a row: the largest score, the sum of weights 2^(score - m)
  float* o;      // [rows][value_stride], the weighted sum of values

  explicit Partial(float* p) : m(p), l(p + kMostLanes), o(p + 2 * kMostLanes) {}
  void clear() const {
    for (int i = 0; i < kMostLanes; ++i) m[i] = -kInfinity, l[i] = 0;
  }
};

inline QueryTile query_tile(const AttentionArgs& args, int64_t row, int64_t rows) {
  QueryTile tile = {.row = row, .rows = rows, .seen = {}};
  for (int64_t r = 0; r < rows; ++r) tile.seen[r] = {first_seen(args, row + r), end_seen(args, row + r)};
  return tile;
}

// The queries of a tile, turned and scaled: [rows][value_stride].
inline void turn_queries(const AttentionArgs& args, const QueryTile& tile, float* q) {
  const int64_t dim = args.head_dim, row = tile.row;
  const auto turn = rotation(args.interleaved);
  for (int64_t r = 0; r < tile.rows; ++r) {
    const int64_t token = (row + r) / args.group, head = (row + r) % args.group;
    const float* rotary = args.rotary ? args.rotary + token * args.rotary_dim : nullptr;
    turn(args.q + token * args.q_stride + head * dim, rotary, args.rotary_dim, dim, query_scale(args),
         q + r * value_stride(dim));
  }
}

// o of all rows: weights [rows][kBlockTokens] times values. First the keys that only earlier rows see, then, as one
// product, those that all see, then those that only later rows see.
template <class Page>
inline void weighted_values(const AttentionArgs& args, const QueryTile& tile, int64_t block, const float* weights,
                            float* o) {
  using Format = typename Page::Format;
  const int64_t rows = tile.rows, stride = value_stride(args.head_dim);
  const int64_t offset = key_bytes(Page::kType, args.head_dim);
  const uint8_t* const* pages = args.pages + block * (kBlockTokens / kPageTokens);
  const auto add = [&](int64_t r, int64_t first, int64_t end) {
    for (int64_t key = first; key < end; ++key) {
      const F32 weight = F32::set(weights[r * kBlockTokens + key]);
      const uint8_t* values = pages[key / kPageTokens] + offset;
      for (int64_t i = 0; i < stride; i += kLanes) {
        float* sum = o + r * stride + i;
        fma(weight, Page::value(values, stride, key % kPageTokens, i), F32::load(sum)).store(sum);
      }
    }
  };

  constexpr int64_t kGroup = Format::kGroup;
  Span all = {(tile.seen_in(block, rows - 1).first + kGroup - 1) / kGroup * kGroup,
              tile.seen_in(block, 0).end / kGroup * kGroup};
  if (all.end <= all.first) all = {0, 0};
  const bool fresh = !all.empty() && tile.seen_in(block, 0).first >= all.first;
  if (!fresh)
    for (int64_t i = 0; i < rows * stride; ++i) o[i] = 0;
  for (int64_t r = 0; r < rows; ++r) {
    const Span seen = tile.seen_in(block, r);
    if (seen.first < all.first) add(r, seen.first, seen.end < all.first ? seen.end : all.first);
  }
  const uint8_t* next_head = args.pages[tile.seen[0].first / kPageTokens] + page_bytes(Page::kType, args.head_dim);
  const uint8_t* next = block + 1 < tile.end_block() ? pages[kBlockTokens / kPageTokens] : next_head;
  multiply_pages<Format>(rows, stride / kLanes, weights + all.first, kBlockTokens,
                         {.pages = pages + all.first / kPageTokens,
                          .offset = offset,
                          .stride = stride * kGroup,
                          .per_page = kPageTokens,
                          .past = all.first % kPageTokens,
                          .k = all.end - all.first,
                          .behind = tile.fetches() ? next : nullptr},
                         fresh, o, stride);
  for (int64_t r = 0; r < rows; ++r) {
    const Span seen = tile.seen_in(block, r);
    if (seen.end > all.end) add(r, seen.first < all.end ? all.end : seen.first, seen.end);
  }
}

// Whole vectors of a block that hold all keys that some row of the tile sees.
inline Span span_seen(const QueryTile& tile, int64_t block) {
  const int64_t end = tile.seen_in(block, tile.rows - 1).end;
  return {tile.seen_in(block, 0).first / kLanes * kLanes, (end + kLanes - 1) / kLanes * kLanes};
}

// row *= the scales of a block's keys (`at` 0) or values (`at` kPageTokens), where Page::kScaled
template <class Page>
inline void multiply_by_scales(const AttentionArgs& args, int64_t block, Span some, int64_t at, float* row) {
  const int64_t scales = key_bytes(Page::kType, args.head_dim) + kPageTokens * value_stride(args.head_dim);
  const uint8_t* const* pages = args.pages + block * (kBlockTokens / kPageTokens);
  for (int64_t page = some.first / kPageTokens; page * kPageTokens < some.end; ++page) {
    const int64_t start = page * kPageTokens, end = some.end - start;
    multiply_by(row + start, (const float*)(pages[page] + scales) + at,
                {start < some.first ? some.first - start : 0, end < kPageTokens ? end : kPageTokens});
  }
}

// Scores [rows][kBlockTokens] of a block's keys, -inf where a row does not see the key, and the largest of each row;
// rows that see no key of the block are left alone.
template <class Page>
inline void score_block(const AttentionArgs& args, const QueryTile& tile, int64_t block, const float* q, float* scores,
                        float* largest_score) {
  using Format = typename Page::Format;
  const int64_t rows = tile.rows, dim = args.head_dim, stride = value_stride(dim);
  const uint8_t* const* pages = args.pages + block * (kBlockTokens / kPageTokens);
  const Span some = span_seen(tile, block);
  const int64_t values = key_bytes(Page::kType, dim);
  for (int64_t key = some.first, n; key < some.end; key += n) {
    const int64_t slot = key % kPageTokens, left = some.end - key;
    n = left < kPageTokens - slot ? left : kPageTokens - slot;
    const uint8_t* next = n < left ? pages[key / kPageTokens + 1] : pages[some.first / kPageTokens] + values;
    multiply_pages<Format>(rows, n / kLanes, q, stride,
                           {.pages = pages + key / kPageTokens,
                            .offset = slot * Format::kGroup * (int64_t)sizeof(typename Format::B),
                            .stride = kPageTokens * Format::kGroup,
                            .per_page = dim,
                            .past = 0,
                            .k = dim,
                            .behind = tile.fetches() ? next : nullptr},
                           true, scores + key, kBlockTokens);
  }

  for (int64_t r = 0; r < rows; ++r) {
    const Span seen = tile.seen_in(block, r);
    if (seen.empty()) continue;
    float* row = scores + r * kBlockTokens;
    const int64_t token = (tile.row + r) / args.group, head = (tile.row + r) % args.group;
    if constexpr (Page::kScaled) multiply_by_scales<Page>(args, block, some, 0, row);
    adjust(args, head, block * kBlockTokens, args.past + token, row, some);
    hide_unseen(row, some, seen);
    largest_score[r] = largest(row, some);
  }
}

template <class Page>
inline void attend_block(const AttentionArgs& args, const QueryTile& tile, int64_t block, const float* q, float* scores,
                         const Partial& part) {
  part.clear();
  score_block<Page>(args, tile, block, q, scores, part.m);
  const Span some = span_seen(tile, block);
  for (int64_t r = 0; r < tile.rows; ++r) {
    if (tile.seen_in(block, r).empty()) continue;
    float* row = scores + r * kBlockTokens;
    part.l[r] = weigh(row, some, part.m[r]);
    if constexpr (Page::kScaled) multiply_by_scales<Page>(args, block, some, kPageTokens, row);
  }
  weighted_values<Page>(args, tile, block, scores, part.o);
}

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
    turn_queries(args, tile, scratch.q);
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
  turn_queries(args, tile, scratch.q);
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
