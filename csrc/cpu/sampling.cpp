#include "sampling.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "error.h"

namespace qkv {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kBlock = kMaximaBlock;
constexpr size_t kFew = 256;  // candidates are sorted faster than their probabilities counted

void normalise(std::vector<Candidate>& list) {
  double sum = 0;
  for (const Candidate& c : list) sum += c.probability;
  for (Candidate& c : list) c.probability /= sum;
}

// The first that holds the largest value.
int64_t block_of(const Maxima& maxima) {
  return std::find(maxima.blocks.begin(), maxima.blocks.end(), maxima.largest) - maxima.blocks.begin();
}

class Filtering {
 public:
  Filtering(const Kernels& kernels, const SamplingFilters& filters, const float* logits, int64_t n,
            const Maxima& maxima, SamplingWorkspace& workspace)
      : kernels_(kernels),
        filters_(filters),
        logits_(logits),
        n_(n),
        maxima_(maxima),
        most_(maxima.largest),
        w_(workspace),
        list_(workspace.candidates) {}

  void run() {
    if (filters_.top_k > 0 && filters_.top_k < n_) {
      keep_top_k();
      if (filters_.top_p < 1) keep_nucleus();
    } else {
      take_all();
      if (filters_.top_p < 1) keep_nucleus_of_all();
      else list_all(least_likely());
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
    sums.resize(static_cast<size_t>((n_ + kBlock - 1) / kBlock));
    kernels_.block_sums(p, n_, sums.data());
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
  // The tokens whose logit is at least `bound`, in order; none of probability 0.
  void collect(float bound) {
    bound = std::max(bound, std::numeric_limits<float>::lowest());
    list_.clear();
    for_each_from(bound, logits_, n_, maxima_,
                  [&](int64_t i, float logit) { list_.push_back({static_cast<int32_t>(i), logit, 0}); });
  }

  void keep_top_k() {
    const auto k = static_cast<size_t>(filters_.top_k);
    collect(bound_of_largest(maxima_, k));
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
    collect(std::nextafter(static_cast<float>(most_ + filters_.temperature * (std::log(likely) - kSlack)), -kInfinity));
    double mass = 0;
    for (Candidate& c : list_) mass += c.probability = w_.probabilities[static_cast<size_t>(c.id)];
    return mass;
  }

  // The nucleus mostly lies among few tokens that are much likelier than the rest: these are tried first, then ever
  // more. Candidates are drawn in an order that a partly listed bin of keep_nucleus would change: a tenth more are
  // whole bins, as in a list of all tokens.
  void keep_nucleus_of_all() {
    constexpr double kFirst = 1e-3, kLast = 1e-6;
    double likely = kFirst;
    while (list_all(likely) < filters_.top_p && likely > 0) likely = likely > kLast ? likely / 10 : 0;
    if (likely > 0 && likely < kFirst) list_all(0.9 * likely);
    keep_nucleus();
  }

  // How much less likely than the likeliest a token may be that is sure to be left by the other filters. A cutoff says
  // that where the probabilities are still those of all tokens.
  double least_likely() const {
    if (filters_.min_p > 0) return filters_.min_p;
    if (filters_.typical_p < 1 || filters_.epsilon_cutoff == 0) return 0;
    const int64_t block = block_of(maxima_);
    const float* p = w_.probabilities.data() + block * maxima_.block;
    const double largest = *std::max_element(p, p + std::min(maxima_.block, n_ - block * maxima_.block));
    return std::min(1.0, filters_.epsilon_cutoff / largest);
  }

  // A histogram over the leading bits of probabilities, 16 bins an octave, finds the bin where the nucleus ends; only
  // that has to be sorted.
  void keep_nucleus() {
    if (list_.size() <= kFew) return keep_first(list_.begin(), 0);
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
    keep_first(border, above);
  }

  // Of the candidates from `first` on, the likeliest: until those before, `above` in all, and these reach top_p.
  void keep_first(std::vector<Candidate>::iterator first, double above) {
    std::sort(first, list_.end(), [](const Candidate& a, const Candidate& b) {
      return a.probability != b.probability ? a.probability > b.probability : a.id > b.id;
    });
    while (first != list_.end() && above < filters_.top_p) above += first++->probability;
    list_.erase(first, list_.end());
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

  // Only as many as may be needed are put in order: first a few, then ever more.
  void keep_typical() {
    constexpr std::ptrdiff_t kFirst = 512, kGrowth = 4;
    std::vector<Oddness>& odd = w_.odd;
    odd.clear();
    double expected = 0;  // surprise, which is the entropy
    for (const Candidate& c : list_) {
      odd.push_back({-std::log(c.probability), c});
      if (c.probability > 0) expected += c.probability * odd.back().value;
    }
    for (Oddness& o : odd) o.value = std::abs(o.value - expected);
    auto kept = odd.begin(), sorted = odd.begin();  // where those that stay end, and those that are in order
    for (double mass = 0; kept != odd.end() && mass < filters_.typical_p; mass += kept++->candidate.probability) {
      if (kept != sorted) continue;
      sorted += std::min(odd.end() - sorted, std::max(kFirst, kGrowth * (sorted - odd.begin())));
      if (sorted != odd.end()) std::nth_element(kept, sorted, odd.end());
      std::sort(kept, sorted);
    }
    const auto equally_odd = [bound = (kept - 1)->value](const Oddness& o) { return o.value <= bound; };
    const auto end = std::partition(kept, odd.end(), equally_odd);
    std::sort(kept, end);
    list_.clear();
    for (auto o = odd.begin(); o != end; ++o) list_.push_back(o->candidate);
    normalise(list_);
  }

  const Kernels& kernels_;
  const SamplingFilters& filters_;
  const float* logits_;
  int64_t n_;
  const Maxima& maxima_;  // of the logits
  float most_;
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

int64_t likeliest(const float* logits, int64_t n, const Maxima& maxima) {
  if (!std::isfinite(maxima.largest)) return -1;
  const float* first = logits + block_of(maxima) * maxima.block;
  return std::find(first, logits + n, maxima.largest) - logits;
}

bool filter(const Kernels& kernels, const SamplingFilters& filters, const float* logits, int64_t n,
            const Maxima& maxima, SamplingWorkspace& workspace) {
  if (!std::isfinite(maxima.largest)) return false;
  Filtering(kernels, filters, logits, n, maxima, workspace).run();
  return true;
}

int64_t sample(const Kernels& kernels, const SamplingFilters& filters, const float* logits, int64_t n,
               const Maxima& maxima, double draw, SamplingWorkspace& workspace) {
  const SamplingFilters only_temperature = {.temperature = filters.temperature};
  if (!std::isfinite(maxima.largest)) return -1;
  Filtering filtering(kernels, filters, logits, n, maxima, workspace);
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
