// What is done to scores before a token is chosen: Hugging Face's logits processors, with their names, their meaning
// and in their order (that of `_get_logits_processor`), and OpenAI's presence and frequency penalties.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace qkv {

// The rules of one request, in the order in which they apply, each to the scores that the one before it left. At its
// default a rule does nothing. Tokens that are not in the vocabulary are ignored. Scores are logits, or their
// log-softmax where beams are searched.
struct LogitRules {
  int64_t start = 0;                  // ids before the first new one
  int64_t max_length = 0;             // most ids in the end; 0: not known
  std::vector<int64_t> eos_token_id;  // tokens that end a text
  std::vector<int64_t> source;        // what an encoder read, or a decoder's prompt

  std::vector<std::pair<int64_t, float>> logit_bias;  // a token, and what is added to its score
  double encoder_repetition_penalty = 1;              // the inverse of the next one, for tokens of the source
  double repetition_penalty = 1;                      // divides scores of tokens in ids; multiplies negative scores
  float presence_penalty = 0;                         // subtracted from scores of new tokens in ids: once,
  float frequency_penalty = 0;                        // and as often as they are there
  int64_t no_repeat_ngram_size = 0;                   // so many ids never follow each other twice
  int64_t encoder_no_repeat_ngram_size = 0;           // nor as they do in the source
  std::vector<std::vector<int64_t>> bad_words_ids;    // never follow each other; a lone end token does not count
  int64_t min_length = 0;                             // no end token before there are so many ids,
  int64_t min_new_tokens = 0;                         // or so many new ones
  std::vector<int64_t> forced_bos_token_id;           // nothing else behind the first id
  std::vector<int64_t> forced_eos_token_id;           // nothing else at the last place of max_length
  std::vector<int64_t> suppress_tokens;               // never chosen
  std::vector<int64_t> begin_suppress_tokens;         // not as the first new token, or the one behind a forced first

  void check() const;  // throws Error
  bool active() const;
  // How many of the last ids of a sequence of this length the rules look at.
  int64_t ids_read(int64_t length) const;
};

// A sequence's ids, as far as the rules look at them.
struct RecentIds {
  int64_t length = 0;  // of the whole sequence
  std::vector<int64_t> ids = {};
};

// Counts tokens of a vocabulary.
class TokenCounts {
 public:
  void begin(int64_t vocabulary);
  // Returns how often the token came, this time included; 0 when it is not in the vocabulary.
  int64_t add(int64_t token);
  int64_t count(int64_t token) const { return counts_[static_cast<size_t>(token)]; }
  const std::vector<int64_t>& tokens() const { return tokens_; }  // that came, each once

 private:
  std::vector<int32_t> counts_;
  std::vector<int64_t> tokens_;
};

// Memory of one thread, kept for the next row.
struct RulesWorkspace {
  TokenCounts counts;
  std::vector<int64_t> changed;  // tokens whose scores were
};

// Changes the n scores of the token that follows `recent`.
void apply_rules(const LogitRules& rules, const RecentIds& recent, float* scores, int64_t n, RulesWorkspace& workspace);

}  // namespace qkv
