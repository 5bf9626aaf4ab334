#include "program.h"

#include <algorithm>

#include "error.h"
#include "isa.h"
#include "ops.h"

namespace qkv {

int64_t Batch::rows(Rows kind) const {
  switch (kind) {
    case Rows::tokens: return tokens();
    case Rows::sequences: return sequences();
    case Rows::logits: return static_cast<int64_t>(wanted.size());
  }
  return 0;
}

Program::Program() : kernels_(&chosen_kernels()) {}

int Program::add_buffer(int64_t width, Rows rows, DType type) {
  require(width > 0, "program: a buffer of width ", width);
  require(type != DType::int4, "program: a buffer can't be int4");
  buffers_.push_back({width, rows, type});
  return static_cast<int>(buffers_.size()) - 1;
}

const Buffer& Program::buffer(int number) const {
  require(number >= 0 && static_cast<size_t>(number) < buffers_.size(), "program: no buffer ", number);
  return buffers_[static_cast<size_t>(number)];
}

void Program::add(Step step) {
  check_step(step);
  steps_.push_back(std::move(step));
}

void Program::add_output(const std::string& name, int number) {
  require(!steps_.empty() && out_of(steps_.back()) == number, "program: output '", name,
          "' is not what the last step wrote");
  require(buffer(number).type == DType::float32, "program: output '", name, "' is not float32");
  outputs_[name] = {number, steps_.size()};
}

std::vector<std::string> Program::output_names() const {
  std::vector<std::string> names;
  for (const auto& [name, _] : outputs_) names.push_back(name);
  return names;
}

const Buffer& Program::output(const std::string& name) const {
  const auto found = outputs_.find(name);
  if (found == outputs_.end()) {
    std::string names;
    for (const auto& [known, _] : outputs_) names.append(names.empty() ? "" : ", ").append(known);
    throw Error("this model has no output '" + name + "'; it has: " + names);
  }
  return buffer(found->second.buffer);
}

namespace {

// Sizes of a step's operands must agree; what a model file gets wrong stops here, not in a kernel.
struct StepCheck {
  const std::vector<Buffer>& buffers;
  const Kernels& kernels;

  const Buffer& at(int number) const {
    require(number >= 0 && static_cast<size_t>(number) < buffers.size(), "program: no buffer ", number);
    return buffers[static_cast<size_t>(number)];
  }
  void width(const char* what, int number, int64_t expected) const {
    require(at(number).width == expected, what, ": buffer ", number, " is ", at(number).width, " wide, not ", expected);
  }
  void type(const char* what, int number, DType expected) const {
    require(at(number).type == expected, what, ": buffer ", number, " is ", name_of(at(number).type), ", not ",
            name_of(expected));
  }
  void same_rows(const char* what, int a, int b) const {
    require(at(a).rows == at(b).rows, what, ": buffers ", a, " and ", b, " have rows of different kinds");
  }

