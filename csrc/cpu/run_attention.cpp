// The attention step. Keys and values of past tokens lie in the pages of a KV cache; without one they are put into
// pages of the same layout in a thread's scratch memory, one head of one sequence at a time, and forgotten. The
// kernel sees the same pages either way, hence the same bits.
#include <algorithm>

#include "executor.h"
#include "threads.h"

namespace qkv {
namespace {

int64_t pages_for(int64_t positions) { return (positions + kPageTokens - 1) / kPageTokens; }

}  // namespace

AttentionArgs Run::head_args(const AttentionStep& step, int64_t s, int64_t kv_head) const {
  const int64_t group = step.heads / step.kv_heads, first = begin(s), column = kv_head * group * step.head_dim;
  const bool rotary = step.rotary >= 0;
  return {.q = at(step.q.buffer) + first * width(step.q.buffer) + step.q.column + column,
          .q_stride = width(step.q.buffer),
          .y = at(step.out) + first * width(step.out) + column,
          .y_stride = width(step.out),
          .rotary = rotary ? at(step.rotary) + first * width(step.rotary) : nullptr,
          .rotary_dim = rotary ? width(step.rotary) : 0,
          .group = group,
          .head_dim = step.head_dim,
          .scale = step.scale,
          .causal = step.causal,
          .past = batch_.past_of(s),
          .keys = batch_.past_of(s) + length(s),
          .pages = nullptr,
          .scratch = nullptr};
}

// Writes the new keys and values of one head into its pages.
void Run::store_head(const AttentionStep& step, int64_t s, int64_t kv_head, float* const* pages) const {
  for (int64_t i = 0; i < length(s); ++i) {
    const int64_t token = begin(s) + i, position = batch_.past_of(s) + i, column = kv_head * step.head_dim;
    const bool rotary = step.rotary >= 0;
    kernels_.store_key_value(at(step.k.buffer) + token * width(step.k.buffer) + step.k.column + column,
                             at(step.v.buffer) + token * width(step.v.buffer) + step.v.column + column,
                             rotary ? at(step.rotary) + token * width(step.rotary) : nullptr,
                             rotary ? width(step.rotary) : 0, step.head_dim, pages[position / kPageTokens],
                             position % kPageTokens);
  }
}

// A task is one key/value head of one sequence: its keys and values stay in the thread's cache.
void Run::attend_uncached(const AttentionStep& step, int threads) {
  int64_t longest = 0;
  for (int64_t s = 0; s < batch_.sequences(); ++s) longest = std::max(longest, length(s));
  const int64_t floats = page_floats(step.head_dim), scratch = attention_scratch(step.head_dim);
  const int64_t most = pages_for(longest);
  for (Memory& memory : workspace_.threads)
    memory.reserve(static_cast<size_t>(scratch + most * floats) * sizeof(float) +
                   static_cast<size_t>(most) * sizeof(float*));

  parallel_for(batch_.sequences() * step.kv_heads, threads, [&](int64_t task, int thread) {
    const int64_t s = task / step.kv_heads, head = task % step.kv_heads;
    float* memory = workspace_.threads[static_cast<size_t>(thread)].floats();
    auto** pages = reinterpret_cast<float**>(memory + scratch + most * floats);
    for (int64_t i = 0; i < pages_for(length(s)); ++i) pages[i] = memory + scratch + i * floats;
    store_head(step, s, head, pages);
    AttentionArgs args = head_args(step, s, head);
    args.pages = pages;
    args.scratch = memory;
    kernels_.attend(args, 0, length(s) * args.group);
  });
}

// First all new keys and values go into the cache; then queries are cut into tasks of a few tiles.
void Run::attend_cached(const AttentionStep& step, int threads) {
  const int64_t group = step.heads / step.kv_heads;
  for (Memory& memory : workspace_.threads)
    memory.reserve(static_cast<size_t>(attention_scratch(step.head_dim)) * sizeof(float));

  std::vector<int64_t>& first_page = workspace_.first_page;
  first_page.assign(1, 0);
  for (int64_t s = 0; s < batch_.sequences(); ++s)
    first_page.push_back(first_page.back() + pages_for(batch_.past_of(s) + length(s)));
  workspace_.pages.resize(static_cast<size_t>(first_page.back() * step.kv_heads));
  const auto pages_of = [&](int64_t s, int64_t head) {
    return workspace_.pages.data() + first_page[static_cast<size_t>(s)] * step.kv_heads +
           head * (first_page[static_cast<size_t>(s) + 1] - first_page[static_cast<size_t>(s)]);
  };
  parallel_for(batch_.sequences() * step.kv_heads, threads, [&](int64_t task, int) {
    const int64_t s = task / step.kv_heads, head = task % step.kv_heads;
    float** list = pages_of(s, head);
    for (int64_t i = 0; i < pages_for(batch_.past_of(s) + length(s)); ++i)
      list[i] = batch_.cache->head(batch_.pages[static_cast<size_t>(s)][static_cast<size_t>(i)], step.layer, head);
    store_head(step, s, head, list);
  });

  constexpr int64_t kRows = 8 * kTileRows;
  std::vector<AttentionTask>& tasks = workspace_.tasks;
  tasks.clear();
  for (int64_t s = 0; s < batch_.sequences(); ++s)
    for (int64_t row = 0; row < length(s) * group; row += kRows)
      tasks.push_back({s, row, std::min(kRows, length(s) * group - row)});
  parallel_for(static_cast<int64_t>(tasks.size()) * step.kv_heads, threads, [&](int64_t task, int thread) {
    const auto [s, row, count] = tasks[static_cast<size_t>(task / step.kv_heads)];
    AttentionArgs args = head_args(step, s, task % step.kv_heads);
    args.pages = pages_of(s, task % step.kv_heads);
    args.scratch = workspace_.threads[static_cast<size_t>(thread)].floats();
    kernels_.attend(args, row, count);
  });
}

Work Run::operator()(const AttentionStep& step) {
  double pairs = 0, keys = 0;  // query-key pairs that are looked at; keys and values read
  for (int64_t s = 0; s < batch_.sequences(); ++s) {
    const auto past = static_cast<double>(batch_.past_of(s)), n = static_cast<double>(length(s));
    pairs += step.causal ? n * past + n * (n + 1) / 2 : n * (past + n);
    keys += past + n;
  }
  const auto dim = static_cast<double>(step.head_dim);
  const double flops = 4 * pairs * dim * static_cast<double>(step.heads);
  const int threads = threads_for(flops, threads_);
  if (batch_.cache) attend_cached(step, threads);
  else attend_uncached(step, threads);
  const double bytes = 8 * keys * dim * static_cast<double>(step.kv_heads) +
                       8 * static_cast<double>(batch_.tokens()) * dim * static_cast<double>(step.heads);
  return {.flops = flops, .bytes = bytes};
}

}  // namespace qkv
