#include "cpu/program.h"

#include <utility>

#include "bindings.h"
#include "cpu/error.h"
#include "cpu/ops.h"
#include "long_call.h"

namespace qkv {
namespace {

using ViewTuple = std::tuple<int, int64_t, int64_t>;
using Weights = std::vector<std::shared_ptr<Weight>>;

View view_of(const ViewTuple& t) { return {std::get<0>(t), std::get<1>(t), std::get<2>(t)}; }

// Of each attention step of a kind, in their order.
template <class Kind>
std::vector<int64_t> heads_of(const Program& program) {
  std::vector<int64_t> heads;
  for (const Step& step : program.steps())
    if (const auto* attention = std::get_if<Kind>(&step)) heads.push_back(attention->shape.heads);
  return heads;
}

Rows rows_of(const std::string& name) {
  if (name == "tokens") return Rows::tokens;
  if (name == "sequences") return Rows::sequences;
  if (name == "logits") return Rows::logits;
  throw Error("a buffer's rows are tokens, sequences or logits, not '" + name + "'");
}

Pooling pooling_of(const std::string& name) {
  static const std::map<std::string, Pooling> known = {
      {"mean", Pooling::mean}, {"first", Pooling::first}, {"last", Pooling::last}, {"max", Pooling::max}};
  const auto found = known.find(name);
  require(found != known.end(), "no pooling '", name, "'");
  return found->second;
}

// One array for each output.
std::vector<py::array_t<float>> run(Program& program, const std::vector<std::string>& outputs, const Batch& batch,
                                    int threads, const Cancel* cancel) {
  program.check(batch);
  std::vector<py::array_t<float>> arrays;
  std::vector<float*> data;
  for (const std::string& name : outputs) {
    const Buffer& result = program.output(name);
    arrays.emplace_back(std::vector<py::ssize_t>{batch.rows(result.rows), result.width});
    data.push_back(arrays.back().mutable_data());
  }
  const LongCall call(cancel);
  program.run(outputs, data, batch, threads);
  return arrays;
}

}  // namespace

void register_program(py::module_& m) {
  py::class_<Cancel>(m, "Cancel").def(py::init<>()).def("set", &Cancel::set).def("is_set", &Cancel::is_set);
  py::class_<LongRotary>(m, "LongRotary")
      .def(py::init([](int64_t length, std::vector<float> frequencies, float scale, float ntk_factor) {
             require(length > 0 && ntk_factor >= 0, "rotary: negative length or factor");
             return LongRotary{length, std::move(frequencies), scale, ntk_factor};
           }),
           py::arg("length"), py::arg("inverse_frequencies"), py::arg("scale"), py::arg("ntk_factor"));
  py::class_<Program>(m, "Program")
      .def(py::init<>())
      .def(
          "buffer",
          [](Program& p, int64_t width, const std::string& rows, const std::string& dtype) {
            return p.add_buffer(width, rows_of(rows), dtype_of(dtype));
          },
          py::arg("width"), py::arg("rows"), py::arg("dtype") = "float32")
      .def(
          "embed",
          [](Program& p, int out, std::shared_ptr<Weight> tokens, float scale, std::shared_ptr<Weight> positions,
             int64_t position_offset, std::shared_ptr<Weight> types) {
            p.add(EmbedStep{out, std::move(tokens), std::move(positions), std::move(types), scale, position_offset});
          },
          py::arg("out"), py::arg("tokens"), py::arg("scale"), py::arg("positions").none(true),
          py::arg("position_offset"), py::arg("types").none(true))
      .def(
          "rotary",
          [](Program& p, int out, std::vector<float> frequencies, float scale, std::optional<LongRotary> beyond) {
            p.add(RotaryStep{out, std::move(frequencies), scale, std::move(beyond)});
          },
          py::arg("out"), py::arg("inverse_frequencies"), py::arg("scale"), py::arg("beyond").none(true) = py::none())
      .def(
          "norm",
          [](Program& p, int out, const ViewTuple& x, std::vector<float> weight, std::vector<float> bias, float eps,
             bool centred, int converted) {
            p.add(NormStep{out, view_of(x), converted, std::move(weight), std::move(bias), eps, centred});
          },
          py::arg("out"), py::arg("x"), py::arg("weight"), py::arg("bias"), py::arg("eps"), py::arg("centred"),
          py::arg("converted") = -1)
      .def(
          "convert", [](Program& p, int out, int x) { p.add(ConvertStep{out, x}); }, py::arg("out"), py::arg("x"))
      .def(
          "linear",
          [](Program& p, int out, int x, std::shared_ptr<Weight> weight, const std::string& activation, int residual) {
            p.add(LinearStep{out, x, residual, std::move(weight), function_of(activation)});
          },
          py::arg("out"), py::arg("x"), py::arg("weight"), py::arg("activation"), py::arg("residual"))
      .def(
          "experts",
          [](Program& p, int out, int x, int router, const Weights& gate_up, const Weights& down,
             const std::string& activation, int64_t top_k, int residual) {
            p.add(ExpertsStep{out,
                              x,
                              router,
                              residual,
                              {gate_up.begin(), gate_up.end()},
                              {down.begin(), down.end()},
                              top_k,
                              function_of(activation)});
          },
          py::arg("out"), py::arg("x"), py::arg("router"), py::arg("gate_up"), py::arg("down"), py::arg("activation"),
          py::arg("top_k"), py::arg("residual"))
      .def(
          "map",
          [](Program& p, int out, int x, const std::string& function, float before, float after) {
            p.add(MapStep{out, x, function_of(function), before, after});
          },
          py::arg("out"), py::arg("x"), py::arg("function"), py::arg("before"), py::arg("after"))
      .def(
          "combine",
          [](Program& p, int out, int a, int b, const std::string& kind) {
            require(kind == "add" || kind == "multiply", "no combination '", kind, "'");
            p.add(CombineStep{out, a, b, kind == "add" ? Combination::add : Combination::multiply});
          },
          py::arg("out"), py::arg("a"), py::arg("b"), py::arg("kind"))
      .def(
          "store",
          [](Program& p, const ViewTuple& k, const ViewTuple& v, int64_t layer, AttentionShape shape) {
            p.add(StoreStep{view_of(k), view_of(v), std::move(shape), layer});
          },
          py::arg("k"), py::arg("v"), py::arg("layer"), py::arg("shape"))
      .def(
          "cross_attention",
          [](Program& p, int out, const ViewTuple& q, int64_t layer, AttentionShape shape) {
            p.add(CrossAttentionStep{out, view_of(q), std::move(shape), layer});
          },
          py::arg("out"), py::arg("q"), py::arg("layer"), py::arg("shape"))
      .def(
          "attention",
          [](Program& p, int out, const ViewTuple& q, const ViewTuple& k, const ViewTuple& v, int rotary, int64_t layer,
             AttentionShape shape) {
            p.add(AttentionStep{out, view_of(q), view_of(k), view_of(v), std::move(shape), rotary, layer});
          },
          py::arg("out"), py::arg("q"), py::arg("k"), py::arg("v"), py::arg("rotary"), py::arg("layer"),
          py::arg("shape"))
      .def(
          "gather", [](Program& p, int out, int x) { p.add(GatherStep{out, x}); }, py::arg("out"), py::arg("x"))
      .def(
          "pool",
          [](Program& p, int out, int x, const std::string& pooling) { p.add(PoolStep{out, x, pooling_of(pooling)}); },
          py::arg("out"), py::arg("x"), py::arg("pooling"))
      .def("output", &Program::add_output, py::arg("name"), py::arg("buffer"))
      .def("maxima", &Program::add_maxima, py::arg("name"))
      .def("run", &run, py::arg("outputs"), py::arg("batch"), py::arg("threads"),
           py::arg("cancel").none(true) = py::none())
      .def("__str__", &Program::describe)
      .def(
          "width", [](const Program& p, const std::string& output) { return p.output(output).width; },
          py::arg("output"))
      .def(
          "rows",
          [](const Program& p, const std::string& output) {
            static constexpr std::array names = {"tokens", "sequences", "logits"};
            return names[static_cast<size_t>(p.output(output).rows)];
          },
          py::arg("output"))
      .def_property_readonly("outputs", &Program::output_names)
      .def_property_readonly("reach", &Program::reach)
      .def("rotary_class", &Program::rotary_class, py::arg("planned"))
      .def_property_readonly("attention_heads", &heads_of<AttentionStep>)
      .def_property_readonly("cross_attention_heads", &heads_of<CrossAttentionStep>)
      .def_property_readonly("profiling", [](Program& p) { return p.profile().enabled(); })
      .def("profile", [](Program& p) {
        std::map<std::string, std::tuple<int64_t, double, double, double>> table;
        for (const auto& [kind, u] : p.profile().usage())
          table[kind] = {u.calls, u.seconds, u.work.flops, u.work.bytes};
        return table;
      });
}

}  // namespace qkv
