#include "experts.h"

#include <algorithm>

#include "threads.h"

namespace qkv {

void ExpertsWorkspace::route(const Kernels& kernels, const float* logits, int64_t tokens, int64_t experts,
                             int64_t top_k, int threads) {
  constexpr int64_t kTokens = 16;  // of a task
  constexpr double kWork = 200;    // of a logit, in the unit of threads_for
  probabilities_.reserve(static_cast<size_t>(tokens * experts) * sizeof(float));
  float* probabilities = probabilities_.floats();
  softmax(kernels, logits, probabilities, tokens, experts, threads);
  choices_.resize(static_cast<size_t>(tokens * top_k));
  parallel_for((tokens + kTokens - 1) / kTokens, threads_for(kWork * static_cast<double>(tokens * experts), threads),
               [&](int64_t task, int) {
                 for (int64_t token = task * kTokens; token < std::min(tokens, (task + 1) * kTokens); ++token)
                   choose(probabilities + token * experts, experts,
                          {choices_.data() + token * top_k, static_cast<size_t>(top_k)});
               });
  group_by_expert(experts, top_k);
}

// `chosen` stays in descending order, equal ones in the order of their experts. A NaN is never preferred.
void ExpertsWorkspace::choose(const float* probabilities, int64_t experts, std::span<Choice> chosen) {
  size_t held = 0;
  for (int64_t expert = 0; expert < experts; ++expert) {
    size_t at = held;
    while (at > 0 && probabilities[expert] > chosen[at - 1].weight) --at;
    if (at == chosen.size()) continue;
    held = std::min(held + 1, chosen.size());
    for (size_t i = held - 1; i > at; --i) chosen[i] = chosen[i - 1];
    chosen[at] = {expert, probabilities[expert]};
  }
  float sum = 0;
  for (const Choice& choice : chosen) sum += choice.weight;
  for (Choice& choice : chosen) choice.weight /= sum;
}

void ExpertsWorkspace::group_by_expert(int64_t experts, int64_t top_k) {
  first_.assign(static_cast<size_t>(experts) + 1, 0);
  for (const Choice& choice : choices_) ++first_[static_cast<size_t>(choice.expert)];
  int64_t end = 0;
  for (int64_t& first : first_) first = end += first;  // one behind the expert's last share: filled from there
  shares_.resize(choices_.size());
  for (size_t i = choices_.size(); i-- > 0;)
    shares_[static_cast<size_t>(--first_[static_cast<size_t>(choices_[i].expert)])] = {static_cast<int64_t>(i) / top_k,
                                                                                       choices_[i].weight};
}

}  // namespace qkv
