// A program: the lowered graph. A flat list of steps over numbered buffers, immutable once built, shared by every
// request. Each output is the buffer of one step, and a run executes the steps up to that one.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "attention.h"
#include "experts.h"
#include "kv_cache.h"
#include "memory.h"
#include "profile.h"
#include "weight.h"

namespace qkv {

using WeightPtr = std::shared_ptr<const Weight>;

// How many rows a buffer has in a run.
enum class Rows { tokens, sequences, logits };

struct Buffer {
  int64_t width;  // values of a row
  Rows rows;
  DType type;  // float32, or what linear layers want: bfloat16, or int8 with a scale for each row
};

// `width` columns of a buffer, from `column` on.
struct View {
  int buffer;
  int64_t column = 0;
  int64_t width = 0;
};

enum class Pooling { mean, first, last, max };

// x = scale tokens[id] (+ positions[position + offset]) (+ types[type])
struct EmbedStep {
  int out;
  WeightPtr tokens, positions, types;
  float scale = 1;
  int64_t position_offset = 0;
};

// What rotates sequences that are planned to be longer than `length`. With an ntk_factor f, frequency i of a sequence
// of n tokens is divided by (f n / length - f + 1)^(2i / (dim - 2)).
struct LongRotary {
  int64_t length;
  std::vector<float> inverse_frequencies;
  float scale;
  float ntk_factor;  // 0: none

  std::vector<float> frequencies(int64_t planned) const;
};

// scale cos and scale sin of position * frequency, for attention to rotate queries and keys with
struct RotaryStep {
  int out;
  std::vector<float> inverse_frequencies;
  float scale;
  std::optional<LongRotary> beyond;
};

// Of each part of a row that is as wide as the weight: whole rows, or heads.
struct NormStep {
  int out;  // of any type; float32 for heads
  View x;
  int converted;                    // or -1; the same rows again, as linear layers read them, when out is float32
  std::vector<float> weight, bias;  // bias may be empty
  float eps;
  bool centred;

  int64_t parts() const { return x.width / static_cast<int64_t>(weight.size()); }
};

// float32 rows as the linear layers of narrower weights read them
struct ConvertStep {
  int out, x;
};

// y = f(x W^T + bias) (* gate) + residual
struct LinearStep {
  int out, x, residual;  // residual: a buffer or -1
  WeightPtr weight;
  Function activation;
  int maxima = -1;  // or a buffer: see LinearArgs
};

// y = residual + the sum over the top_k likeliest experts of a token: weight * down(f(gate x) * up x). The experts'
// probabilities are a softmax of the router's logits; those of the chosen ones are scaled to a sum of 1.
struct ExpertsStep {
  int out, x, router, residual;          // router: logits [rows, experts]; residual: a buffer or -1
  std::vector<WeightPtr> gate_up, down;  // [experts]; gate and up as one gated weight
  int64_t top_k;
  Function activation;
};

// y = after f(before x)
struct MapStep {
  int out, x;
  Function function;
  float before, after;
};

enum class Combination { add, multiply };

// y = a + b or a * b, value by value
struct CombineStep {
  int out, a, b;
  Combination kind;
};

struct AttentionStep {
  int out;
  View q, k, v;
  AttentionShape shape;
  int rotary;     // a buffer or -1
  int64_t layer;  // of the batch's cache; -1: keys and values are forgotten after the run
};

// Keys and values for a decoder's cross-attention: into the batch's source cache.
struct StoreStep {
  View k, v;
  AttentionShape shape;  // of the cross-attention
  int64_t layer;
};

// Attention to what StoreStep stored.
struct CrossAttentionStep {
  int out;
  View q;
  AttentionShape shape;
  int64_t layer;
};

// the rows whose logits are wanted
struct GatherStep {
  int out, x;
};

// one row for each sequence
struct PoolStep {
  int out, x;
  Pooling pooling;
};

using Step = std::variant<EmbedStep, RotaryStep, NormStep, ConvertStep, LinearStep, ExpertsStep, MapStep, CombineStep,
                          AttentionStep, StoreStep, CrossAttentionStep, GatherStep, PoolStep>;

const char* kind_of(const Step& step);
int out_of(const Step& step);  // the buffer that it writes, or -1

using AttentionArrays = std::vector<std::vector<std::span<float>>>;

// What one run works on: sequences laid end to end, no padding.
struct Batch {
  std::vector<int32_t> token_ids;       // [tokens]
  std::vector<int32_t> type_ids;        // [tokens] or empty: all 0
  std::vector<int64_t> cu_seqlens;      // [sequences + 1]: sequence s is tokens cu_seqlens[s] ... cu_seqlens[s + 1] - 1
  std::vector<int64_t> past;            // [sequences] positions already in the cache, or empty: all 0
  std::vector<int64_t> planned;         // [sequences] positions that each will have in the end, or empty: those it has
  std::vector<int64_t> wanted;          // token rows whose logits are wanted
  KVCache* cache = nullptr;             // where keys and values go; null: they are forgotten after the run
  std::vector<std::vector<int>> pages;  // with a cache, for each sequence: enough for past + new positions
  // An encoder's keys and values: its own run writes them, its decoder's runs read them.
  KVCache* source = nullptr;
  std::vector<std::vector<int>> source_pages;
  std::vector<int64_t> source_lengths;  // [sequences]; of a decoder's run
  // Where weights go, for the attention steps of a program in their order, and for its cross-attention steps: an array
  // [heads, new tokens, keys] for each sequence, or nothing. Both may be shorter than there are steps.
  AttentionArrays weights, cross_weights;

