#include "sampling.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "error.h"
#include "largest.h"

namespace qkv {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kBlock = kMaximaBlock;  // most blocks hold no candidate

void normalise(std::vector<Candidate>& list) {
  double sum = 0;
  for (const Candidate& c : list) sum += c.probability;
  for (Candidate& c : list) c.probability /= sum;
}

class Filtering {
 public:
  // workspace.block_most is of these logits, and `most` the largest of them.
  Filtering(const Kernels& kernels, const SamplingFilters& filters, const float* logits, int64_t n, float most,
            SamplingWorkspace& workspace)
      : kernels_(kernels),
        filters_(filters),
        logits_(logits),
        n_(n),
        most_(most),
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
    w_.probabilities.resize(static_cast<size_t>(n_));
    const float factor = std::min(1 / filters_.temperature, std::numeric_limits<float>::max());
    kernels_.softmax_with_max(logits_, most_, factor, w_.probabilities.data(), n_);
  }

  // One of all tokens, as if they were laid side by side, each as long as it is likely.
  int64_t draw_of_all(double draw) const {
    const float* p = w_.probabilities.data();
    std::vector<double>& sums = w_.masses;
    sum_blocks(p, sums);
    double total = 0;
    for (const double sum : sums) total += sum;
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
  // The sum of each block, added up in order. One sum is a chain of additions that wait for each other: several blocks
  // go together.
  void sum_blocks(const float* p, std::vector<double>& sums) const {
    constexpr size_t kTogether = 8;
    sums.assign(w_.block_most.size(), 0);
    const auto whole = static_cast<size_t>(n_ / kBlock);
    size_t block = 0;
    for (; block + kTogether <= whole; block += kTogether, p += kTogether * kBlock) {
      std::array<double, kTogether> sum{};
      for (int64_t i = 0; i < kBlock; ++i)
        for (size_t b = 0; b < kTogether; ++b) sum[b] += p[b * kBlock + static_cast<size_t>(i)];
      std::copy(sum.begin(), sum.end(), sums.begin() + static_cast<std::ptrdiff_t>(block));
    }
    for (int64_t i = 0; i < n_ - static_cast<int64_t>(block) * kBlock; ++i)
      sums[block + static_cast<size_t>(i / kBlock)] += p[i];
  }

  // The tokens whose logit is at least `bound`, in order; none of probability 0.
  void collect(float bound) {
    bound = std::max(bound, std::numeric_limits<float>::lowest());
    list_.clear();
    for_each_from(bound, logits_, n_, w_.block_most,
                  [&](int64_t i) { list_.push_back({static_cast<int32_t>(i), logits_[i], 0}); });
  }

  void keep_top_k() {
    const auto k = static_cast<size_t>(filters_.top_k);
    collect(bound_of_largest(w_.block_most, k, w_.scores));
    if (list_.size() > k) {
      w_.logits.clear();
      for (const Candidate& c : list_) w_.logits.push_back(c.logit);
      const float last = kth_largest(w_.logits, k, w_.scores);
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

int64_t likeliest(const Kernels& kernels, const float* logits, int64_t n, SamplingWorkspace& workspace) {
  const float largest = take_maxima(kernels, logits, n, workspace.block_most);
  if (!std::isfinite(largest)) return -1;
  const std::vector<float>& most = workspace.block_most;
  int64_t token = (std::find(most.begin(), most.end(), largest) - most.begin()) * kBlock;
  while (logits[token] != largest) ++token;
  return token;
}

bool filter(const Kernels& kernels, const SamplingFilters& filters, const float* logits, int64_t n,
            SamplingWorkspace& workspace) {
  const float largest = take_maxima(kernels, logits, n, workspace.block_most);
  if (!std::isfinite(largest)) return false;
  Filtering(kernels, filters, logits, n, largest, workspace).run();
  return true;
}

int64_t sample(const Kernels& kernels, const SamplingFilters& filters, const float* logits, int64_t n, double draw,
               SamplingWorkspace& workspace) {
  const SamplingFilters only_temperature = {.temperature = filters.temperature};
  const float largest = take_maxima(kernels, logits, n, workspace.block_most);
  if (!std::isfinite(largest)) return -1;
  Filtering filtering(kernels, filters, logits, n, largest, workspace);
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
