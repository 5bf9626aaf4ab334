#include "executor.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "ops.h"
#include "threads.h"

namespace qkv {

Run::Run(const Program& program, size_t steps, const Batch& batch, Workspace& workspace, int threads)
    : program_(program),
      kernels_(program.kernels()),
      batch_(batch),
      workspace_(workspace),
      threads_(threads),
      buffers_(program.buffers().size()) {
  workspace.buffers.resize(program.buffers().size());
  workspace.threads.resize(std::max(workspace.threads.size(), static_cast<size_t>(threads)));
  for (size_t i = 0; i < steps; ++i) {
    make_room(std::visit([](const auto& step) { return step.out; }, program.steps()[i]));
    if (const auto* norm = std::get_if<NormStep>(&program.steps()[i]); norm && norm->converted >= 0)
      make_room(norm->converted);
  }
  workspace.positions.resize(static_cast<size_t>(batch.tokens()));
  for (int64_t s = 0; s < batch.sequences(); ++s)
    for (int64_t i = 0; i < length(s); ++i)
      workspace.positions[static_cast<size_t>(begin(s) + i)] = batch.past_of(s) + i;
}

void Run::make_room(int number) {
  const Buffer& buffer = program_.buffers()[static_cast<size_t>(number)];
  Memory& memory = workspace_.buffers[static_cast<size_t>(number)];
  memory.reserve(Activations::bytes(buffer.type, batch_.rows(buffer.rows), buffer.width));
  bind(number, memory.floats());
}

Work Run::operator()(const EmbedStep& step) {
  constexpr int64_t kTokens = 16;
  const int64_t n = width(step.out), tokens = batch_.tokens();
  const double values = static_cast<double>(tokens * n);
  parallel_for((tokens + kTokens - 1) / kTokens, threads_for(30 * values, threads_), [&](int64_t task, int) {
    for (int64_t token = task * kTokens; token < std::min(tokens, (task + 1) * kTokens); ++token) {
      const auto i = static_cast<size_t>(token);
      float* row = at(step.out) + token * n;
      std::memset(row, 0, static_cast<size_t>(n) * sizeof(float));
      step.tokens->add_row(batch_.token_ids[i], row);
      if (step.positions) step.positions->add_row(workspace_.positions[i] + step.position_offset, row);
      if (step.types) step.types->add_row(batch_.type_ids.empty() ? 0 : batch_.type_ids[i], row);
    }
  });
  const int tables = 1 + (step.positions != nullptr) + (step.types != nullptr);
  return {.bytes = values * 4 * (tables + 1)};
}

Work Run::operator()(const RotaryStep& step) {
  const auto half = static_cast<int64_t>(step.inverse_frequencies.size());
  parallel_for(batch_.tokens(), threads_for(100.0 * static_cast<double>(batch_.tokens() * half), threads_),
               [&](int64_t token, int) {
                 const auto position = static_cast<float>(workspace_.positions[static_cast<size_t>(token)]);
                 float* cosine = at(step.out) + token * 2 * half;
                 for (int64_t i = 0; i < half; ++i) {
                   const float angle = position * step.inverse_frequencies[static_cast<size_t>(i)];
                   cosine[i] = std::cos(angle);
                   cosine[half + i] = std::sin(angle);
                 }
               });
  return {.bytes = static_cast<double>(batch_.tokens() * half) * 8};
}

Work Run::operator()(const NormStep& step) {
  const int64_t n = width(step.x);
  const NormArgs args = {.x = at(step.x),
                         .x_stride = n,
                         .weight = step.weight.data(),
                         .bias = step.bias.empty() ? nullptr : step.bias.data(),
                         .n = n,
                         .eps = step.eps,
                         .centred = step.centred,
                         .y = at(step.out),
                         .y_stride = n};
  const int converted = type(step.out) == DType::float32 ? step.converted : step.out;
  if (converted < 0) norm(kernels_, args, rows(step.x), threads_);
  else norm_and_convert(args, converted != step.out, rows(step.x), activations(converted));
  const double values = static_cast<double>(rows(step.x) * n);
  return {.flops = 8 * values, .bytes = 8 * values};
}

// A row is converted while it is in L1. Without `keep` it is forgotten then, and goes through the thread's scratch
// memory.
void Run::norm_and_convert(const NormArgs& args, bool keep, int64_t rows, const Activations& to) {
  constexpr int64_t kRows = 4;
  constexpr double kWork = 28;  // of a value, in the unit of threads_for
  for (Memory& memory : workspace_.threads) memory.reserve(static_cast<size_t>(args.n) * sizeof(float));
  const double values = static_cast<double>(rows * args.n);
  parallel_for((rows + kRows - 1) / kRows, threads_for(kWork * values, threads_), [&](int64_t task, int thread) {
    NormArgs own = args;
    if (!keep) {
      own.y = workspace_.threads[static_cast<size_t>(thread)].floats();
      own.y_stride = 0;
    }
    for (int64_t r = task * kRows; r < std::min(rows, (task + 1) * kRows); ++r) {
      kernels_.norm(own, r, 1);
      to.put(kernels_, own.y + r * own.y_stride, r);
    }
  });
}

Work Run::operator()(const ConvertStep& step) {
  convert(kernels_, at(step.x), rows(step.x), activations(step.out), threads_);
  return {.bytes = 5 * static_cast<double>(rows(step.x) * width(step.x))};
}

Work Run::operator()(const LinearStep& step) {
  const Weight& w = *step.weight;
  const int64_t m = rows(step.x);
  const float* residual = step.residual < 0 ? nullptr : at(step.residual);
  linear(w, activations(step.x), m, step.activation, residual, at(step.out), threads_, workspace_.threads);
  return {.flops = 2.0 * static_cast<double>(m) * static_cast<double>(w.out() * w.in()),
          .bytes = static_cast<double>(w.nbytes() + m * (w.in() + w.half_out()) * 4)};
}

Work Run::operator()(const GatherStep& step) {
  const int64_t n = width(step.x);
  for (size_t i = 0; i < batch_.wanted.size(); ++i)
    std::memcpy(at(step.out) + static_cast<int64_t>(i) * n, at(step.x) + batch_.wanted[i] * n,
                static_cast<size_t>(n) * sizeof(float));
  return {.bytes = static_cast<double>(rows(step.out) * n) * 8};
}

Work Run::operator()(const PoolStep& step) {
  const int64_t n = width(step.x);
  const double values = static_cast<double>(batch_.tokens() * n);
  parallel_for(batch_.sequences(), threads_for(10 * values, threads_), [&](int64_t s, int) {
    const float* x = at(step.x) + begin(s) * n;
    const int64_t tokens = length(s);
    float* y = at(step.out) + s * n;
    std::memset(y, 0, static_cast<size_t>(n) * sizeof(float));
    if (tokens == 0) return;  // nothing to pool: zeros
    const int64_t only = step.pooling == Pooling::last ? tokens - 1 : 0;
    std::memcpy(y, x + only * n, static_cast<size_t>(n) * sizeof(float));
    if (step.pooling == Pooling::mean) {
      for (int64_t t = 1; t < tokens; ++t) kernels_.add(x + t * n, y, n);
      for (int64_t i = 0; i < n; ++i) y[i] /= static_cast<float>(tokens);
    } else if (step.pooling == Pooling::max) {
      for (int64_t t = 1; t < tokens; ++t)
        for (int64_t i = 0; i < n; ++i) y[i] = std::max(y[i], x[t * n + i]);
    }
  });
  return {.flops = values, .bytes = 4 * values};
}

void Program::run(const std::string& output_name, const Batch& batch, float* out, int threads) {
  const Buffer& result = output(output_name);
  if (batch.tokens() == 0) {  // empty sequences: nothing to compute, and to pool zeros
    std::fill_n(out, batch.rows(result.rows) * result.width, 0.0f);
    return;
  }
  std::unique_ptr<Workspace> workspace;
  {
    const std::lock_guard lock(mutex_);
    if (!idle_.empty()) {
      workspace = std::move(idle_.back());
      idle_.pop_back();
    }
  }
  if (!workspace) workspace = std::make_unique<Workspace>();

  const Output& end = outputs_.at(output_name);
  // Only the last step may write into the caller's array: earlier ones may use the same buffer for other things.
  threads = std::max(1, threads);
  Run run(*this, end.steps - 1, batch, *workspace, threads);
  with_team(threads, [&] {
    for (size_t i = 0; i < end.steps; ++i) {
      if (i + 1 == end.steps) run.bind(end.buffer, out);
      const auto start = std::chrono::steady_clock::now();
      const Work work = std::visit(run, steps_[i]);
      if (profile_.enabled()) {
        const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
        profile_.add(kind_of(steps_[i]), time.count(), work);
      }
    }
  });
  const std::lock_guard lock(mutex_);
  idle_.push_back(std::move(workspace));
}

}  // namespace qkv
