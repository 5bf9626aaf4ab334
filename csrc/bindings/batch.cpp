// What runs read: batches of tokens, and the pages of their keys and values.
#include <utility>

#include "bindings.h"
#include "cpu/error.h"
#include "cpu/program.h"

namespace qkv {
namespace {

using Integers = const py::object&;

template <class T>
T integer_of(PyObject* number, const char* what) {
  const long long value = PyLong_AsLongLong(number);
  if (value == -1 && PyErr_Occurred()) throw py::error_already_set();
  require(std::in_range<T>(value), "batch: ", what, " holds ", value, ", which is out of range");
  return static_cast<T>(value);
}

// Behind the others: the items from `first` on of a list or a tuple, `count` of them.
template <class T>
void append(std::vector<T>& values, const py::handle& items, int64_t first, int64_t count, const char* what) {
  require(first >= 0 && count >= 0 && first + count <= PySequence_Fast_GET_SIZE(items.ptr()), "batch: ", what, " has ",
          PySequence_Fast_GET_SIZE(items.ptr()), " items, not ", first + count);
  for (int64_t i = first; i < first + count; ++i)
    values.push_back(integer_of<T>(PySequence_Fast_GET_ITEM(items.ptr(), i), what));
}

template <class T>
void append_all(std::vector<T>& values, const py::handle& list, const char* what) {
  require(PyList_Check(list.ptr()) || PyTuple_Check(list.ptr()), "batch: ", what, " must be a list or a tuple");
  append(values, list, 0, PySequence_Fast_GET_SIZE(list.ptr()), what);
}

// Of a list, without a detour through NumPy, which takes longer than a short list is worth; or of any kind of array.
template <class T>
std::vector<T> vector_of(const py::object& integers, const char* what) {
  std::vector<T> values;
  if (PyList_CheckExact(integers.ptr())) {
    append_all(values, integers, what);
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

// An attribute of a Python object whose name is made once.
class Attribute {
 public:
  explicit Attribute(const char* name) : name_(PyUnicode_InternFromString(name)) {}
  py::object of(const py::handle& object) const {
    PyObject* value = PyObject_GetAttr(object.ptr(), name_);
    if (!value) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(value);
  }
  void set(const py::handle& object, const py::object& value) const {
    if (PyObject_SetAttr(object.ptr(), name_, value.ptr()) != 0) throw py::error_already_set();
  }

 private:
  PyObject* name_;  // for as long as the process lives
};

struct SequenceAttributes {
  Attribute ids{"ids"}, past{"past"}, pages{"pages"}, planned{"planned"}, source{"source"}, grow{"grow"};
  Attribute cache{"cache"}, texts{"texts"}, length{"length"};  // of a source
};

const SequenceAttributes& attributes() {
  static const SequenceAttributes names;
  return names;
}

// Whether `pages` hold the positions from `past` to `end`, and nobody else holds those that are written to.
bool has_room(const KVCache& cache, const py::list& pages, int64_t past, int64_t end) {
  const auto count = static_cast<int64_t>(pages.size());
  if (count * kPageTokens < end) return false;
  for (int64_t i = past / kPageTokens; i < count; ++i)
    if (cache.references(integer_of<int>(PyList_GET_ITEM(pages.ptr(), i), "pages")) != 1) return false;
  return true;
}

void append_source(Batch& batch, const py::object& source) {
  const SequenceAttributes& a = attributes();
  batch.source = a.cache.of(source).cast<KVCache*>();
  for (const py::handle& text : a.texts.of(source)) {
    batch.source_lengths.push_back(integer_of<int64_t>(a.length.of(text).ptr(), "source_lengths"));
    append_all(batch.source_pages.emplace_back(), a.ids.of(text), "source pages");
  }
}

// Python's sequences, as they are: this is done for every token that is written, and takes a loop in Python far longer.
Batch batch_of_sequences(KVCache& cache, const py::list& sequences, const std::vector<int64_t>& counts,
                         const std::vector<int64_t>& rows, const py::list& drafts) {
  const SequenceAttributes& a = attributes();
  require(counts.size() == sequences.size() && rows.size() == sequences.size() &&
              (drafts.empty() || drafts.size() == sequences.size()),
          "batch: one count, number of rows and list of drafts per sequence");
  Batch batch;
  batch.cache = &cache;
  batch.cu_seqlens = {0};
  for (size_t s = 0; s < sequences.size(); ++s) {
    const py::handle sequence = sequences[s];
    const auto past = integer_of<int64_t>(a.past.of(sequence).ptr(), "past");
    append(batch.token_ids, py::list(a.ids.of(sequence)), past, counts[s], "ids");
    if (!drafts.empty()) append_all(batch.token_ids, drafts[s], "drafts");
    const int64_t tokens = batch.tokens() - batch.cu_seqlens.back(), end = past + tokens;
    require(rows[s] >= 0 && rows[s] <= tokens, "batch: logits for ", rows[s], " of ", tokens, " tokens");
    if (!has_room(cache, a.pages.of(sequence), past, end)) a.grow.of(sequence)(end);
    batch.cu_seqlens.push_back(batch.tokens());
    batch.past.push_back(past);
    batch.planned.push_back(integer_of<int64_t>(a.planned.of(sequence).ptr(), "planned"));
    append_all(batch.pages.emplace_back(), a.pages.of(sequence), "pages");
    for (int64_t row = batch.tokens() - rows[s]; row < batch.tokens(); ++row) batch.wanted.push_back(row);
    const py::object source = a.source.of(sequence);
    if (!source.is_none()) append_source(batch, source);
  }
  return batch;
}

// So many more tokens of each sequence are in the cache. Returns those that have come to the end of a page, or beyond.
py::list advance(const py::list& sequences, const std::vector<int64_t>& counts) {
  require(counts.size() == sequences.size(), "advance: one count per sequence");
  const Attribute& past = attributes().past;
  py::list full;
  for (size_t s = 0; s < sequences.size(); ++s) {
    const py::handle sequence = sequences[s];
    const int64_t now = integer_of<int64_t>(past.of(sequence).ptr(), "past") + counts[s];
    past.set(sequence, py::int_(now));
    if (now % kPageTokens < counts[s]) full.append(sequence);
  }
  return full;
}

void register_batch(py::module_& m) {
  m.def("advance", &advance, py::arg("sequences"), py::arg("counts"));
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
           py::keep_alive<1, 13>(), py::keep_alive<1, 14>())
      .def_static("of_sequences", &batch_of_sequences, py::arg("cache"), py::arg("sequences"), py::arg("counts"),
                  py::arg("rows"), py::arg("drafts") = py::list(), py::keep_alive<0, 1>(), py::keep_alive<0, 2>())
      .def_readonly("past", &Batch::past)
      .def_property_readonly("tokens", &Batch::tokens);
}

void register_cache(py::module_& m) {
  m.def(
      "page_nbytes",
      [](int64_t layers, int64_t kv_heads, int64_t head_dim, const std::string& type) {
        return layers * kv_heads * page_bytes(kv_type_of(type), head_dim);
      },
      py::arg("layers"), py::arg("kv_heads"), py::arg("head_dim"), py::arg("type"));
  py::class_<KVCache>(m, "KVCache")
      .def(py::init([](int64_t layers, int64_t kv_heads, int64_t head_dim, const std::string& type, int64_t max_bytes) {
             return std::make_unique<KVCache>(layers, kv_heads, head_dim, kv_type_of(type), max_bytes);
           }),
           py::arg("layers"), py::arg("kv_heads"), py::arg("head_dim"), py::arg("type"), py::arg("max_bytes"))
      .def("allocate", &KVCache::allocate)
      .def("retain", &KVCache::retain, py::arg("page"))
      .def("release", &KVCache::release, py::arg("page"))
      .def("references", &KVCache::references, py::arg("page"))
      .def("copy", &KVCache::copy, py::arg("source"), py::arg("target"), py::arg("first"), py::arg("positions"),
           py::arg("threads"), py::call_guard<py::gil_scoped_release>())
      .def("trim", &KVCache::trim, py::arg("kept") = 0, py::call_guard<py::gil_scoped_release>())
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

void register_batches(py::module_& m) {
  register_cache(m);
  register_batch(m);
}

}  // namespace qkv