  void operator()(const EmbedStep& s) const {
    require(s.tokens != nullptr, "embed: no table");
    type("embed", s.out, DType::float32);
    for (const Weight* table : {s.tokens.get(), s.positions.get(), s.types.get()})
      require(!table || (table->in() == at(s.out).width && !table->gated() && table->dtype() != DType::int4),
              "embed: tables must be as wide as buffer ", s.out, " (", at(s.out).width, ")");
    require(s.position_offset >= 0, "embed: negative position offset");
    require(at(s.out).rows == Rows::tokens, "embed: makes one row for each token");
  }
  void operator()(const RotaryStep& s) const {
    type("rotary", s.out, DType::float32);
    width("rotary", s.out, 2 * static_cast<int64_t>(s.inverse_frequencies.size()));
    require(at(s.out).rows == Rows::tokens, "rotary: makes one row for each token");
    require(!s.beyond || s.beyond->inverse_frequencies.size() == s.inverse_frequencies.size(),
            "rotary: short and long sequences differ in how many frequencies they have");
  }
  // A view of float32 rows.
  void view(const char* what, const View& v) const {
    require(v.width > 0 && v.column >= 0 && v.column + v.width <= at(v.buffer).width, what, ": columns ", v.column,
            " ... ", v.column + v.width, " do not lie in buffer ", v.buffer);
    type(what, v.buffer, DType::float32);
  }
  void operator()(const NormStep& s) const {
    const auto n = static_cast<int64_t>(s.weight.size());
    view("norm", s.x);
    require(n > 0 && s.x.width % n == 0, "norm: a weight of ", n, " values does not divide rows of ", s.x.width);
    require(s.parts() == 1 || (at(s.out).type == DType::float32 && s.converted < 0), "norm: heads stay float32");
    width("norm", s.out, s.x.width);
    same_rows("norm", s.x.buffer, s.out);
    require(s.bias.empty() || s.bias.size() == s.weight.size(), "norm: bias and weight differ in size");
    if (s.converted < 0) return;
    type("norm", s.out, DType::float32);
    require(at(s.converted).type != DType::float32, "norm: buffer ", s.converted, " is float32, not converted");
    width("norm", s.converted, n);
    same_rows("norm", s.x.buffer, s.converted);
  }
  void operator()(const ConvertStep& s) const {
    type("convert", s.x, DType::float32);
    require(at(s.out).type != DType::float32, "convert: buffer ", s.out, " is float32 already");
    width("convert", s.out, at(s.x).width);
    same_rows("convert", s.x, s.out);
  }
  void operator()(const LinearStep& s) const {
    require(s.weight && s.weight->layout() != Layout::rows, "linear: needs a weight in panels");
    require(s.activation <= Function::tanh, "linear: ", name_of(s.activation), " is not one of its activations");
    require(&s.weight->kernels() == &kernels, "linear: weight packed for ", s.weight->kernels().isa, ", program for ",
            kernels.isa);
    width("linear", s.x, s.weight->in());
    type("linear", s.x, s.weight->activations());
    type("linear", s.out, DType::float32);
    width("linear", s.out, s.weight->half_out());
    same_rows("linear", s.x, s.out);
    require(s.out != s.x, "linear: can't write over its input");
    if (s.residual >= 0) {
      type("linear", s.residual, DType::float32);
      width("linear", s.residual, s.weight->half_out());
      same_rows("linear", s.residual, s.out);
    }
  }
  void operator()(const ExpertsStep& s) const {
    const auto experts = static_cast<int64_t>(s.gate_up.size());
    require(experts > 0 && s.down.size() == s.gate_up.size(), "experts: ", experts, " gates and ups, ", s.down.size(),
            " downs");
    require(s.top_k >= 1 && s.top_k <= experts, "experts: ", s.top_k, " of ", experts, " can't be chosen");
    require(s.activation <= Function::tanh, "experts: ", name_of(s.activation), " is not one of their activations");
    width("experts", s.router, experts);
    for (const int buffer : {s.out, s.router, s.residual < 0 ? s.out : s.residual}) {
      type("experts", buffer, DType::float32);
      same_rows("experts", buffer, s.x);
    }
    if (s.residual >= 0) width("experts", s.residual, at(s.out).width);
    require(s.out != s.x && s.out != s.router, "experts: can't write over their input");
    for (size_t i = 0; i < s.down.size(); ++i) {
      const Weight *gate_up = s.gate_up[i].get(), *down = s.down[i].get();
      require(
          gate_up && gate_up->gated() && down && down->layout() == Layout::panels && down->in() == gate_up->half_out(),
          "experts: the two weights of expert ", i, " do not fit together");
      require(&gate_up->kernels() == &kernels && &down->kernels() == &kernels, "experts: weights packed for ",
              gate_up->kernels().isa, ", program for ", kernels.isa);
      width("experts", s.x, gate_up->in());
      type("experts", s.x, gate_up->activations());
      width("experts", s.out, down->out());
    }
  }
  void operator()(const MapStep& s) const {
    type("map", s.x, DType::float32);
    type("map", s.out, DType::float32);
    width("map", s.out, at(s.x).width);
    same_rows("map", s.x, s.out);
  }
  void operator()(const CombineStep& s) const {
    for (const int input : {s.a, s.b}) {
      type("combine", input, DType::float32);
      width("combine", input, at(s.out).width);
      same_rows("combine", input, s.out);
    }
    type("combine", s.out, DType::float32);
  }
  void heads(const char* what, const View& v, int64_t heads, const AttentionShape& shape) const {
    view("attention", v);
    require(v.width == heads * shape.head_dim && at(v.buffer).rows == Rows::tokens, "attention: ", what, " is ",
            v.width, " wide, not ", heads, " x ", shape.head_dim);
  }
  void attention_out(int out, const View& q, const AttentionShape& shape) const {
    shape.check();
    heads("q", q, shape.heads, shape);
    width("attention", out, shape.heads * shape.head_dim);
    type("attention", out, DType::float32);
    require(at(out).rows == Rows::tokens, "attention: makes one row for each token");
    require(out != q.buffer, "attention: can't write over its input");
  }
  void operator()(const AttentionStep& s) const {
    attention_out(s.out, s.q, s.shape);
    heads("k", s.k, s.shape.kv_heads, s.shape);
    heads("v", s.v, s.shape.kv_heads, s.shape);
    require(s.k.buffer != s.out && s.v.buffer != s.out, "attention: can't write over its input");
    if (s.rotary >= 0)
      require(at(s.rotary).width <= s.shape.head_dim && at(s.rotary).width % 2 == 0, "attention: rotary dimension ",
              at(s.rotary).width, " does not fit head_dim ", s.shape.head_dim);
    require(s.layer < 0 || s.shape.causal(), "attention: only causal attention can be cached");
  }
  void operator()(const StoreStep& s) const {
    s.shape.check();
    heads("k", s.k, s.shape.kv_heads, s.shape);
    heads("v", s.v, s.shape.kv_heads, s.shape);
    require(s.layer >= 0, "store: negative layer");
  }
  void operator()(const CrossAttentionStep& s) const {
    attention_out(s.out, s.q, s.shape);
    require(s.layer >= 0, "cross-attention: negative layer");
    require(
        s.shape.before == kEverything && s.shape.after == kEverything && s.shape.slopes.empty() && s.shape.bias.empty(),
        "cross-attention: positions mean nothing between two texts");
  }
  void operator()(const GatherStep& s) const {
    width("gather", s.out, at(s.x).width);
    type("gather", s.x, DType::float32);
    type("gather", s.out, DType::float32);
    require(at(s.x).rows == Rows::tokens && at(s.out).rows == Rows::logits, "gather: tokens to logits rows");
  }
  void operator()(const PoolStep& s) const {
    width("pool", s.out, at(s.x).width);
    type("pool", s.x, DType::float32);
    type("pool", s.out, DType::float32);
    require(at(s.x).rows == Rows::tokens && at(s.out).rows == Rows::sequences, "pool: tokens to sequences");
  }
};

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

// Each sequence has pages for its positions; `length(s)` says how many.
template <class Length>
void check_pages(const KVCache& cache, const std::vector<std::vector<int>>& pages, const Batch& b, Length length) {
  require(static_cast<int64_t>(pages.size()) == b.sequences(), "batch: one page list per sequence");
  for (int64_t s = 0; s < b.sequences(); ++s) {
    const auto& own = pages[static_cast<size_t>(s)];
    require(static_cast<int64_t>(own.size()) * kPageTokens >= length(s), "batch: ", own.size(), " pages do not hold ",
            length(s), " positions");
    for (const int page : own) cache.check(page);
  }
}

void check_caches(const Batch& b) {
  for (const int64_t past : b.past) require(past >= 0 && (past == 0 || b.cache), "batch: a past needs a KV cache");
  if (b.cache) check_pages(*b.cache, b.pages, b, [&](int64_t s) { return b.end_of(s); });
  if (!b.source) return;
  require(b.source_lengths.empty() || static_cast<int64_t>(b.source_lengths.size()) == b.sequences(),
          "batch: one source length per sequence");
  check_pages(*b.source, b.source_pages, b, [&](int64_t s) {
    return b.source_lengths.empty() ? b.end_of(s) : b.source_lengths[static_cast<size_t>(s)];
  });
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

}  // namespace

void Program::check_step(const Step& step) const { std::visit(StepCheck{buffers_, *kernels_}, step); }

namespace {

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
  check_caches(batch);
  for (const Step& step : steps_) std::visit(BatchCheck{batch}, step);
  check_weights(batch);
}

}  // namespace qkv
