#include "sampling.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>

#include "error.h"

namespace qkv {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kBlock = 64;  // logits whose maximum is taken first: most blocks hold no candidate

// The largest of up to kBlock logits; NaN if there is one.
float most_of(const float* x, int64_t n) {
  constexpr size_t kLanes = 16;  // independent, so that the compiler makes vectors of them
  std::array<float, kLanes> most;
  std::array<float, kLanes> poison{};
  most.fill(-kInfinity);
  if (n == kBlock) {
    for (size_t i = 0; i < kBlock; i += kLanes) {
      for (size_t lane = 0; lane < kLanes; ++lane) {
        const float value = x[i + lane];
        most[lane] = value > most[lane] ? value : most[lane];
        poison[lane] = value == value ? poison[lane] : value;
      }
    }
  } else {
    for (int64_t i = 0; i < n; ++i) {
      most[0] = std::max(most[0], x[i]);
      if (std::isnan(x[i])) poison[0] = x[i];
    }
  }
  for (const float p : poison)
    if (std::isnan(p)) return p;
  return *std::max_element(most.begin(), most.end());
}

void normalise(std::vector<Candidate>& list) {
  double sum = 0;
  for (const Candidate& c : list) sum += c.probability;
  for (Candidate& c : list) c.probability /= sum;
}

class Filtering {
 public:
  // likeliest() has filled workspace.block_most.
  Filtering(const Kernels& kernels, const SamplingFilters& filters, const float* logits, int64_t n,
            SamplingWorkspace& workspace)
      : kernels_(kernels),
        filters_(filters),
        logits_(logits),
        n_(n),
        most_(*std::max_element(workspace.block_most.begin(), workspace.block_most.end())),
        w_(workspace),
        list_(workspace.candidates) {}

  void run() {
    if (filters_.top_k > 0 && filters_.top_k < n_) {
      keep_top_k();
      if (filters_.top_p < 1) keep_nucleus();
    } else {
      take_all();
      if (filters_.top_p < 1) keep_nucleus_of_all();
      else list_all(filters_.min_p);
    }
    if (filters_.min_p > 0) keep_at_least(filters_.min_p * likeliest_probability());
    if (filters_.typical_p < 1) keep_typical();
    if (filters_.epsilon_cutoff > 0) keep_at_least(filters_.epsilon_cutoff);
    if (filters_.eta_cutoff > 0)
      keep_at_least(std::min<double>(filters_.eta_cutoff, std::sqrt(filters_.eta_cutoff) * std::exp(-entropy())));
  }

  // Probabilities of all tokens.
  void take_all() {
    w_.scores.resize(static_cast<size_t>(n_));
    w_.probabilities.resize(static_cast<size_t>(n_));
    const float factor = 1 / filters_.temperature;
    for (int64_t i = 0; i < n_; ++i) w_.scores[static_cast<size_t>(i)] = (logits_[i] - most_) * factor;
    kernels_.softmax(w_.scores.data(), w_.probabilities.data(), 1, n_);
  }

  // One of all tokens, as if they were laid side by side, each as long as it is likely.
  int64_t draw_of_all(double draw) const {
    const float* p = w_.probabilities.data();
    std::vector<double>& sums = w_.masses;
    sums.clear();
    double total = 0;
    for (int64_t start = 0; start < n_; start += kBlock) {
      double sum = 0;
      for (int64_t i = start; i < std::min(n_, start + kBlock); ++i) sum += p[i];
      sums.push_back(sum);
      total += sum;
    }
    double left = draw * total;
    size_t block = 0;
    while (block + 1 < sums.size() && left >= sums[block]) left -= sums[block++];
    int64_t chosen = -1;  // the last of probability > 0, where rounding leads beyond the end
    for (int64_t i = static_cast<int64_t>(block) * kBlock; i < std::min(n_, static_cast<int64_t>(block + 1) * kBlock);
         ++i) {
      if (p[i] == 0) continue;
      chosen = i;
      if ((left -= p[i]) < 0) break;
    }
    if (chosen >= 0) return chosen;
    return std::max_element(p, p + n_) - p;
  }

