// What a caller gets wrong stops here, before a run.
#include <algorithm>

#include "error.h"
#include "program.h"

namespace qkv {
namespace {

void check_sequences(const Batch& b) {
  require(!b.cu_seqlens.empty() && b.cu_seqlens.front() == 0 && b.cu_seqlens.back() == b.tokens(),
          "batch: cu_seqlens must run from 0 to the number of tokens");
  require(std::is_sorted(b.cu_seqlens.begin(), b.cu_seqlens.end()), "batch: cu_seqlens must not decrease");
  require(b.past.empty() || static_cast<int64_t>(b.past.size()) == b.sequences(), "batch: one past per sequence");
  require(b.planned.empty() || static_cast<int64_t>(b.planned.size()) == b.sequences(),
          "batch: one planned length per sequence");
  for (int64_t s = 0; s < b.sequences(); ++s)
    require(b.planned_of(s) >= b.end_of(s), "batch: sequence ", s, " has ", b.end_of(s), " tokens, more than planned");
  require(b.type_ids.empty() || b.type_ids.size() == b.token_ids.size(), "batch: ", b.type_ids.size(),
          " token_type_ids for ", b.token_ids.size(), " token ids");
  for (const int64_t row : b.wanted)
    require(row >= 0 && row < b.tokens(), "batch: wanted row ", row, " of ", b.tokens());
}

// Each sequence has pages for its positions: `length(s)` of them. The first `unseen(s)` pages may be absent.
template <class Length, class Unseen>
void check_pages(const KVCache& cache, const std::vector<std::vector<int>>& pages, const Batch& b, Length length,
                 Unseen unseen) {
  require(static_cast<int64_t>(pages.size()) == b.sequences(), "batch: one page list per sequence");
  for (int64_t s = 0; s < b.sequences(); ++s) {
    const auto& own = pages[static_cast<size_t>(s)];
    require(static_cast<int64_t>(own.size()) * kPageTokens >= length(s), "batch: ", own.size(), " pages do not hold ",
            length(s), " positions");
    size_t absent = 0;
    while (absent < own.size() && own[absent] == kNoPage) ++absent;
    require(static_cast<int64_t>(absent) <= unseen(s), "batch: sequence ", s, " goes on at position ", b.past_of(s),
            " and still looks at some of its first ", absent, " pages, which are absent");
    cache.check(std::span(own).subspan(absent));
  }
}

void check_caches(const Batch& b, const std::optional<int64_t>& reach) {
  for (const int64_t past : b.past) require(past >= 0 && (past == 0 || b.cache), "batch: a past needs a KV cache");
  if (b.cache)
    check_pages(
        *b.cache, b.pages, b, [&](int64_t s) { return b.end_of(s); },
        [&](int64_t s) { return reach ? std::max<int64_t>(0, b.past_of(s) - *reach) / kPageTokens : 0; });
  if (!b.source) return;
  require(b.source_lengths.empty() || static_cast<int64_t>(b.source_lengths.size()) == b.sequences(),
          "batch: one source length per sequence");
  const auto source_length = [&](int64_t s) {
    return b.source_lengths.empty() ? b.end_of(s) : b.source_lengths[static_cast<size_t>(s)];
  };
  check_pages(*b.source, b.source_pages, b, source_length, [](int64_t) { return 0; });
}

void check_cache(const KVCache& cache, const AttentionShape& shape, int64_t layer) {
  require(layer < cache.layers() && shape.kv_heads == cache.heads() && shape.head_dim == cache.head_dim() &&
              shape.type == cache.type(),
          "the KV cache was made for another model: ", cache.layers(), " layers of ", cache.heads(), " x ",
          cache.head_dim(), " in ", name_of(cache.type()));
}

void check_ids(const std::vector<int32_t>& ids, const char* what, int64_t rows) {
  for (size_t i = 0; i < ids.size(); ++i)
    require(ids[i] >= 0 && ids[i] < rows, what, " ", ids[i], " at position ", i,
            " of the batch is out of range: the model has ", rows, " (0 ... ", rows - 1, ")");
}

// What a step needs of a batch.
struct BatchCheck {
  const Batch& batch;

  void operator()(const EmbedStep& s) const {
    check_ids(batch.token_ids, "token id", s.tokens->out());
    if (!s.types) require(batch.type_ids.empty(), "this model has no token types: leave out token_type_ids");
    else check_ids(batch.type_ids, "token type id", s.types->out());
    if (!s.positions) return;
    const int64_t most = s.positions->out() - s.position_offset;
    for (int64_t i = 0; i < batch.sequences(); ++i)
      require(batch.end_of(i) <= most, "sequence ", i, " has ", batch.end_of(i),
              " tokens; the model's positions end at ", most);
  }
  void operator()(const RotaryStep& s) const {
    require(
        !s.beyond || !batch.cache || !batch.planned.empty(),
        "batch: this model turns long sequences by other angles: with a KV cache, say how long each is planned to be");
  }
  void operator()(const AttentionStep& s) const {
    if (!batch.cache) return;
    require(s.layer >= 0, "a KV cache serves causal attention only");
    check_cache(*batch.cache, s.shape, s.layer);
  }
  void operator()(const StoreStep& s) const {
    if (batch.source) check_cache(*batch.source, s.shape, s.layer);
  }
  void operator()(const CrossAttentionStep& s) const {
    require(batch.source && static_cast<int64_t>(batch.source_lengths.size()) == batch.sequences(),
            "a decoder needs what its encoder found: run that before");
    check_cache(*batch.source, s.shape, s.layer);
    for (int64_t i = 0; i < batch.sequences(); ++i)
      require(batch.source_lengths[static_cast<size_t>(i)] > 0, "sequence ", i, " has no source tokens to attend to");
  }
  template <class Other>
  void operator()(const Other&) const {}
};

}  // namespace

void Program::check(const Batch& batch) const {
  check_sequences(batch);
  check_caches(batch, reach());
  for (const Step& step : steps_) std::visit(BatchCheck{batch}, step);
  check_weights(batch);
}

}  // namespace qkv
