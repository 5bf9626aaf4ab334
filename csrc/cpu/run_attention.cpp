// The attention step.
#include "attention.h"
#include "executor.h"
#include "threads.h"

namespace qkv {

Work Run::operator()(const AttentionStep& step) {
  const AttentionShape& shape = step.shape;
  AttentionWorkspace& workspace = workspace_.attention;
  workspace.sequences.clear();
  double pairs = 0, keys = 0;  // query-key pairs that are looked at; keys and values read
  const auto rows = [&](const View& view, int64_t s) {
    return at(view.buffer) + begin(s) * width(view.buffer) + view.column;
  };
  for (int64_t s = 0; s < batch_.sequences(); ++s) {
    const int64_t past = batch_.past_of(s), n = length(s);
    workspace.sequences.push_back(
        {.q = rows(step.q, s),
         .y = at(step.out) + begin(s) * width(step.out),
         .queries = n,
         .past = past,
         .k = rows(step.k, s),
         .v = rows(step.v, s),
         .new_keys = n,
         .keys = past + n,
         .rotary = step.rotary < 0 ? nullptr : at(step.rotary) + begin(s) * width(step.rotary),
         .pages = batch_.cache ? batch_.pages[static_cast<size_t>(s)].data() : nullptr,
         .weights = nullptr});
    pairs += attended_pairs(shape, past, n, past + n);
    keys += static_cast<double>(past + n);
  }
  const auto dim = static_cast<double>(shape.head_dim);
  const double flops = 4 * pairs * dim * static_cast<double>(shape.heads);
  const AttentionStrides strides = {.q = width(step.q.buffer),
                                    .k = width(step.k.buffer),
                                    .v = width(step.v.buffer),
                                    .y = width(step.out),
                                    .rotary = step.rotary < 0 ? 0 : width(step.rotary)};
  attention(kernels_, shape, strides, batch_.cache, step.layer, threads_for(flops, threads_), workspace);
  const double bytes =
      keys * static_cast<double>(shape.kv_heads * page_bytes(shape.type, shape.head_dim)) / kPageTokens +
      8 * static_cast<double>(batch_.tokens()) * dim * static_cast<double>(shape.heads);
  return {.flops = flops, .bytes = bytes};
}

}  // namespace qkv
