#include "program.h"

#include <algorithm>

#include "error.h"
#include "isa.h"

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
  require(!steps_.empty() && std::visit([](const auto& step) { return step.out; }, steps_.back()) == number,
          "program: output '", name, "' is not what the last step wrote");
  require(buffer(number).type == DType::float32, "program: output '", name, "' is not float32");
  outputs_[name] = {number, steps_.size()};
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
  }
  void operator()(const NormStep& s) const {
    const auto n = static_cast<int64_t>(s.weight.size());
    type("norm", s.x, DType::float32);
    width("norm", s.x, n);
    width("norm", s.out, n);
    same_rows("norm", s.x, s.out);
    require(s.bias.empty() || s.bias.size() == s.weight.size(), "norm: bias and weight differ in size");
    if (s.converted < 0) return;
    type("norm", s.out, DType::float32);
    require(at(s.converted).type != DType::float32, "norm: buffer ", s.converted, " is float32, not converted");
    width("norm", s.converted, n);
    same_rows("norm", s.x, s.converted);
  }
  void operator()(const ConvertStep& s) const {
    type("convert", s.x, DType::float32);
    require(at(s.out).type != DType::float32, "convert: buffer ", s.out, " is float32 already");
    width("convert", s.out, at(s.x).width);
    same_rows("convert", s.x, s.out);
  }
  void operator()(const LinearStep& s) const {
    require(s.weight && s.weight->layout() != Layout::rows, "linear: needs a weight in panels");
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
  void operator()(const AttentionStep& s) const {
    const AttentionShape& shape = s.shape;
    shape.check();
    const auto view = [&](const char* name, const View& v, int64_t heads) {
      require(v.width == heads * shape.head_dim, "attention: ", name, " is ", v.width, " wide, not ", heads, " x ",
              shape.head_dim);
      require(v.column >= 0 && v.column + v.width <= at(v.buffer).width && at(v.buffer).rows == Rows::tokens,
              "attention: ", name, " does not lie in buffer ", v.buffer);
      type("attention", v.buffer, DType::float32);
      require(v.buffer != s.out, "attention: can't write over its input");
    };
    view("q", s.q, shape.heads);
    view("k", s.k, shape.kv_heads);
    view("v", s.v, shape.kv_heads);
    width("attention", s.out, shape.heads * shape.head_dim);
    type("attention", s.out, DType::float32);
    if (s.rotary >= 0)
      require(at(s.rotary).width <= shape.head_dim && at(s.rotary).width % 2 == 0, "attention: rotary dimension ",
              at(s.rotary).width, " does not fit head_dim ", shape.head_dim);
    require(s.layer >= 0, "attention: negative layer");
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
  require(b.type_ids.empty() || b.type_ids.size() == b.token_ids.size(), "batch: ", b.type_ids.size(),
          " token_type_ids for ", b.token_ids.size(), " token ids");
  for (const int64_t row : b.wanted)
    require(row >= 0 && row < b.tokens(), "batch: wanted row ", row, " of ", b.tokens());
}

void check_pages(const Batch& b) {
  if (!b.cache) {
    for (const int64_t past : b.past) require(past == 0, "batch: a past needs a KV cache");
    return;
  }
  require(static_cast<int64_t>(b.pages.size()) == b.sequences(), "batch: one page list per sequence");
  for (int64_t s = 0; s < b.sequences(); ++s) {
    const auto& pages = b.pages[static_cast<size_t>(s)];
    const int64_t length =
        b.past_of(s) + b.cu_seqlens[static_cast<size_t>(s) + 1] - b.cu_seqlens[static_cast<size_t>(s)];
    require(b.past_of(s) >= 0, "batch: negative past");
    require(static_cast<int64_t>(pages.size()) * kPageTokens >= length, "batch: ", pages.size(), " pages do not hold ",
            length, " positions");
    for (const int page : pages) b.cache->check(page);
  }
}

void check_ids(const std::vector<int32_t>& ids, const char* what, int64_t rows) {
  for (size_t i = 0; i < ids.size(); ++i)
    require(ids[i] >= 0 && ids[i] < rows, what, " ", ids[i], " at position ", i,
            " of the batch is out of range: the model has ", rows, " (0 ... ", rows - 1, ")");
}

}  // namespace

void Program::check_step(const Step& step) const { std::visit(StepCheck{buffers_, *kernels_}, step); }

void Program::check(const Batch& batch) const {
  check_sequences(batch);
  check_pages(batch);
  for (const Step& step : steps_) {
    if (const auto* embed = std::get_if<EmbedStep>(&step)) {
      check_ids(batch.token_ids, "token id", embed->tokens->out());
      if (!embed->types) require(batch.type_ids.empty(), "this model has no token types: leave out token_type_ids");
      else check_ids(batch.type_ids, "token type id", embed->types->out());
      if (!embed->positions) continue;
      const int64_t most = embed->positions->out() - embed->position_offset;
      for (int64_t s = 0; s < batch.sequences(); ++s) {
        const auto i = static_cast<size_t>(s);
        const int64_t length = batch.past_of(s) + batch.cu_seqlens[i + 1] - batch.cu_seqlens[i];
        require(length <= most, "sequence ", s, " has ", length, " tokens; the model's positions end at ", most);
      }
    } else if (const auto* attention = std::get_if<AttentionStep>(&step); attention && batch.cache) {
      const KVCache& cache = *batch.cache;
      const AttentionShape& shape = attention->shape;
      require(shape.causal(), "a KV cache serves causal attention only");
      require(attention->layer < cache.layers() && shape.kv_heads == cache.heads() &&
                  shape.head_dim == cache.head_dim() && shape.type == cache.type(),
              "the KV cache was made for another model: ", cache.layers(), " layers of ", cache.heads(), " x ",
              cache.head_dim(), " in ", name_of(cache.type()));
    }
  }
}

}  // namespace qkv
