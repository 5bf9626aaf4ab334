#include "attention.h"

#include <algorithm>

#include "error.h"
#include "threads.h"

namespace qkv {
namespace {

constexpr int64_t kTaskRows = 8 * kTileRows;  // queries that a thread attends to in one go, at most

constexpr int64_t kTasksPerThread = 4;

int64_t pages_for(int64_t positions) { return (positions + kPageTokens - 1) / kPageTokens; }

class Attention {
 public:
  Attention(const Kernels& kernels, const AttentionShape& shape, const AttentionStrides& strides, KVCache* cache,
            int64_t layer, int threads, AttentionWorkspace& workspace)
      : kernels_(kernels),
        shape_(shape),
        strides_(strides),
        cache_(cache),
        layer_(layer),
        threads_(threads),
        w_(workspace),
        group_(shape.heads / shape.kv_heads),
        page_bytes_(page_bytes(shape.type, shape.head_dim)),
        scratch_bytes_(attention_scratch(shape.head_dim) * int64_t{sizeof(float)}) {
    w_.threads.resize(std::max(w_.threads.size(), static_cast<size_t>(threads)));
  }

  void run() {
    // With enough heads and sequences for all threads, a task is one head of one sequence, start to end: its keys and
    // values stay in the thread's cache.
    if (threads_ == 1 || heads() >= (cache_ ? kTasksPerThread : 2) * threads_) return run_heads();
    share_pages();
    parallel_for(heads(), threads_, [&](int64_t task, int thread) {
      store(task / shape_.kv_heads, task % shape_.kv_heads, list(task), scratch(thread));
    });
    cut();
    run_tasks();
    if (!w_.merges.empty()) merge();
    if (weights_wanted())
      parallel_for(heads(), threads_, [&](int64_t task, int thread) {
        write_weights(task / shape_.kv_heads, task % shape_.kv_heads, list(task), scratch(thread));
      });
  }

 private:
  int64_t heads() const { return static_cast<int64_t>(w_.sequences.size()) * shape_.kv_heads; }
  const AttentionSequence& sequence(int64_t s) const { return w_.sequences[static_cast<size_t>(s)]; }
  float* scratch(int thread) const { return w_.threads[static_cast<size_t>(thread)].floats(); }
  uint8_t** list(int64_t s, int64_t head) const {
    const int64_t first = w_.first_page[static_cast<size_t>(s)], end = w_.first_page[static_cast<size_t>(s) + 1];
    return w_.lists.data() + first * shape_.kv_heads + head * (end - first);
  }
  uint8_t** list(int64_t task) const { return list(task / shape_.kv_heads, task % shape_.kv_heads); }

  AttentionArgs args(int64_t s, int64_t head, uint8_t* const* pages, float* scratch) const {
    const AttentionSequence& seq = sequence(s);
    const int64_t query_head = head * group_, column = query_head * shape_.head_dim;
    return {.q = seq.q + column,
            .q_stride = strides_.q,
            .y = seq.y + column,
            .y_stride = strides_.y,
            .rotary = seq.rotary ? seq.rotary + (seq.new_keys - seq.queries) * strides_.rotary : nullptr,
            .rotary_dim = strides_.rotary,
            .interleaved = shape_.interleaved,
            .group = group_,
            .head_dim = shape_.head_dim,
            .scale = shape_.scale,
            .soft_cap = shape_.soft_cap,
            .slopes = shape_.slopes.empty() ? nullptr : shape_.slopes.data() + query_head,
            .rounded_alibi = shape_.rounded_alibi,
            .bias = shape_.bias.empty() ? nullptr : shape_.bias.data() + query_head * (2 * shape_.reach + 1),
            .reach = shape_.reach,
            .past = seq.past,
            .keys = seq.keys,
            .before = shape_.before,
            .after = shape_.after,
            .type = shape_.type,
            .pages = pages,
            .scratch = scratch};
  }

  // Writes the new keys and values of one head into its pages.
  void store(int64_t s, int64_t head, uint8_t* const* pages, float* scratch) const {
    const AttentionSequence& seq = sequence(s);
    const KeyValueArgs new_ones = {.k = seq.k + head * shape_.head_dim,
                                   .k_stride = strides_.k,
                                   .v = seq.v + head * shape_.head_dim,
                                   .v_stride = strides_.v,
                                   .rotary = seq.rotary,
                                   .rotary_dim = strides_.rotary,
                                   .interleaved = shape_.interleaved,
                                   .head_dim = shape_.head_dim,
                                   .type = shape_.type,
                                   .pages = pages,
                                   .scratch = scratch};
    kernels_.store_keys_values(new_ones, seq.keys - seq.new_keys, seq.new_keys);
  }

