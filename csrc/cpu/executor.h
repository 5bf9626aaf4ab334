// One run of a program: a function for each step kind. The functions cut work into tasks; kernels do it.
#pragma once

#include "ops.h"
#include "program.h"

namespace qkv {

class Run {
 public:
  // Makes room in the workspace for the first `steps` steps; `last_bound`: but for what the last of them writes.
  Run(const Program& program, size_t steps, bool last_bound, const Batch& batch, Workspace& workspace, int threads);

  // From now on the buffer lives in the caller's memory.
  void bind(int buffer, float* memory) { buffers_[static_cast<size_t>(buffer)] = memory; }
  // Copies all rows of the buffer, unless they are there already.
  void copy(int buffer, float* memory) const;

  Work operator()(const EmbedStep& step);
  Work operator()(const RotaryStep& step);
  Work operator()(const NormStep& step);
  Work operator()(const ConvertStep& step);
  Work operator()(const LinearStep& step);
  Work operator()(const ExpertsStep& step);
  Work operator()(const MapStep& step);
  Work operator()(const CombineStep& step);
  Work operator()(const AttentionStep& step);
  Work operator()(const StoreStep& step);
  Work operator()(const CrossAttentionStep& step);
  Work operator()(const GatherStep& step);
  Work operator()(const PoolStep& step);

 private:
  float* at(int buffer) const { return buffers_[static_cast<size_t>(buffer)]; }
  // Rows of a view, from the first of sequence s on.
  float* rows_of(const View& view, int64_t s) const {
    return at(view.buffer) + begin(s) * width(view.buffer) + view.column;
  }
  int64_t width(int buffer) const { return program_.buffers()[static_cast<size_t>(buffer)].width; }
  DType type(int buffer) const { return program_.buffers()[static_cast<size_t>(buffer)].type; }
  Activations activations(int buffer) const { return {type(buffer), at(buffer), rows(buffer), width(buffer)}; }
  int64_t rows(int buffer) const { return batch_.rows(program_.buffers()[static_cast<size_t>(buffer)].rows); }
  int64_t begin(int64_t sequence) const { return batch_.cu_seqlens[static_cast<size_t>(sequence)]; }
  int64_t length(int64_t sequence) const { return begin(sequence + 1) - begin(sequence); }

  void make_room(int buffer);
  // body(first, count) for all of n values, in tasks; `work` of a value is in the unit of threads_for.
  template <class Body>
  void for_values(int64_t n, double work, const Body& body) const;
  Work run_expert(const ExpertsStep& step, int64_t expert, std::span<const Share> shares);
  void norm_heads(const NormArgs& args, int64_t rows, int64_t parts);
  // From now on the sequences' weights are written, too, if the batch wants those of attention step `step`.
  void ask_for_weights(const AttentionArrays& arrays, size_t step);
  // of workspace_.attention.sequences
  Work attend(const AttentionShape& shape, const AttentionStrides& strides, KVCache* cache, int64_t layer);
  void norm_and_convert(const NormArgs& args, bool keep, int64_t rows, const Activations& to);

  const Program& program_;
  const Kernels& kernels_;
  const Batch& batch_;
  Workspace& workspace_;
  int threads_;
  std::vector<float*> buffers_;
  size_t attentions_ = 0, cross_attentions_ = 0;  // steps so far
};

}  // namespace qkv
