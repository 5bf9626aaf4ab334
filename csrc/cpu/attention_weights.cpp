// Arrays of the caller's that a run writes attention weights to.
#include "error.h"
#include "executor.h"
#include "program.h"

namespace qkv {
namespace {

// Those for the attention steps of one kind; keys(s) are as many as sequence s attends to.
template <class Kind, class Keys>
void check_arrays(const std::vector<Step>& steps, const AttentionArrays& arrays, const Batch& batch, Keys keys) {
  size_t next = 0;
  for (const Step& step : steps) {
    const auto* attention = std::get_if<Kind>(&step);
    if (!attention || next == arrays.size()) continue;
    const auto& own = arrays[next++];
    if (own.empty()) continue;
    require(static_cast<int64_t>(own.size()) == batch.sequences(), "attention weights: ", own.size(), " arrays for ",
            batch.sequences(), " sequences");
    for (size_t s = 0; s < own.size(); ++s) {
      const int64_t tokens = batch.cu_seqlens[s + 1] - batch.cu_seqlens[s];
      const int64_t size = attention->shape.heads * tokens * keys(s);
      require(static_cast<int64_t>(own[s].size()) == size, "attention weights: the array of sequence ", s, " has ",
              own[s].size(), " values, not ", size);
    }
  }
  require(next == arrays.size(), "attention weights: of ", arrays.size(), " steps, and the model has ", next);
}

}  // namespace

void Program::check_weights(const Batch& batch) const {
  check_arrays<AttentionStep>(steps_, batch.weights, batch, [&](size_t s) {
    return batch.past_of(static_cast<int64_t>(s)) + batch.cu_seqlens[s + 1] - batch.cu_seqlens[s];
  });
  check_arrays<CrossAttentionStep>(steps_, batch.cross_weights, batch,
                                   [&](size_t s) { return batch.source_lengths[s]; });
}

void Run::ask_for_weights(const AttentionArrays& arrays, size_t step) {
  if (step >= arrays.size() || arrays[step].empty()) return;
  auto& sequences = workspace_.attention.sequences;
  for (size_t s = 0; s < sequences.size(); ++s) sequences[s].weights = arrays[step][s].data();
}

}  // namespace qkv
