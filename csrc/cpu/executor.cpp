#include "executor.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "ops.h"
#include "threads.h"

namespace qkv {

Run::Run(const Program& program, size_t steps, bool last_bound, const Batch& batch, Workspace& workspace, int threads)
    : program_(program),
      kernels_(program.kernels()),
      batch_(batch),
      workspace_(workspace),
      threads_(threads),
      buffers_(program.buffers().size()) {
  workspace.buffers.resize(program.buffers().size());
  workspace.threads.resize(std::max(workspace.threads.size(), static_cast<size_t>(threads)));
  for (size_t i = 0; i < steps; ++i) {
    const int out = out_of(program.steps()[i]);
    if (out >= 0 && !(last_bound && i + 1 == steps)) make_room(out);
    if (const auto* norm = std::get_if<NormStep>(&program.steps()[i]); norm && norm->converted >= 0)
      make_room(norm->converted);
    if (const auto* linear = std::get_if<LinearStep>(&program.steps()[i]); linear && linear->maxima >= 0)
      make_room(linear->maxima);
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

void Run::copy(int buffer, float* memory) const {
  if (memory != at(buffer))
    std::memcpy(memory, at(buffer), static_cast<size_t>(rows(buffer) * width(buffer)) * sizeof(float));
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
      if (step.scale != 1)
        for (int64_t j = 0; j < n; ++j) row[j] *= step.scale;
      if (step.positions) step.positions->add_row(workspace_.positions[i] + step.position_offset, row);
      if (step.types) step.types->add_row(batch_.type_ids.empty() ? 0 : batch_.type_ids[i], row);
    }
  });
  const int tables = 1 + (step.positions != nullptr) + (step.types != nullptr);
  return {.bytes = values * 4 * (tables + 1)};
}

std::vector<float> LongRotary::frequencies(int64_t planned) const {
  std::vector<float> result = inverse_frequencies;
  if (ntk_factor == 0) return result;
  const double factor = ntk_factor, half = static_cast<double>(result.size());
  const double stretch = factor * static_cast<double>(planned) / static_cast<double>(length) - factor + 1;
  for (size_t i = 0; i < result.size(); ++i)
    result[i] = static_cast<float>(result[i] * std::pow(stretch, -static_cast<double>(i) / (half - 1)));
  return result;
}

Work Run::operator()(const RotaryStep& step) {
  const auto half = static_cast<int64_t>(step.inverse_frequencies.size());
  const auto turn = [&](int64_t first, int64_t tokens, const std::vector<float>& frequencies, float scale) {
    const double values = static_cast<double>(tokens * half);
    parallel_for(tokens, threads_for(100 * values, threads_), [&](int64_t i, int) {
      const auto position = static_cast<float>(workspace_.positions[static_cast<size_t>(first + i)]);
      float* cosine = at(step.out) + (first + i) * 2 * half;
      for (int64_t j = 0; j < half; ++j) {
        const float angle = position * frequencies[static_cast<size_t>(j)];
        cosine[j] = scale * std::cos(angle);
        cosine[half + j] = scale * std::sin(angle);
      }
    });
  };
  const auto is_long = [&](int64_t s) { return step.beyond && batch_.planned_of(s) > step.beyond->length; };
  int64_t done = 0;  // tokens; neighbours that turn by the same angles are taken together
  for (int64_t s = 0; s <= batch_.sequences(); ++s) {
    if (s < batch_.sequences() && !is_long(s)) continue;
    const int64_t end = s < batch_.sequences() ? begin(s) : batch_.tokens();
    if (end > done) turn(done, end - done, step.inverse_frequencies, step.scale);
    if (s == batch_.sequences()) break;
    turn(end, length(s), step.beyond->frequencies(batch_.planned_of(s)), step.beyond->scale);
    done = end + length(s);
  }
  return {.bytes = static_cast<double>(batch_.tokens() * half) * 8};
}

Work Run::operator()(const NormStep& step) {
  const int64_t n = static_cast<int64_t>(step.weight.size()), m = rows(step.x.buffer);
  const NormArgs args = {.x = at(step.x.buffer) + step.x.column,
                         .x_stride = width(step.x.buffer),
                         .weight = step.weight.data(),
                         .bias = step.bias.empty() ? nullptr : step.bias.data(),
                         .n = n,
                         .eps = step.eps,
                         .centred = step.centred,
                         .y = at(step.out),
                         .y_stride = width(step.out)};
  const int converted = type(step.out) == DType::float32 ? step.converted : step.out;
  if (step.parts() > 1) norm_heads(args, m, step.parts());
  else if (converted < 0) norm(kernels_, args, m, threads_);
  else norm_and_convert(args, converted != step.out, m, activations(converted));
  const double values = static_cast<double>(m * step.x.width);
  return {.flops = 8 * values, .bytes = 8 * values};
}

