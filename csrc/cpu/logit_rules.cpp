#include "logit_rules.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "error.h"

namespace qkv {
namespace {

constexpr float kBanned = -std::numeric_limits<float>::infinity();
using Ids = std::span<const int64_t>;

class Applying {
 public:
  Applying(const LogitRules& rules, const RecentIds& recent, float* scores, int64_t n, RulesWorkspace& workspace)
      : rules_(rules),
        ids_(recent.ids),
        length_(recent.length),
        scores_(scores),
        n_(n),
        counts_(workspace.counts),
        changed_(workspace.changed) {
    changed_.clear();
  }

  void run() {
    if (!force()) change();
    ban(rules_.suppress_tokens);
    const bool start_is_forced = rules_.start <= 1 && !rules_.forced_bos_token_id.empty();
    if (length_ == rules_.start + (start_is_forced ? 1 : 0)) ban(rules_.begin_suppress_tokens);
  }

 private:
  bool known(int64_t token) const { return token >= 0 && token < n_; }

  float& changing(int64_t token) {
    changed_.push_back(token);
    return scores_[token];
  }

  void ban(int64_t token) {
    if (known(token)) changing(token) = kBanned;
  }

  void ban(const std::vector<int64_t>& tokens) {
    for (const int64_t token : tokens) ban(token);
  }

  // What applies before tokens are forced.
  void change() {
    for (const auto& [token, bias] : rules_.logit_bias)
      if (known(token)) changing(token) += bias;
    penalise(rules_.source, static_cast<float>(1 / rules_.encoder_repetition_penalty));
    penalise(ids_, static_cast<float>(rules_.repetition_penalty));
    penalise_new();
    ban_repeated(ids_, rules_.no_repeat_ngram_size);
    ban_repeated(rules_.source, rules_.encoder_no_repeat_ngram_size);
    ban_bad_words();
    const bool too_few_new = rules_.min_new_tokens > 0 && length_ - rules_.start < rules_.min_new_tokens;
    if (length_ < rules_.min_length || too_few_new) ban(rules_.eos_token_id);
  }

  // Keskar et al. 2019, equation 2, as Hugging Face does it: a negative score would be favoured by a division.
  void penalise(Ids ids, float penalty) {
    if (penalty == 1) return;
    counts_.begin(n_);
    for (const int64_t token : ids) {
      if (counts_.add(token) != 1) continue;
      float& score = changing(token);
      score = score < 0 ? score * penalty : score / penalty;
    }
  }

  void penalise_new() {
    if (rules_.presence_penalty == 0 && rules_.frequency_penalty == 0) return;
    counts_.begin(n_);
    const int64_t fresh = std::clamp<int64_t>(length_ - rules_.start, 0, static_cast<int64_t>(ids_.size()));
    for (const int64_t token : ids_.last(static_cast<size_t>(fresh))) counts_.add(token);
    for (const int64_t token : counts_.tokens())
      changing(token) -= rules_.presence_penalty + rules_.frequency_penalty * static_cast<float>(counts_.count(token));
  }

  // Tokens that would make the last `size` ids equal to `size` neighbours in `text`.
  void ban_repeated(Ids text, int64_t size) {
    if (size <= 0 || static_cast<size_t>(size) > text.size()) return;
    const auto context = static_cast<size_t>(size - 1);
    if (context > ids_.size()) return;
    const Ids last = ids_.last(context);
    for (size_t i = context; i < text.size(); ++i)
      if (std::equal(last.rbegin(), last.rend(), text.rend() - static_cast<std::ptrdiff_t>(i))) ban(text[i]);
  }

  void ban_bad_words() {
    const std::vector<int64_t>& ends = rules_.eos_token_id;
    for (const Ids word : rules_.bad_words_ids) {
      const Ids context = word.first(word.size() - 1);
      if (context.empty() && std::find(ends.begin(), ends.end(), word[0]) != ends.end()) continue;
      if (context.size() > ids_.size()) continue;
      if (std::equal(context.begin(), context.end(), ids_.last(context.size()).begin())) ban(word.back());
    }
  }