 private:
  // The tokens whose logit is at least `bound`, in order. Blocks that hold none are not looked at.
  void collect(float bound) {
    list_.clear();
    for (size_t block = 0; block < w_.block_most.size(); ++block) {
      if (w_.block_most[block] < bound) continue;
      const int64_t start = static_cast<int64_t>(block) * kBlock;
      for (int64_t i = start; i < std::min(n_, start + kBlock); ++i)
        if (logits_[i] >= bound && logits_[i] > -kInfinity) list_.push_back({static_cast<int32_t>(i), logits_[i], 0});
    }
  }

  // The k-th largest of the blocks' maxima is a lower bound of the k-th largest logit.
  void keep_top_k() {
    const auto k = static_cast<size_t>(filters_.top_k);
    float bound = -kInfinity;
    if (k <= w_.block_most.size()) {
      w_.scores = w_.block_most;
      std::nth_element(w_.scores.begin(), w_.scores.begin() + (filters_.top_k - 1), w_.scores.end(), std::greater<>());
      bound = w_.scores[k - 1];
    }
    collect(bound);
    if (list_.size() > k) {
      w_.scores.clear();
      for (const Candidate& c : list_) w_.scores.push_back(c.logit);
      std::nth_element(w_.scores.begin(), w_.scores.begin() + (filters_.top_k - 1), w_.scores.end(), std::greater<>());
      const float last = w_.scores[k - 1];
      std::erase_if(list_, [last](const Candidate& c) { return c.logit < last; });
    }
    for (Candidate& c : list_) c.probability = std::exp((static_cast<double>(c.logit) - most_) / filters_.temperature);
    normalise(list_);
  }

  // At least those that are `likely` times as likely as the likeliest. Returns their probability.
  double list_all(double likely = 0) {
    constexpr double kSlack = 1e-3;  // for the rounding of logarithms
    collect(static_cast<float>(most_ + filters_.temperature * (std::log(likely) - kSlack)));
    double mass = 0;
    for (Candidate& c : list_) mass += c.probability = w_.probabilities[static_cast<size_t>(c.id)];
    return mass;
  }

  // The nucleus mostly lies among few tokens that are much likelier than the rest: these are tried first.
  void keep_nucleus_of_all() {
    if (list_all(1e-3) < filters_.top_p) list_all();
    keep_nucleus();
  }

  // A histogram over the leading bits of probabilities, 16 bins an octave, finds the bin where the nucleus ends; only
  // that has to be sorted.
  void keep_nucleus() {
    constexpr size_t kBins = 256 * 16;
    const auto bin = [](const Candidate& c) {
      return std::bit_cast<uint32_t>(static_cast<float>(c.probability)) >> 19 & (kBins - 1);
    };
    w_.masses.assign(kBins, 0);
    for (const Candidate& c : list_) w_.masses[bin(c)] += c.probability;
    double above = 0;
    size_t last = kBins - 1;
    while (last > 0 && above + w_.masses[last] < filters_.top_p) above += w_.masses[last--];
    std::erase_if(list_, [&](const Candidate& c) { return bin(c) < last; });
    const auto border = std::partition(list_.begin(), list_.end(), [&](const Candidate& c) { return bin(c) > last; });
    std::sort(border, list_.end(), [](const Candidate& a, const Candidate& b) {
      return a.probability != b.probability ? a.probability > b.probability : a.id > b.id;
    });
    auto end = border;
    while (end != list_.end() && above < filters_.top_p) above += end++->probability;
    list_.erase(end, list_.end());
    normalise(list_);
  }

  double likeliest_probability() const {
    double most = 0;
    for (const Candidate& c : list_) most = std::max(most, c.probability);
    return most;
  }

  void keep_at_least(double bound) {
    bound = std::min(bound, likeliest_probability());
    std::erase_if(list_, [bound](const Candidate& c) { return c.probability < bound; });
    normalise(list_);
  }

  double entropy() const {
    double sum = 0;
    for (const Candidate& c : list_)
      if (c.probability > 0) sum -= c.probability * std::log(c.probability);
    return sum;
  }

