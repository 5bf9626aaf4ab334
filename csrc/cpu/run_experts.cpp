// The experts step. A token's sum runs over its experts in ascending order, whatever other tokens they serve.
#include <algorithm>
#include <cstring>

#include "executor.h"
#include "experts.h"
#include "threads.h"

namespace qkv {
namespace {

constexpr int64_t kRows = 4;      // of a task
constexpr double kCopyWork = 10;  // of a value, in the unit of threads_for

// body(i) for every share i
template <class Body>
void for_rows(std::span<const Share> shares, int64_t width, int threads, const Body& body) {
  const auto n = static_cast<int64_t>(shares.size());
  parallel_for((n + kRows - 1) / kRows, threads_for(kCopyWork * static_cast<double>(n * width), threads),
               [&](int64_t task, int) {
                 for (int64_t i = task * kRows; i < std::min(n, (task + 1) * kRows); ++i) body(i);
               });
}

Activations rows_in(Memory& memory, DType type, int64_t rows, int64_t n) {
  memory.reserve(Activations::bytes(type, rows, n));
  return {type, memory.data(), rows, n};
}

}  // namespace

Work Run::operator()(const ExpertsStep& step) {
  ExpertsWorkspace& w = workspace_.experts;
  const int64_t tokens = rows(step.x), hidden = width(step.out);
  const auto experts = static_cast<int64_t>(step.gate_up.size());
  w.route(kernels_, at(step.router), tokens, experts, step.top_k, threads_);

  float* out = at(step.out);
  const auto bytes = static_cast<size_t>(tokens * hidden) * sizeof(float);
  if (step.residual < 0) std::memset(out, 0, bytes);
  else if (step.residual != step.out) std::memcpy(out, at(step.residual), bytes);
  Work work;
  for (int64_t expert = 0; expert < experts; ++expert) {
    const std::span<const Share> shares = w.shares(expert);
    if (shares.empty()) continue;
    const Work one = run_expert(step, expert, shares);
    work = {work.flops + one.flops, work.bytes + one.bytes};
  }
  return work;
}

// out += weight * down(f(gate x) * up x), for the rows of one expert
Work Run::run_expert(const ExpertsStep& step, int64_t expert, std::span<const Share> shares) {
  ExpertsWorkspace& w = workspace_.experts;
  const Weight& gate_up = *step.gate_up[static_cast<size_t>(expert)];
  const Weight& down = *step.down[static_cast<size_t>(expert)];
  const auto n = static_cast<int64_t>(shares.size());
  const int64_t inner = gate_up.half_out(), hidden = down.out();

  const Activations all = activations(step.x), x = rows_in(w.x, all.type(), n, all.n());
  for_rows(shares, all.n(), threads_, [&](int64_t i) { x.copy(all, shares[static_cast<size_t>(i)].token, i); });
  Activations h = rows_in(w.inner, DType::float32, n, inner);
  linear(gate_up, x, n, step.activation, nullptr, w.inner.floats(), threads_, workspace_.threads);
  if (down.activations() != DType::float32) {
    h = rows_in(w.converted, down.activations(), n, inner);
    convert(kernels_, w.inner.floats(), n, h, threads_);
  }
  w.y.reserve(static_cast<size_t>(n * hidden) * sizeof(float));
  linear(down, h, n, Function::identity, nullptr, w.y.floats(), threads_, workspace_.threads);
  for_rows(shares, hidden, threads_, [&](int64_t i) {
    const Share& share = shares[static_cast<size_t>(i)];
    kernels_.add_scaled(w.y.floats() + i * hidden, share.weight, at(step.out) + share.token * hidden, hidden);
  });
  const double weights = static_cast<double>(gate_up.out() * gate_up.in() + down.out() * down.in());
  return {.flops = 2 * static_cast<double>(n) * weights,
          .bytes = static_cast<double>(gate_up.nbytes() + down.nbytes() + n * (hidden + inner) * 8)};
}

}  // namespace qkv