  // Whether the token is forced here. Of two rules that force one, the last wins.
  bool force() {
    if (length_ == rules_.max_length - 1 && force(rules_.forced_eos_token_id)) return true;
    return length_ == 1 && force(rules_.forced_bos_token_id);
  }

  bool force(const std::vector<int64_t>& tokens) {
    if (std::none_of(tokens.begin(), tokens.end(), [this](int64_t token) { return known(token); })) return false;
    for (int64_t token = 0; token < n_; ++token) ban(token);
    for (const int64_t token : tokens)
      if (known(token)) scores_[token] = 0;
    return true;
  }

  const LogitRules& rules_;
  Ids ids_;
  int64_t length_;
  float* scores_;
  int64_t n_;
  TokenCounts& counts_;
  std::vector<int64_t>& changed_;
};

}  // namespace

void LogitRules::check() const {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const auto& [name, penalty] : {std::pair{"repetition_penalty", repetition_penalty},
                                      {"encoder_repetition_penalty", encoder_repetition_penalty}})
    require(static_cast<float>(penalty) > 0 && static_cast<float>(1 / penalty) > 0, name, " is ", penalty,
            "; expected a number > 0 in float32's range");
  for (const auto& [name, penalty] :
       {std::pair{"presence_penalty", presence_penalty}, {"frequency_penalty", frequency_penalty}})
    require(std::isfinite(penalty), name, " is ", penalty, "; expected a finite number");
  for (const auto& [name, size] : {std::pair{"no_repeat_ngram_size", no_repeat_ngram_size},
                                   {"encoder_no_repeat_ngram_size", encoder_no_repeat_ngram_size},
                                   {"min_length", min_length},
                                   {"min_new_tokens", min_new_tokens},
                                   {"start", start},
                                   {"max_length", max_length}})
    require(size >= 0, name, " is ", size, "; expected an integer >= 0");
  for (const auto& [token, bias] : logit_bias)
    require(bias < kInfinity, "logit_bias of token ", token, " is ", bias, "; expected a number below infinity");
  for (const auto& word : bad_words_ids)
    require(!word.empty(), "bad_words_ids holds a word without tokens; expected lists of at least one token id");
}

bool LogitRules::active() const {
  return !logit_bias.empty() || repetition_penalty != 1 || presence_penalty != 0 || frequency_penalty != 0 ||
         no_repeat_ngram_size > 0 || !bad_words_ids.empty() || !suppress_tokens.empty() ||
         !begin_suppress_tokens.empty() || !forced_bos_token_id.empty() ||
         (!forced_eos_token_id.empty() && max_length > 0) ||
         (!source.empty() && (encoder_repetition_penalty != 1 || encoder_no_repeat_ngram_size > 0)) ||
         (!eos_token_id.empty() && (min_length > 0 || min_new_tokens > 0));
}

int64_t LogitRules::ids_read(int64_t length) const {
  if (repetition_penalty != 1 || no_repeat_ngram_size > 0) return length;
  int64_t read = presence_penalty != 0 || frequency_penalty != 0 ? std::max<int64_t>(0, length - start) : 0;
  read = std::max(read, encoder_no_repeat_ngram_size - 1);
  for (const auto& word : bad_words_ids) read = std::max(read, static_cast<int64_t>(word.size()) - 1);
  return std::min(read, length);
}

void TokenCounts::begin(int64_t vocabulary) {
  for (const int64_t token : tokens_) counts_[static_cast<size_t>(token)] = 0;
  tokens_.clear();
  counts_.resize(static_cast<size_t>(vocabulary));
}

int64_t TokenCounts::add(int64_t token) {
  if (token < 0 || token >= static_cast<int64_t>(counts_.size())) return 0;
  int32_t& count = counts_[static_cast<size_t>(token)];
  if (count == 0) tokens_.push_back(token);
  return ++count;
}

void apply_rules(const LogitRules& rules, const RecentIds& recent, float* scores, int64_t n,
                 RulesWorkspace& workspace) {
  Applying(rules, recent, scores, n, workspace).run();
}

}  // namespace qkv
