#include "cpu/weight.h"

#include <optional>
#include <span>

#include "bindings.h"
#include "cpu/checksum.h"
#include "cpu/error.h"
#include "cpu/isa.h"
#include "long_call.h"

namespace qkv {
namespace {

using Floats = py::array_t<float, py::array::c_style>;  // never converted
using Ints = py::array_t<int32_t, py::array::c_style>;

// float32, float16 or uint16 (which holds bfloat16 bits); one or two dimensions, any strides.
Source source_of(const py::array& a, const char* what) {
  require(a.ndim() == 1 || a.ndim() == 2, what, ": expected 1 or 2 dimensions, got ", a.ndim());
  Source source{};
  source.data = a.data();
  if (py::isinstance<py::array_t<float>>(a)) source.type = Source::Type::float32;
  else if (a.dtype().kind() == 'f' && a.itemsize() == 2) source.type = Source::Type::float16;
  else if (py::isinstance<py::array_t<uint16_t>>(a)) source.type = Source::Type::bfloat16;
  else
    throw Error(std::string(what) + ": expected float32, float16 or uint16 (bfloat16 bits), got " +
                py::str(a.dtype()).cast<std::string>());
  for (int i = 0; i < a.ndim(); ++i)
    require(a.strides(i) % a.itemsize() == 0, what, ": strides must be whole elements");
  const int columns = static_cast<int>(a.ndim()) - 1;
  source.rows = a.ndim() == 2 ? a.shape(0) : 1;
  source.columns = a.shape(columns);
  source.row_stride = a.ndim() == 2 ? a.strides(0) / a.itemsize() : 0;
  source.column_stride = a.strides(columns) / a.itemsize();
  return source;
}

// Python's object, kept until the last C++ owner is gone; that may happen on a thread without the GIL.
std::shared_ptr<const void> owner_of(const py::object& object) {
  return {new py::object(object), [](py::object* kept) {
            const py::gil_scoped_acquire gil;
            delete kept;
          }};
}

template <class T>
std::span<const T> values_of(const std::optional<py::array_t<T, py::array::c_style>>& a) {
  return a ? std::span<const T>(a->data(), static_cast<size_t>(a->size())) : std::span<const T>();
}

// None where there is none; otherwise it looks at the weight's own memory.
template <class T, class Value>
py::object array_of(std::span<const Value> values, const py::object& weight) {
  if (values.empty()) return py::none();
  py::array_t<T> a({values.size()}, {sizeof(T)}, reinterpret_cast<const T*>(values.data()), weight);
  a.attr("flags").attr("writeable") = false;
  return a;
}

Layout layout_of(const std::string& name) {
  if (name == "panels") return Layout::panels;
  if (name == "gated") return Layout::gated_panels;
  if (name == "rows") return Layout::rows;
  throw Error("weight layout is panels, gated or rows, not '" + name + "'");
}

}  // namespace

void register_weight(py::module_& m) {
  py::class_<Weight, std::shared_ptr<Weight>>(m, "Weight")
      .def(py::init([](int64_t out, int64_t in, const std::string& dtype, const std::string& layout) {
             return std::make_shared<Weight>(out, in, dtype_of(dtype), layout_of(layout));
           }),
           py::arg("out_features"), py::arg("in_features"), py::arg("dtype"), py::arg("layout"))
      .def_static(
          "from_parts",
          [](int64_t out, int64_t in, const std::string& dtype, const std::string& layout,
             const py::array_t<uint8_t, py::array::c_style>& panels, const std::optional<Floats>& scales,
             const std::optional<Ints>& offsets, const std::optional<Floats>& bias) {
            const auto bytes = std::as_bytes(std::span(panels.data(), static_cast<size_t>(panels.size())));
            const Weight::Parts parts{bytes, values_of(scales), values_of(offsets), values_of(bias)};
            return std::make_shared<Weight>(out, in, dtype_of(dtype), layout_of(layout), parts, owner_of(panels));
          },
          py::arg("out_features"), py::arg("in_features"), py::arg("dtype"), py::arg("layout"),
          py::arg("panels").noconvert(), py::arg("scales").noconvert(), py::arg("offsets").noconvert(),
          py::arg("bias").noconvert())
      .def("parts",
           [](const std::shared_ptr<Weight>& w) {
             const Weight::Parts parts = w->parts();
             const py::object self = py::cast(w);
             py::dict d;
             d["panels"] = array_of<uint8_t>(parts.panels, self);
             d["scales"] = array_of<float>(parts.scales, self);
             d["offsets"] = array_of<int32_t>(parts.offsets, self);
             d["bias"] = array_of<float>(parts.bias, self);
             return d;
           })
      .def(
          "fill",
          [](Weight& w, const py::array& a, int64_t at, int half, int threads) {
            const Source source = source_of(a, "weight");
            const LongCall call;
            w.fill(source, at, half, threads);
          },
          py::arg("rows"), py::arg("at"), py::arg("half"), py::arg("threads"))
      .def(
          "fill_bias",
          [](Weight& w, const py::array& a, int64_t at, int half) { w.fill_bias(source_of(a, "bias"), at, half); },
          py::arg("values"), py::arg("at"), py::arg("half"))
      .def_property_readonly("nbytes", &Weight::nbytes);
  m.def(
      "activations_of",
      [](const std::string& dtype) { return name_of(activations_of(dtype_of(dtype), chosen_kernels())); },
      py::arg("dtype"));
  m.attr("layout_version") = kLayoutVersion;
  m.def(
      "layout_traits", [](const std::string& dtype) { return layout_traits(dtype_of(dtype), chosen_kernels()); },
      py::arg("dtype"));
  m.def(
      "checksum",
      [](const py::array_t<uint8_t, py::array::c_style>& a, int threads) {
        const auto bytes = static_cast<size_t>(a.size());
        const LongCall call;
        return checksum(a.data(), bytes, threads);
      },
      py::arg("bytes").noconvert(), py::arg("threads"));
}

}  // namespace qkv
