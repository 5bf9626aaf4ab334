// Programs as text: one line a step, %n a buffer, e.g. "%3 = linear(%2, bfloat16[1152, 384] + bias, gelu) + %1".
#include <array>
#include <sstream>

#include "ops.h"
#include "program.h"

namespace qkv {
namespace {

struct Describe {
  std::ostringstream& text;
  const std::vector<Buffer>& buffers;

  void weight(const Weight& w) {
    text << name_of(w.dtype()) << "[" << w.out() << ", " << w.in() << "]";
    if (w.bias()) text << " + bias";
  }
  void type(int buffer) {
    const DType type = buffers[static_cast<size_t>(buffer)].type;
    if (type != DType::float32) text << " as " << name_of(type);
  }
  void view(const View& v) { text << "%" << v.buffer << "[" << v.column << ":" << v.column + v.width << "]"; }

  void options(const AttentionShape& shape) {
    text << ", " << shape.heads;
    if (shape.heads != shape.kv_heads) text << "/" << shape.kv_heads;
    text << " heads of " << shape.head_dim << (shape.causal() ? ", causal" : "");
    if (shape.before != kEverything) text << ", window " << shape.before + 1;
    if (shape.soft_cap != 0) text << ", soft cap " << shape.soft_cap;
    if (!shape.slopes.empty()) text << (shape.rounded_alibi ? ", rounded ALiBi" : ", ALiBi");
    if (!shape.bias.empty()) text << ", bias of distances up to " << shape.reach;
    if (shape.type != KVType::float32) text << ", in " << name_of(shape.type);
    if (shape.interleaved) text << ", interleaved";
  }

  void operator()(const EmbedStep& s) {
    text << "%" << s.out << " = embed(token ";
    weight(*s.tokens);
    if (s.scale != 1) text << " x " << s.scale;
    if (s.positions) {
      text << ", position ";
      weight(*s.positions);
      if (s.position_offset) text << " from " << s.position_offset;
    }
    if (s.types) {
      text << ", type ";
      weight(*s.types);
    }
    text << ")";
  }
  void operator()(const RotaryStep& s) {
    text << "%" << s.out << " = rotary(" << s.inverse_frequencies.size() << " frequencies";
    if (s.scale != 1) text << " x " << s.scale;
    if (s.beyond) text << "; others beyond " << s.beyond->length << " tokens";
    text << ")";
  }
  void operator()(const NormStep& s) {
    text << "%" << s.out << " = " << (s.centred ? "layer_norm" : "rms_norm") << "(";
    if (s.x.width == buffers[static_cast<size_t>(s.x.buffer)].width) text << "%" << s.x.buffer;
    else view(s.x);
    if (s.parts() > 1) text << ", " << s.parts() << " heads";
    text << ", eps " << s.eps << ")";
    type(s.out);
    if (s.converted < 0) return;
    text << ", %" << s.converted;
    type(s.converted);
  }
  void operator()(const ConvertStep& s) {
    text << "%" << s.out << " = convert(%" << s.x << ")";
    type(s.out);
  }
  void operator()(const LinearStep& s) {
    text << "%" << s.out << " = linear(%" << s.x << ", ";
    weight(*s.weight);
    if (s.activation != Function::identity) text << ", " << name_of(s.activation);
    if (s.weight->gated()) text << ", gated";
    text << ")";
    if (s.residual >= 0) text << " + %" << s.residual;
    if (s.maxima >= 0) text << ", maxima in %" << s.maxima;
  }
  void operator()(const ExpertsStep& s) {
    text << "%" << s.out << " = experts(%" << s.x << ", " << s.top_k << " of " << s.gate_up.size() << " by %"
         << s.router << ", ";
    weight(*s.gate_up.front());
    text << ", " << name_of(s.activation) << ", gated, ";
    weight(*s.down.front());
    text << ")";
    if (s.residual >= 0) text << " + %" << s.residual;
  }
  void operator()(const AttentionStep& s) {
    text << "%" << s.out << " = attention(q ";
    view(s.q);
    text << ", k ";
    view(s.k);
    text << ", v ";
    view(s.v);
    options(s.shape);
    if (s.rotary >= 0) text << ", rotated by %" << s.rotary;
    text << ")";
  }
  void operator()(const StoreStep& s) {
    text << "store(k ";
    view(s.k);
    text << ", v ";
    view(s.v);
    text << ", source layer " << s.layer << ")";
  }
  void operator()(const CrossAttentionStep& s) {
    text << "%" << s.out << " = cross_attention(q ";
    view(s.q);
    text << ", source layer " << s.layer;
    options(s.shape);
    text << ")";
  }
  void operator()(const MapStep& s) {
    text << "%" << s.out << " = ";
    if (s.after != 1) text << s.after << " ";
    text << name_of(s.function) << "(";
    if (s.before != 1) text << s.before << " ";
    text << "%" << s.x << ")";
  }
  void operator()(const CombineStep& s) {
    text << "%" << s.out << " = %" << s.a << (s.kind == Combination::add ? " + %" : " * %") << s.b;
  }
  void operator()(const GatherStep& s) { text << "%" << s.out << " = gather(%" << s.x << ", wanted rows)"; }
  void operator()(const PoolStep& s) {
    static constexpr std::array names = {"mean", "first", "last", "max"};
    text << "%" << s.out << " = pool(%" << s.x << ", " << names[static_cast<size_t>(s.pooling)] << ")";
  }
};

}  // namespace

const char* kind_of(const Step& step) {
  static constexpr std::array kinds = {"embed",   "rotary",    "norm",  "convert",         "linear", "experts", "map",
                                       "combine", "attention", "store", "cross_attention", "gather", "pool"};
  static_assert(kinds.size() == std::variant_size_v<Step>);
  return kinds[step.index()];
}

int out_of(const Step& step) {
  return std::visit(
      [](const auto& s) {
        if constexpr (std::is_same_v<decltype(s), const StoreStep&>) return -1;
        else return s.out;
      },
      step);
}

std::string Program::describe() const {
  std::ostringstream text;
  for (size_t i = 0; i < steps_.size(); ++i) {
    std::visit(Describe{text, buffers_}, steps_[i]);
    for (const auto& [name, output] : outputs_)
      if (output.steps == i + 1) text << "  -> " << name;
    text << "\n";
  }
  return text.str();
}

}  // namespace qkv
