// What a model file gets wrong stops here, when a program is built, and not in a kernel.
#include "error.h"
#include "ops.h"
#include "program.h"

namespace qkv {
namespace {

// Sizes of a step's operands must agree.
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

}  // namespace

void Program::check_step(const Step& step) const { std::visit(StepCheck{buffers_, *kernels_}, step); }

}  // namespace qkv
