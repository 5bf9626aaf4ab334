// One block of keys against a tile of rows: scores, weights, weighted values.
#pragma once

#include "activations.h"
#include "attention_pages.h"
#include "attention_softmax.h"
#include "attention_tile.h"
#include "kernels.h"
#include "prefetch.h"
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

// A row that pages are multiplied with, as their format reads it, in the row's own place: itself, or bfloat16.
template <class Format>
inline void narrow(float* row, Span some) {
  if constexpr (sizeof(typename Format::A) == sizeof(uint16_t))
    to_bfloat16<F32>(row + some.first, (uint16_t*)row + some.first, some.end - some.first, some.end - some.first);
}

// Strides between such rows.
template <class Format>
constexpr int64_t narrowed(int64_t stride) {
  return stride * (int64_t)(sizeof(float) / sizeof(typename Format::A));
}

// The queries of a tile, turned and scaled: [rows][value_stride].
template <class Page>
inline void turn_queries(const AttentionArgs& args, const QueryTile& tile, float* q) {
  const int64_t dim = args.head_dim, row = tile.row, stride = value_stride(dim);
  const int64_t queries = args.keys - args.past;  // so in self-attention
  const int64_t next_tile = (kTileRows + args.group - 1) / args.group,
                ahead = queries < next_tile ? queries : next_tile;
  const auto turn = rotation(args.interleaved);
  for (int64_t r = 0; r < tile.rows; ++r) {
    const int64_t token = (row + r) / args.group, head = (row + r) % args.group;
    const float* rotary = args.rotary ? args.rotary + token * args.rotary_dim : nullptr;
    const float* x = args.q + token * args.q_stride + head * dim;
    float* y = q + r * stride;
    ask_for_row_ahead(x, token, queries, ahead, args.q_stride, args.group * dim, dim);
    ask_for<For::writing>(args.y + token * args.y_stride + head * dim, dim);
    turn(x, rotary, args.rotary_dim, dim, query_scale(args), y);
    for (int64_t i = dim; i < stride; ++i) y[i] = 0;
    narrow<typename Page::Format>(y, {0, stride});
  }
}

// o += weights . values for a group of keys, of which a row may see but one half.
template <class Format>
inline void add_group(const typename Format::A* weights, const typename Format::B* values, bool whole, int64_t half,
                      float* o) {
  F32 sum[1][1] = {{F32::load(o)}};
  if (Format::kGroup == 1 || whole) Format::step(sum, weights, 0, values);
  else if constexpr (Format::kGroup == 2) sum[0][0] = Format::one(sum[0][0], weights, values, half);
  sum[0][0].store(o);
}

// o of all rows: weights [rows][kBlockTokens], made of scores, times values. First the keys that only earlier rows see,
// then, as one product, those that all see, then those that only later rows see.
template <class Page>
inline void weighted_values(const AttentionArgs& args, const QueryTile& tile, int64_t block, const float* scores,
                            float* o) {
  using Format = typename Page::Format;
  constexpr int64_t kGroup = Format::kGroup, kStride = narrowed<Format>(kBlockTokens);
  const auto* weights = (const typename Format::A*)scores;
  const int64_t rows = tile.rows, stride = value_stride(args.head_dim);
  const int64_t offset = key_bytes(Page::kType, args.head_dim);
  const uint8_t* const* pages = args.pages + block * (kBlockTokens / kPageTokens);
  const auto add = [&](int64_t r, int64_t first, int64_t end) {
    for (int64_t key = first, group; key < end; key = group + kGroup) {
      group = key / kGroup * kGroup;
      const bool whole = group == key && group + kGroup <= end;
      const auto* values =
          (const typename Format::B*)(pages[key / kPageTokens] + offset) + group % kPageTokens * stride;
      for (int64_t i = 0; i < stride; i += kLanes)
        add_group<Format>(weights + r * kStride + group, values + i * kGroup, whole, key - group, o + r * stride + i);
    }
  };

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
  multiply_pages<Format>(rows, stride / kLanes, weights + all.first, kStride,
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
    multiply_pages<Format>(rows, n / kLanes, (const typename Format::A*)q, narrowed<Format>(stride),
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
    narrow<typename Page::Format>(row, some);
  }
  weighted_values<Page>(args, tile, block, scores, part.o);
}

}  // namespace
}  // namespace qkv::QKV_ISA
