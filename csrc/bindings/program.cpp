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

// Of a list, without a detour through NumPy, which takes longer than a short list is worth; or of any kind of array.
template <class T>
std::vector<T> vector_of(const py::object& integers, const char* what) {
  std::vector<T> values;
  if (PyList_CheckExact(integers.ptr())) {
    const auto list = py::reinterpret_borrow<py::list>(integers);
    values.reserve(list.size());
    for (const py::handle& item : list) {
      const long long value = PyLong_AsLongLong(item.ptr());
      if (value == -1 && PyErr_Occurred()) throw py::error_already_set();
      require(std::in_range<T>(value), "batch: ", what, " holds ", value, ", which is out of range");
      values.push_back(static_cast<T>(value));
    }
    return values;
  }
  const auto array = py::array_t<T, py::array::c_style | py::array::forcecast>::ensure(integers);
  if (!array) throw py::error_already_set();
  require(array.ndim() == 1, "batch: ", what, " must have one dimension");
  values.assign(array.data(), array.data() + array.size());
  return values;
}

// Lists of arrays to be written into, which Python keeps.
AttentionArrays arrays_of(const py::list& steps) {
  using Array = py::array_t<float, py::array::c_style>;
  AttentionArrays arrays;
  for (const py::handle& step : steps) {
    arrays.emplace_back();
    for (const py::handle& array : step) {
      require(py::isinstance<Array>(array), "batch: attention weights are written to C-contiguous float32 arrays");
      auto own = py::reinterpret_borrow<Array>(array);
      arrays.back().emplace_back(own.mutable_data(), static_cast<size_t>(own.size()));
    }
  }
  return arrays;
}

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

void register_batch(py::module_& m) {
  using Integers = const py::object&;
  py::class_<Batch>(m, "Batch")
      .def(py::init([](Integers ids, Integers cu_seqlens, Integers types, Integers wanted, Integers past,
                       KVCache* cache, std::vector<std::vector<int>> pages, KVCache* source,
                       std::vector<std::vector<int>> source_pages, Integers source_lengths, Integers planned,
                       const py::list& weights, const py::list& cross_weights) {
             return Batch{.token_ids = vector_of<int32_t>(ids, "token_ids"),
                          .type_ids = vector_of<int32_t>(types, "type_ids"),
                          .cu_seqlens = vector_of<int64_t>(cu_seqlens, "cu_seqlens"),
                          .past = vector_of<int64_t>(past, "past"),
                          .planned = vector_of<int64_t>(planned, "planned"),
                          .wanted = vector_of<int64_t>(wanted, "wanted"),
                          .cache = cache,
                          .pages = std::move(pages),
                          .source = source,
                          .source_pages = std::move(source_pages),
                          .source_lengths = vector_of<int64_t>(source_lengths, "source_lengths"),
                          .weights = arrays_of(weights),
                          .cross_weights = arrays_of(cross_weights)};
           }),
           py::arg("token_ids"), py::arg("cu_seqlens"), py::arg("type_ids"), py::arg("wanted"), py::arg("past"),
           py::arg("cache").none(true) = py::none(), py::arg("pages") = py::list(),
           py::arg("source").none(true) = py::none(), py::arg("source_pages") = py::list(),
           py::arg("source_lengths") = py::list(), py::arg("planned") = py::list(), py::arg("weights") = py::list(),
           py::arg("cross_weights") = py::list(), py::keep_alive<1, 7>(), py::keep_alive<1, 9>(),
           py::keep_alive<1, 13>(), py::keep_alive<1, 14>());
  py::class_<KVCache>(m, "KVCache")
      .def(py::init([](int64_t layers, int64_t kv_heads, int64_t head_dim, const std::string& type, int64_t max_bytes) {
             return std::make_unique<KVCache>(layers, kv_heads, head_dim, kv_type_of(type), max_bytes);
           }),
           py::arg("layers"), py::arg("kv_heads"), py::arg("head_dim"), py::arg("type"), py::arg("max_bytes"))
      .def("allocate", &KVCache::allocate)
      .def("retain", &KVCache::retain, py::arg("page"))
      .def("release", &KVCache::release, py::arg("page"))
      .def("references", &KVCache::references, py::arg("page"))
      .def("copy", &KVCache::copy, py::arg("page"), py::arg("positions"), py::arg("threads"),
           py::call_guard<py::gil_scoped_release>())
      .def("trim", &KVCache::trim, py::call_guard<py::gil_scoped_release>())
      .def(
          "read",
          [](const KVCache& cache, int page, int64_t positions) {
            py::array_t<uint8_t> bytes(cache.page_bytes());
            uint8_t* data = bytes.mutable_data();
            const py::gil_scoped_release release;
            cache.read(page, positions, data);
            return bytes;
          },
          py::arg("page"), py::arg("positions"))
      .def(
          "write",
          [](KVCache& cache, int page, const py::array_t<uint8_t, py::array::c_style>& bytes) {
            require(bytes.size() == cache.page_bytes(), "KV cache: ", bytes.size(), " bytes for a page of ",
                    cache.page_bytes());
            const uint8_t* data = bytes.data();
            const py::gil_scoped_release release;
            cache.write(page, data);
          },
          py::arg("page"), py::arg("bytes").noconvert())
      .def_property_readonly("pages_in_use", &KVCache::pages_in_use)
      .def_property_readonly("max_pages", &KVCache::max_pages)
      .def_property_readonly("page_nbytes", &KVCache::page_bytes);
}

}  // namespace

void register_program(py::module_& m) {
  register_batch(m);
  py::class_<Cancel>(m, "Cancel").def(py::init<>()).def("set", &Cancel::set).def("is_set", &Cancel::is_set);
  m.def(
      "page_nbytes",
      [](int64_t layers, int64_t kv_heads, int64_t head_dim, const std::string& type) {
        return layers * kv_heads * page_bytes(kv_type_of(type), head_dim);
      },
      py::arg("layers"), py::arg("kv_heads"), py::arg("head_dim"), py::arg("type"));
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
