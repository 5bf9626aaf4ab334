#include "cpu/logit_rules.h"

#include <span>

#include "bindings.h"
#include "cpu/error.h"
#include "cpu/isa.h"
#include "cpu/largest.h"
#include "cpu/threads.h"

namespace qkv {
namespace {

// A number beyond int64 is no token of any vocabulary, as -1 is none.
int64_t to_id(PyObject* number) {
  int overflow = 0;
  const long long id = PyLong_AsLongLongAndOverflow(number, &overflow);
  if (id == -1 && PyErr_Occurred()) throw py::error_already_set();
  return id;
}

RecentIds read_ids(const LogitRules& rules, const py::handle& sequence) {
  const auto items =
      py::reinterpret_steal<py::object>(PySequence_Fast(sequence.ptr(), "apply_rules: ids must be lists of token ids"));
  if (!items) throw py::error_already_set();
  RecentIds recent = {.length = PySequence_Fast_GET_SIZE(items.ptr())};
  const int64_t count = rules.ids_read(recent.length);
  recent.ids.reserve(static_cast<size_t>(count));
  for (int64_t i = recent.length - count; i < recent.length; ++i)
    recent.ids.push_back(to_id(PySequence_Fast_GET_ITEM(items.ptr(), i)));
  return recent;
}

struct Row {
  const LogitRules* rules;
  RecentIds recent;
  float* scores;
  std::span<float> blocks;
};

void apply_to_rows(const std::vector<const LogitRules*>& rules, const py::sequence& ids, py::array& logits, int threads,
                   std::optional<py::array> maxima) {
  float* scores = writable_rows(logits, "apply_rules");
  const int64_t n = logits.shape(1);
  require(rules.size() == static_cast<size_t>(logits.shape(0)) && ids.size() == rules.size(),
          "apply_rules: ", rules.size(), " rules and ", ids.size(), " lists of ids for ", logits.shape(0),
          " rows of logits");
  std::span<float> blocks;  // of all rows
  if (maxima) {
    require(maxima->ndim() == 2 && maxima->shape(0) == logits.shape(0),
            "apply_rules: maxima must be [rows, blocks], of all rows");
    blocks = {writable_rows(*maxima, "apply_rules"), static_cast<size_t>(maxima->size())};
    block_size(maxima->shape(1), n);
  }
  const size_t each = maxima ? static_cast<size_t>(maxima->shape(1)) : 0;
  std::vector<Row> rows;
  double work = 0;  // per token some 3 ns
  for (size_t i = 0; i < rules.size(); ++i) {
    if (!rules[i] || !rules[i]->active()) continue;
    rows.push_back(
        {rules[i], read_ids(*rules[i], ids[i]), scores + static_cast<int64_t>(i) * n, blocks.subspan(i * each, each)});
    work += 300 * static_cast<double>(rows.back().recent.ids.size() + rules[i]->source.size());
  }
  const py::gil_scoped_release release;
  const Kernels& kernels = chosen_kernels();
  parallel_for(static_cast<int64_t>(rows.size()), threads_for(work, threads), [&](int64_t row, int) {
    thread_local RulesWorkspace workspace;
    const Row& r = rows[static_cast<size_t>(row)];
    apply_rules(*r.rules, r.recent, r.scores, n, workspace);
    if (!r.blocks.empty()) renew_maxima(kernels, r.scores, n, workspace.changed, r.blocks);
  });
}

}  // namespace

float* writable_rows(py::array& x, const char* function) {
  require(py::isinstance<py::array_t<float, py::array::c_style>>(x) && x.ndim() == 2 && x.writeable(), function,
          ": logits must be a C-contiguous, writable float32 array [rows, vocabulary]");
  return static_cast<float*>(x.mutable_data());
}

void register_rules(py::module_& m) {
  using namespace py::literals;
  using Tokens = std::vector<int64_t>;
  py::class_<LogitRules>(m, "LogitRules")
      .def(py::init([](int64_t start, int64_t max_length, Tokens eos_token_id, Tokens source,
                       std::vector<std::pair<int64_t, float>> logit_bias, double encoder_repetition_penalty,
                       double repetition_penalty, float presence_penalty, float frequency_penalty,
                       int64_t no_repeat_ngram_size, int64_t encoder_no_repeat_ngram_size,
                       std::vector<Tokens> bad_words_ids, int64_t min_length, int64_t min_new_tokens,
                       Tokens forced_bos_token_id, Tokens forced_eos_token_id, Tokens suppress_tokens,
                       Tokens begin_suppress_tokens) {
             const LogitRules rules = {
                 .start = start,
                 .max_length = max_length,
                 .eos_token_id = std::move(eos_token_id),
                 .source = std::move(source),
                 .logit_bias = std::move(logit_bias),
                 .encoder_repetition_penalty = encoder_repetition_penalty,
                 .repetition_penalty = repetition_penalty,
                 .presence_penalty = presence_penalty,
                 .frequency_penalty = frequency_penalty,
                 .no_repeat_ngram_size = no_repeat_ngram_size,
                 .encoder_no_repeat_ngram_size = encoder_no_repeat_ngram_size,
                 .bad_words_ids = std::move(bad_words_ids),
                 .min_length = min_length,
                 .min_new_tokens = min_new_tokens,
                 .forced_bos_token_id = std::move(forced_bos_token_id),
                 .forced_eos_token_id = std::move(forced_eos_token_id),
                 .suppress_tokens = std::move(suppress_tokens),
                 .begin_suppress_tokens = std::move(begin_suppress_tokens),
             };
             rules.check();
             return rules;
           }),
           py::kw_only(), "start"_a, "max_length"_a, "eos_token_id"_a, "source"_a, "logit_bias"_a,
           "encoder_repetition_penalty"_a, "repetition_penalty"_a, "presence_penalty"_a, "frequency_penalty"_a,
           "no_repeat_ngram_size"_a, "encoder_no_repeat_ngram_size"_a, "bad_words_ids"_a, "min_length"_a,
           "min_new_tokens"_a, "forced_bos_token_id"_a, "forced_eos_token_id"_a, "suppress_tokens"_a,
           "begin_suppress_tokens"_a)
      .def_property_readonly("active", &LogitRules::active);
  m.def("apply_rules", &apply_to_rows, "rules"_a, "ids"_a, "logits"_a, "threads"_a = 1,
        "maxima"_a.none(true) = py::none());
}

}  // namespace qkv