void Run::norm_heads(const NormArgs& args, int64_t rows, int64_t parts) {
  constexpr int64_t kRows = 4;
  constexpr double kWork = 16;  // of a value, in the unit of threads_for
  const double values = static_cast<double>(rows * parts * args.n);
  parallel_for((rows + kRows - 1) / kRows, threads_for(kWork * values, threads_), [&](int64_t task, int) {
    for (int64_t r = task * kRows; r < std::min(rows, (task + 1) * kRows); ++r) {
      NormArgs heads = args;
      heads.x += r * args.x_stride;
      heads.y += r * args.y_stride;
      heads.x_stride = heads.y_stride = args.n;
      kernels_.norm(heads, 0, parts);
    }
  });
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
  float* maxima = step.maxima < 0 ? nullptr : at(step.maxima);
  linear(w, activations(step.x), m, step.activation, residual, at(step.out), threads_, workspace_.threads, maxima);
  return {.flops = 2.0 * static_cast<double>(m) * static_cast<double>(w.out() * w.in()),
          .bytes = static_cast<double>(w.nbytes() + m * (w.in() + w.half_out()) * 4)};
}

template <class Body>
void Run::for_values(int64_t n, double work, const Body& body) const {
  constexpr int64_t kValues = 4096;
  const int64_t tasks = (n + kValues - 1) / kValues;
  parallel_for(tasks, threads_for(work * static_cast<double>(n), threads_),
               [&](int64_t task, int) { body(task * kValues, std::min(kValues, n - task * kValues)); });
}

Work Run::operator()(const MapStep& step) {
  const int64_t n = rows(step.x) * width(step.x);
  for_values(n, 24, [&](int64_t first, int64_t count) {
    const float* x = at(step.x) + first;
    float* y = at(step.out) + first;
    for (int64_t i = 0; i < count; ++i) y[i] = step.before * x[i];
    kernels_.map(step.function, y, y, count);
    for (int64_t i = 0; i < count; ++i) y[i] *= step.after;
  });
  return {.bytes = 8 * static_cast<double>(n)};
}

Work Run::operator()(const CombineStep& step) {
  const int64_t n = rows(step.out) * width(step.out);
  for_values(n, 8, [&](int64_t first, int64_t count) {
    const float *a = at(step.a) + first, *b = at(step.b) + first;
    float* y = at(step.out) + first;
    if (step.kind == Combination::add)
      for (int64_t i = 0; i < count; ++i) y[i] = a[i] + b[i];
    else
      for (int64_t i = 0; i < count; ++i) y[i] = a[i] * b[i];
  });
  return {.bytes = 12 * static_cast<double>(n)};
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

// A workspace for one run, however that ends.
struct Program::Lease {
  explicit Lease(Program& of) : program(of) {
    const std::lock_guard lock(program.mutex_);
    if (program.idle_.empty()) {
      workspace = std::make_unique<Workspace>();
    } else {
      workspace = std::move(program.idle_.back());
      program.idle_.pop_back();
    }
  }
  ~Lease() {
    const std::lock_guard lock(program.mutex_);
    program.idle_.push_back(std::move(workspace));
  }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;

  Program& program;
  std::unique_ptr<Workspace> workspace;
};

void Program::run(const std::vector<std::string>& names, const std::vector<float*>& arrays, const Batch& batch,
                  int threads) {
  if (batch.tokens() == 0) {  // empty sequences: nothing to compute, and to pool zeros
    for (size_t i = 0; i < names.size(); ++i) {
      const Buffer& result = output(names[i]);
      std::fill_n(arrays[i], batch.rows(result.rows) * result.width, 0.0f);
    }
    return;
  }
  const Lease lease(*this);
  std::vector<const Output*> wanted;
  for (const std::string& name : names) wanted.push_back(&outputs_.at(name));
  size_t steps = names.empty() ? steps_.size() : 0;
  for (const Output* result : wanted) steps = std::max(steps, result->steps);
  threads = std::max(1, threads);
  Run run(*this, steps, !names.empty(), batch, *lease.workspace, threads);
  with_team(threads, [&] {
    for (size_t i = 0; i < steps; ++i) {
      // The last step writes into the caller's array. What earlier ones give is copied: later ones read it.
      if (i + 1 == steps)
        for (size_t k = 0; k < wanted.size(); ++k)
          if (wanted[k]->steps == steps) run.bind(wanted[k]->buffer, arrays[k]);
      const auto start = std::chrono::steady_clock::now();
      const Work work = std::visit(run, steps_[i]);
      if (profile_.enabled()) {
        const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
        profile_.add(kind_of(steps_[i]), time.count(), work);
      }
      for (size_t k = 0; k < wanted.size(); ++k)
        if (wanted[k]->steps == i + 1) run.copy(wanted[k]->buffer, arrays[k]);
    }
  });
}

}  // namespace qkv
