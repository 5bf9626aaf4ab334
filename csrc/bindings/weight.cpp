#include "cpu/weight.h"

#include "bindings.h"
#include "cpu/error.h"
#include "cpu/isa.h"

namespace qkv {
namespace {

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
      .def(
          "fill",
          [](Weight& w, const py::array& a, int64_t at, int half, int threads) {
            const Source source = source_of(a, "weight");
            const py::gil_scoped_release release;
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
}

}  // namespace qkv
