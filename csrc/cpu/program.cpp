#include "program.h"

#include <algorithm>

#include "error.h"
#include "isa.h"

namespace qkv {

int64_t Batch::rows(Rows kind) const {
  switch (kind) {
    case Rows::tokens: return tokens();
    case Rows::sequences: return sequences();
    case Rows::logits: return static_cast<int64_t>(wanted.size());
  }
  return 0;
}

Program::Program() : kernels_(&chosen_kernels()) {}

int Program::add_buffer(int64_t width, Rows rows, DType type) {
  require(width > 0, "program: a buffer of width ", width);
  require(type != DType::int4, "program: a buffer can't be int4");
  buffers_.push_back({width, rows, type});
  return static_cast<int>(buffers_.size()) - 1;
}

const Buffer& Program::buffer(int number) const {
  require(number >= 0 && static_cast<size_t>(number) < buffers_.size(), "program: no buffer ", number);
  return buffers_[static_cast<size_t>(number)];
}

void Program::add(Step step) {
  check_step(step);
  steps_.push_back(std::move(step));
}

void Program::add_output(const std::string& name, int number) {
  require(!steps_.empty() && out_of(steps_.back()) == number, "program: output '", name,
          "' is not what the last step wrote");
  require(buffer(number).type == DType::float32, "program: output '", name, "' is not float32");
  outputs_[name] = {number, steps_.size()};
}

void Program::add_maxima(const std::string& name) {
  auto* linear = steps_.empty() ? nullptr : std::get_if<LinearStep>(&steps_.back());
  require(linear && linear->activation == Function::identity && linear->maxima < 0, "program: maxima '", name,
          "' are not of a linear step without activation, or there already");
  const Rows rows = buffer(linear->out).rows;
  linear->maxima = add_buffer(linear->weight->panels(), rows, DType::float32);
  outputs_[name] = {linear->maxima, steps_.size()};
}

std::optional<int64_t> Program::reach() const {
  int64_t most = 0;
  for (const Step& step : steps_)
    if (const auto* attention = std::get_if<AttentionStep>(&step); attention && attention->layer >= 0)
      most = std::max(most, attention->shape.before);
  return most < kEverything ? std::optional(most) : std::nullopt;
}

int64_t Program::rotary_class(int64_t planned) const {
  // Longer texts have no smaller sums, and equal sums mean that the same steps turn by the same angles.
  int64_t sum = 0;
  for (const Step& step : steps_)
    if (const auto* rotary = std::get_if<RotaryStep>(&step); rotary && rotary->beyond)
      if (planned > rotary->beyond->length) sum += rotary->beyond->ntk_factor == 0 ? 1 : planned;
  return sum;
}

std::vector<std::string> Program::output_names() const {
  std::vector<std::string> names;
  for (const auto& [name, _] : outputs_) names.push_back(name);
  return names;
}

const Buffer& Program::output(const std::string& name) const {
  const auto found = outputs_.find(name);
  if (found == outputs_.end()) {
    std::string names;
    for (const auto& [known, _] : outputs_) names.append(names.empty() ? "" : ", ").append(known);
    throw Error("this model has no output '" + name + "'; it has: " + names);
  }
  return buffer(found->second.buffer);
}

}  // namespace qkv