  int64_t tokens() const { return static_cast<int64_t>(token_ids.size()); }
  int64_t sequences() const { return static_cast<int64_t>(cu_seqlens.size()) - 1; }
  int64_t past_of(int64_t s) const { return past.empty() ? 0 : past[static_cast<size_t>(s)]; }
  int64_t end_of(int64_t s) const {
    const auto i = static_cast<size_t>(s);
    return past_of(s) + cu_seqlens[i + 1] - cu_seqlens[i];
  }
  int64_t planned_of(int64_t s) const { return planned.empty() ? end_of(s) : planned[static_cast<size_t>(s)]; }
  int64_t rows(Rows kind) const;
};

// Memory of one run, kept for the next.
struct Workspace {
  std::vector<Memory> buffers;
  std::vector<Memory> threads;     // scratch of each thread
  std::vector<int64_t> positions;  // [tokens], absolute
  AttentionWorkspace attention;
  ExpertsWorkspace experts;
};

class Program {
 public:
  Program();

  int add_buffer(int64_t width, Rows rows, DType type);
  void add(Step step);                                   // checked: sizes must agree
  void add_output(const std::string& name, int buffer);  // what the last step wrote; under any number of names
  void add_maxima(const std::string& name);              // as an output: those of the last step, a linear layer

  const Kernels& kernels() const { return *kernels_; }
  const std::vector<Buffer>& buffers() const { return buffers_; }
  const std::vector<Step>& steps() const { return steps_; }
  const Buffer& output(const std::string& name) const;
  std::vector<std::string> output_names() const;
  std::string describe() const;
  Profile& profile() { return profile_; }

  // The most positions before its own that a query looks at, in any layer whose keys and values can be cached; nothing
  // when some layer sees all of them.
  std::optional<int64_t> reach() const;
  // What a position's keys and values depend on, beside the tokens up to there, when its sequence is planned to have so
  // many: texts of equal classes can share pages.
  int64_t rotary_class(int64_t planned) const;

  // Throws Error when ids, positions or pages are out of range.
  void check(const Batch& batch) const;
  // Writes the rows of each output to its array; the batch has passed check(). Without outputs all steps are run, for
  // what they store. Safe to call from many threads at once. An Interruption may end it: then arrays, and positions of
  // the cache from `past` on, hold anything.
  void run(const std::vector<std::string>& outputs, const std::vector<float*>& arrays, const Batch& batch, int threads);

 private:
  struct Output {
    int buffer;
    size_t steps;
  };
  struct Lease;
  void check_step(const Step& step) const;
  void check_weights(const Batch& batch) const;
  const Buffer& buffer(int number) const;

  const Kernels* kernels_;
  std::vector<Buffer> buffers_;
  std::vector<Step> steps_;
  std::map<std::string, Output> outputs_;
  Profile profile_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Workspace>> idle_;  // workspaces that no run uses now
};

}  // namespace qkv
