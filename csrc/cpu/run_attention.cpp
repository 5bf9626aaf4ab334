// The steps of attention.
#include "attention.h"
#include "executor.h"
#include "threads.h"

namespace qkv {

Work Run::attend(const AttentionShape& shape, const AttentionStrides& strides, KVCache* cache, int64_t layer) {
  double pairs = 0, keys = 0, tokens = 0, stored = 0;  // query-key pairs looked at; keys read; queries; new keys
  for (const AttentionSequence& s : workspace_.attention.sequences) {
    pairs += attended_pairs(shape, s.past, s.queries, s.keys);
    keys += static_cast<double>(s.keys);
    tokens += static_cast<double>(s.queries);
    stored += static_cast<double>(s.new_keys);
  }
  const auto dim = static_cast<double>(shape.head_dim);
  const double flops = 4 * pairs * dim * static_cast<double>(shape.heads);
  constexpr double kStoreWork = 50;  // of a value, in the unit of threads_for
  const double work = flops + kStoreWork * 2 * stored * dim * static_cast<double>(shape.kv_heads);
  attention(kernels_, shape, strides, cache, layer, threads_for(work, threads_), workspace_.attention);
  const double bytes =
      keys * static_cast<double>(shape.kv_heads * page_bytes(shape.type, shape.head_dim)) / kPageTokens +
      8 * tokens * dim * static_cast<double>(shape.heads);
  return {.flops = flops, .bytes = bytes};
}

Work Run::operator()(const AttentionStep& step) {
  auto& sequences = workspace_.attention.sequences;
  sequences.clear();
  const bool rotary = step.rotary >= 0;
  for (int64_t s = 0; s < batch_.sequences(); ++s) {
    const int64_t past = batch_.past_of(s), n = length(s);
    sequences.push_back({.q = rows_of(step.q, s),
                         .y = at(step.out) + begin(s) * width(step.out),
                         .queries = n,
                         .past = past,
                         .k = rows_of(step.k, s),
                         .v = rows_of(step.v, s),
                         .new_keys = n,
                         .keys = past + n,
                         .rotary = rotary ? at(step.rotary) + begin(s) * width(step.rotary) : nullptr,
                         .pages = batch_.cache ? batch_.pages[static_cast<size_t>(s)].data() : nullptr});
  }
  ask_for_weights(batch_.weights, attentions_++);
  return attend(step.shape,
                {.q = width(step.q.buffer),
                 .k = width(step.k.buffer),
                 .v = width(step.v.buffer),
                 .y = width(step.out),
                 .rotary = rotary ? width(step.rotary) : 0},
                batch_.cache, step.layer);
}

// Attention without queries: keys and values go to their pages.
Work Run::operator()(const StoreStep& step) {
  if (!batch_.source) return {};  // only the encoder's own outputs are wanted
  auto& sequences = workspace_.attention.sequences;
  sequences.clear();
  for (int64_t s = 0; s < batch_.sequences(); ++s)
    sequences.push_back({.q = nullptr,
                         .y = nullptr,
                         .queries = 0,
                         .past = 0,
                         .k = rows_of(step.k, s),
                         .v = rows_of(step.v, s),
                         .new_keys = length(s),
                         .keys = length(s),
                         .rotary = nullptr,
                         .pages = batch_.source_pages[static_cast<size_t>(s)].data()});
  return attend(step.shape, {.q = 0, .k = width(step.k.buffer), .v = width(step.v.buffer), .y = 0, .rotary = 0},
                batch_.source, step.layer);
}

Work Run::operator()(const CrossAttentionStep& step) {
  auto& sequences = workspace_.attention.sequences;
  sequences.clear();
  for (int64_t s = 0; s < batch_.sequences(); ++s) {
    const auto i = static_cast<size_t>(s);
    // Beams that write of one source are one sequence here, as positions mean nothing: its keys are read once for all.
    if (s > 0 && batch_.cross_weights.empty() && batch_.source_pages[i] == batch_.source_pages[i - 1]) {
      sequences.back().queries += length(s);
      continue;
    }
    sequences.push_back({.q = rows_of(step.q, s),
                         .y = at(step.out) + begin(s) * width(step.out),
                         .queries = length(s),
                         .past = 0,
                         .k = nullptr,
                         .v = nullptr,
                         .new_keys = 0,
                         .keys = batch_.source_lengths[i],
                         .rotary = nullptr,
                         .pages = batch_.source_pages[i].data()});
  }
  ask_for_weights(batch_.cross_weights, cross_attentions_++);
  return attend(step.shape, {.q = width(step.q.buffer), .k = 0, .v = 0, .y = width(step.out), .rotary = 0},
                batch_.source, step.layer);
}

}  // namespace qkv