  void keep_typical() {
    const double expected = entropy();
    const auto oddness = [expected](const Candidate& c) { return std::abs(-std::log(c.probability) - expected); };
    std::sort(list_.begin(), list_.end(),
              [&](const Candidate& a, const Candidate& b) { return oddness(a) < oddness(b); });
    double mass = 0;
    size_t last = 0;
    while (last + 1 < list_.size() && (mass += list_[last].probability) < filters_.typical_p) ++last;
    const double bound = oddness(list_[last]);
    std::erase_if(list_, [&](const Candidate& c) { return oddness(c) > bound; });
    normalise(list_);
  }

  const Kernels& kernels_;
  const SamplingFilters& filters_;
  const float* logits_;
  int64_t n_;
  float most_;  // of the logits
  SamplingWorkspace& w_;
  std::vector<Candidate>& list_;
};

}  // namespace

void SamplingFilters::check() const {
  require(temperature > 0 && temperature < kInfinity, "temperature ", temperature, " is not a number > 0");
  require(top_k >= 0, "top_k ", top_k, " is negative");
  for (const auto& [name, p] : {std::pair{"top_p", top_p}, {"typical_p", typical_p}})
    require(p > 0 && p <= 1, name, " ", p, " is not in (0, 1]");
  for (const auto& [name, p] :
       {std::pair{"min_p", min_p}, {"epsilon_cutoff", epsilon_cutoff}, {"eta_cutoff", eta_cutoff}})
    require(p >= 0 && p < 1, name, " ", p, " is not in [0, 1)");
}

int64_t likeliest(const float* logits, int64_t n, SamplingWorkspace& workspace) {
  require(n > 0, "there are no logits to choose from");
  std::vector<float>& most = workspace.block_most;
  most.clear();
  size_t best = 0;
  for (int64_t start = 0; start < n; start += kBlock) {
    most.push_back(most_of(logits + start, std::min(kBlock, n - start)));
    if (std::isnan(most.back())) {
      best = most.size() - 1;
      break;
    }
    if (most.back() > most[best]) best = most.size() - 1;
  }
  const auto start = static_cast<int64_t>(best) * kBlock;
  int64_t token = start;
  while (logits[token] != most[best] && !std::isnan(logits[token])) ++token;
  require(std::isfinite(logits[token]), "the logits are not finite: token ", token, " has ", logits[token],
          "; expected numbers");
  return token;
}

void filter(const Kernels& kernels, const SamplingFilters& filters, const float* logits, int64_t n,
            SamplingWorkspace& workspace) {
  likeliest(logits, n, workspace);
  Filtering(kernels, filters, logits, n, workspace).run();
}

int64_t sample(const Kernels& kernels, const SamplingFilters& filters, const float* logits, int64_t n, double draw,
               SamplingWorkspace& workspace) {
  const SamplingFilters only_temperature = {.temperature = filters.temperature};
  likeliest(logits, n, workspace);
  Filtering filtering(kernels, filters, logits, n, workspace);
  if (filters == only_temperature) {
    filtering.take_all();
    return filtering.draw_of_all(draw);
  }
  filtering.run();
  double left = draw;
  for (const Candidate& c : workspace.candidates)
    if ((left -= c.probability) < 0) return c.id;
  return workspace.candidates.back().id;
}

double uniform(uint64_t seed, uint64_t stream, uint64_t step) {
  constexpr uint32_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57, kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
  std::array<uint32_t, 4> x = {static_cast<uint32_t>(step), static_cast<uint32_t>(step >> 32),
                               static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)};
  auto key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round, key0 += kWeyl0, key1 += kWeyl1) {
    const uint64_t a = uint64_t{kMultiplier0} * x[0], b = uint64_t{kMultiplier1} * x[2];
    x = {static_cast<uint32_t>(b >> 32) ^ x[1] ^ key0, static_cast<uint32_t>(b),
         static_cast<uint32_t>(a >> 32) ^ x[3] ^ key1, static_cast<uint32_t>(a)};
  }
  const uint64_t bits = (uint64_t{x[0]} << 32 | x[1]) >> 11;
  return static_cast<double>(bits) * 0x1p-53;
}

}  // namespace qkv