  bool weights_wanted() const {
    return std::any_of(w_.sequences.begin(), w_.sequences.end(), [](const auto& seq) { return seq.weights; });
  }

  // body(first, count) for all query rows of one key/value head, which can be seconds of work.
  template <class Body>
  void for_rows(const AttentionSequence& seq, const Body& body) const {
    const int64_t rows = seq.queries * group_;
    for (int64_t row = 0; row < rows && !interrupted(); row += kTaskRows) body(row, std::min(kTaskRows, rows - row));
  }

  // Of the query heads that share a key/value head, if they are wanted.
  void write_weights(int64_t s, int64_t head, uint8_t* const* pages, float* scratch) const {
    const AttentionSequence& seq = sequence(s);
    if (!seq.weights) return;
    const AttentionArgs own = args(s, head, pages, scratch);
    const int64_t stride = seq.queries * seq.keys;
    for_rows(seq, [&](int64_t row, int64_t rows) {
      kernels_.attention_weights(own, row, rows, seq.weights + head * group_ * stride, stride);
    });
  }

  void run_heads() const {
    int64_t most = 0;
    for (const AttentionSequence& seq : w_.sequences) most = std::max(most, pages_for(seq.keys));
    const int64_t own_pages = cache_ ? 0 : most * page_bytes_;
    for (Memory& memory : w_.threads)
      memory.reserve(static_cast<size_t>(scratch_bytes_ + own_pages + most * int64_t{sizeof(uint8_t*)}));
    parallel_for(heads(), threads_, [&](int64_t task, int thread) {
      const int64_t s = task / shape_.kv_heads, head = task % shape_.kv_heads;
      uint8_t* memory = reinterpret_cast<uint8_t*>(scratch(thread)) + scratch_bytes_;
      auto** pages = reinterpret_cast<uint8_t**>(memory + own_pages);
      for (int64_t i = 0; i < pages_for(sequence(s).keys); ++i)
        pages[i] = cache_ ? cached_page(s, i, head) : memory + i * page_bytes_;
      store(s, head, pages, scratch(thread));
      const AttentionArgs own = args(s, head, pages, scratch(thread));
      for_rows(sequence(s), [&](int64_t row, int64_t rows) { kernels_.attend(own, row, rows); });
      write_weights(s, head, pages, scratch(thread));
    });
  }

  uint8_t* cached_page(int64_t s, int64_t i, int64_t head) const {
    const int page = sequence(s).pages[i];
    return page == kNoPage ? nullptr : cache_->head(page, layer_, head);  // null: no query looks there
  }

  void share_pages() const {
    for (Memory& memory : w_.threads) memory.reserve(static_cast<size_t>(scratch_bytes_));
    w_.first_page.assign(1, 0);
    for (const AttentionSequence& seq : w_.sequences)
      w_.first_page.push_back(w_.first_page.back() + pages_for(seq.keys));
    w_.lists.resize(static_cast<size_t>(w_.first_page.back() * shape_.kv_heads));
    if (!cache_) w_.pages.reserve(w_.lists.size() * static_cast<size_t>(page_bytes_));
    for (int64_t task = 0; task < heads(); ++task) {
      const AttentionSequence& seq = sequence(task / shape_.kv_heads);
      uint8_t** pages = list(task);
      for (int64_t i = 0; i < pages_for(seq.keys); ++i) {
        if (cache_) pages[i] = cached_page(task / shape_.kv_heads, i, task % shape_.kv_heads);
        else pages[i] = static_cast<uint8_t*>(w_.pages.data()) + (pages + i - w_.lists.data()) * page_bytes_;
      }
    }
  }

