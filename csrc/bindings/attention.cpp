#include "cpu/attention.h"

#include <algorithm>
#include <optional>

#include "bindings.h"
#include "cpu/error.h"
#include "cpu/isa.h"
#include "cpu/threads.h"
#include "long_call.h"

namespace qkv {
namespace {

std::vector<float> values_of(const std::optional<FloatArray>& x) {
  return x ? std::vector<float>(x->data(), x->data() + x->size()) : std::vector<float>();
}

// `window`: the token at position p sees p - window + 1 ... p, and without `causal` as many after it; 0: all.
AttentionShape make_shape(int64_t heads, int64_t kv_heads, int64_t head_dim, float scale, bool causal, int64_t window,
                          float soft_cap, const std::optional<FloatArray>& slopes, bool rounded_alibi,
                          const std::optional<FloatArray>& bias, const std::string& type, bool interleaved) {
  require(window >= 0, "attention: negative window ", window);
  require(!bias || (bias->ndim() == 2 && bias->shape(1) % 2 == 1),
          "attention: the relative bias must be [heads, an odd number of distances]");
  const int64_t reach = window > 0 ? window - 1 : kEverything;
  AttentionShape shape = {.heads = heads,
                          .kv_heads = kv_heads,
                          .head_dim = head_dim,
                          .scale = scale,
                          .before = reach,
                          .after = causal ? 0 : reach,
                          .type = kv_type_of(type),
                          .soft_cap = soft_cap,
                          .slopes = values_of(slopes),
                          .rounded_alibi = rounded_alibi,
                          .bias = values_of(bias),
                          .reach = bias ? bias->shape(1) / 2 : 0,
                          .interleaved = interleaved};
  shape.check();
  return shape;
}

void check(const py::array& x, const char* what, std::vector<py::ssize_t> shape) {
  require(std::equal(shape.begin(), shape.end(), x.shape(), x.shape() + x.ndim()), what, ": unexpected shape");
}

py::array_t<float> attend_arrays(const FloatArray& q, const FloatArray& k, const FloatArray& v,
                                 const std::optional<FloatArray>& rotary, bool causal, float scale, int threads,
                                 int64_t window, float soft_cap, const std::optional<FloatArray>& slopes,
                                 bool rounded_alibi, const std::optional<FloatArray>& relative_bias,
                                 const std::string& kv_type,
                                 std::optional<py::array_t<float, py::array::c_style>> weights) {
  require(q.ndim() == 4 && k.ndim() == 4, "attention: q, k and v must be [batch, tokens, heads, head_dim]");
  const AttentionShape shape = make_shape(q.shape(2), k.shape(2), q.shape(3), scale, causal, window, soft_cap, slopes,
                                          rounded_alibi, relative_bias, kv_type, false);
  const int64_t batch = q.shape(0), tokens = q.shape(1), keys = k.shape(1), past = keys - tokens;
  check(k, "attention: k", {batch, keys, shape.kv_heads, shape.head_dim});
  check(v, "attention: v", {batch, keys, shape.kv_heads, shape.head_dim});
  const bool anywhere = shape.before == kEverything && shape.after == kEverything && shape.slopes.empty() &&
                        shape.bias.empty() && !rotary;
  require(past >= 0 || anywhere, "attention: ", tokens, " queries are not the last of ", keys, " positions");
  if (rotary)
    require(rotary->ndim() == 2 && rotary->shape(0) == keys && rotary->shape(1) % 2 == 0 &&
                rotary->shape(1) <= shape.head_dim,
            "attention: rotary must be [", keys, ", an even number up to ", shape.head_dim, "]");
  if (weights) check(*weights, "attention: weights", {batch, shape.heads, tokens, keys});
  py::array_t<float> y({batch, tokens, shape.heads, shape.head_dim});
  float* wanted = weights ? weights->mutable_data() : nullptr;
  float* out = y.mutable_data();
  const LongCall call;
  const int64_t q_width = shape.heads * shape.head_dim, kv_width = shape.kv_heads * shape.head_dim;
  const AttentionStrides strides = {
      .q = q_width, .k = kv_width, .v = kv_width, .y = q_width, .rotary = rotary ? rotary->shape(1) : 0};
  AttentionWorkspace workspace;
  for (int64_t i = 0; i < batch; ++i)
    workspace.sequences.push_back({.q = q.data() + i * tokens * q_width,
                                   .y = out + i * tokens * q_width,
                                   .queries = tokens,
                                   .past = past,
                                   .k = k.data() + i * keys * kv_width,
                                   .v = v.data() + i * keys * kv_width,
                                   .new_keys = keys,
                                   .keys = keys,
                                   .rotary = rotary ? rotary->data() : nullptr,
                                   .pages = nullptr,
                                   .weights = wanted ? wanted + i * shape.heads * tokens * keys : nullptr});
  const double pairs = static_cast<double>(batch) * attended_pairs(shape, past, tokens, keys);
  threads = threads_for(4 * pairs * static_cast<double>(q_width), threads);
  attention(chosen_kernels(), shape, strides, nullptr, 0, threads, workspace);
  return y;
}

}  // namespace

void register_attention(py::module_& m) {
  using namespace py::literals;
  py::class_<AttentionShape>(m, "AttentionShape")
      .def(py::init(&make_shape), "heads"_a, "kv_heads"_a, "head_dim"_a, "scale"_a, "causal"_a, "window"_a = 0,
           "soft_cap"_a = 0, "slopes"_a = py::none(), "rounded_alibi"_a = false, "relative_bias"_a = py::none(),
           "kv_type"_a = "float32", "interleaved"_a = false);
  m.def("attention", &attend_arrays, "q"_a, "k"_a, "v"_a, "rotary"_a.none(true), "causal"_a, "scale"_a, "threads"_a = 1,
        "window"_a = 0, "soft_cap"_a = 0, "slopes"_a = py::none(), "rounded_alibi"_a = false,
        "relative_bias"_a = py::none(), "kv_type"_a = "float32", py::arg("weights").noconvert() = py::none());
}

}  // namespace qkv