  // Queries are cut into tasks of some tiles. Too few of them for all threads (a decode step with few key/value heads)
  // are cut by blocks of keys, too.
  void cut() {
    w_.tasks.clear();
    w_.merges.clear();
    for (int64_t s = 0; s < static_cast<int64_t>(w_.sequences.size()); ++s) {
      const int64_t rows = sequence(s).queries * group_;
      for (int64_t row = 0; row < rows; row += kTaskRows)
        w_.tasks.push_back({s, row, std::min(kTaskRows, rows - row), 0, 0, -1});
    }
    const auto tasks = static_cast<int64_t>(w_.tasks.size()) * shape_.kv_heads;
    if (threads_ == 1 || tasks == 0 || tasks >= kTasksPerThread * threads_) return;

    const int64_t pieces = (kTasksPerThread * threads_ + tasks - 1) / tasks;
    const std::vector<AttentionWorkspace::Task> whole = std::move(w_.tasks);
    w_.tasks.clear();
    int64_t parts = 0;
    for (const auto& task : whole) {
      for (int64_t row = task.row; row < task.row + task.rows; row += kTileRows) {
        const int64_t rows = std::min<int64_t>(kTileRows, task.row + task.rows - row);
        const AttentionArgs a = args(task.sequence, 0, nullptr, nullptr);
        const int64_t first = first_seen(a, row) / kBlockTokens;
        const int64_t blocks = (end_seen(a, row + rows - 1) + kBlockTokens - 1) / kBlockTokens - first;
        if (blocks < 2) {
          w_.tasks.push_back({task.sequence, row, rows, 0, 0, -1});
          continue;
        }
        for (int64_t i = 0; i < std::min(pieces, blocks); ++i) {
          const int64_t begin = i * blocks / std::min(pieces, blocks),
                        end = (i + 1) * blocks / std::min(pieces, blocks);
          w_.tasks.push_back({task.sequence, row, rows, first + begin, end - begin, parts + begin});
        }
        w_.merges.push_back({task.sequence, row, rows, first, blocks, parts});
        parts += blocks;
      }
    }
    parts_ = parts;
    w_.partials.reserve(static_cast<size_t>(parts * shape_.kv_heads * partial_floats(shape_.head_dim)) * sizeof(float));
  }

  float* partials(int64_t part, int64_t head) const {
    return w_.partials.floats() + (head * parts_ + part) * partial_floats(shape_.head_dim);
  }

  void run_tasks() const {
    parallel_for(static_cast<int64_t>(w_.tasks.size()) * shape_.kv_heads, threads_, [&](int64_t i, int thread) {
      const auto& task = w_.tasks[static_cast<size_t>(i / shape_.kv_heads)];
      const int64_t head = i % shape_.kv_heads;
      const AttentionArgs a = args(task.sequence, head, list(task.sequence, head), scratch(thread));
      if (task.part < 0) kernels_.attend(a, task.row, task.rows);
      else kernels_.attend_blocks(a, task.row, task.rows, task.block, task.blocks, partials(task.part, head));
    });
  }

  void merge() const {
    parallel_for(static_cast<int64_t>(w_.merges.size()) * shape_.kv_heads, threads_, [&](int64_t i, int thread) {
      const auto& task = w_.merges[static_cast<size_t>(i / shape_.kv_heads)];
      const int64_t head = i % shape_.kv_heads;
      const AttentionArgs a = args(task.sequence, head, nullptr, scratch(thread));
      kernels_.merge_blocks(a, task.row, task.rows, partials(task.part, head));
    });
  }

  const Kernels& kernels_;
  const AttentionShape& shape_;
  const AttentionStrides& strides_;
  KVCache* cache_;
  int64_t layer_;
  int threads_;
  AttentionWorkspace& w_;
  int64_t group_, page_bytes_, scratch_bytes_;
  int64_t parts_ = 0;  // blocks of all tasks that are cut by blocks of keys
};

}  // namespace

void AttentionShape::check() const {
  require(heads > 0 && kv_heads > 0 && head_dim > 0 && heads % kv_heads == 0, "attention: ", heads,
          " query heads do not share ", kv_heads, " key/value heads evenly");
  require(before >= 0 && before <= kEverything && after >= 0 && after <= kEverything,
          "attention: a query must see its own key");
  require(soft_cap >= 0, "attention: negative soft cap ", soft_cap);
  require(slopes.empty() || static_cast<int64_t>(slopes.size()) == heads, "attention: ", slopes.size(), " slopes for ",
          heads, " heads");
  require(!rounded_alibi || !slopes.empty(), "attention: rounded ALiBi needs slopes");
  require(bias.empty() || (reach >= 0 && static_cast<int64_t>(bias.size()) == heads * (2 * reach + 1)),
          "attention: a relative bias of ", bias.size(), " values for ", heads, " heads and distances up to ", reach);
}

void attention(const Kernels& kernels, const AttentionShape& shape, const AttentionStrides& strides, KVCache* cache,
               int64_t layer, int threads, AttentionWorkspace& workspace) {
  Attention(kernels, shape, strides, cache, layer, threads, workspace).run();
}

double attended_pairs(const AttentionShape& shape, int64_t past, int64_t queries, int64_t keys) {
  double pairs = 0;
  for (int64_t position = past; position < past + queries; ++position)
    pairs +=
        static_cast<double>(std::min(keys, position + shape.after + 1) - std::max<int64_t>(0, position - shape.before));
  return pairs;
}

}  // namespace qkv
