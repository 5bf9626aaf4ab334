#include "kv_cache.h"

#include <algorithm>
#include <array>
#include <climits>
#include <cstring>

#include "error.h"
#include "threads.h"

namespace qkv {
namespace {

constexpr std::array kTypeNames = {"float32", "bfloat16", "int8"};

constexpr double kCopyWork = 10;  // of a byte, in the unit of threads_for

// Positions first ... first + n - 1 of a head's page, laid out as kernels/attention_pages.h says. Values of bfloat16
// are pairs of positions: the neighbours at both ends come along.
void copy_positions(KVType type, int64_t head_dim, int64_t first, int64_t n, const uint8_t* from, uint8_t* to) {
  if (n == kPageTokens) {
    std::memcpy(to, from, static_cast<size_t>(page_bytes(type, head_dim)));
    return;
  }
  const auto copy = [&](int64_t at, int64_t bytes) { std::memcpy(to + at, from + at, static_cast<size_t>(bytes)); };
  const int64_t word = type == KVType::int8 ? 1 : 4, values = key_bytes(type, head_dim);
  for (int64_t row = 0; row < values; row += kPageTokens * word) copy(row + first * word, n * word);
  const int64_t stride = value_stride(head_dim), scales = values + kPageTokens * stride;
  switch (type) {
    case KVType::float32: return copy(values + first * stride * 4, n * stride * 4);
    case KVType::bfloat16: return copy(values + first / 2 * stride * 4, ((first + n + 1) / 2 - first / 2) * stride * 4);
    case KVType::int8:
      copy(values + first * stride, n * stride);
      copy(scales + first * 4, n * 4);
      copy(scales + (kPageTokens + first) * 4, n * 4);
  }
}

// What bfloat16 values hold beside n positions of head_dim columns: half of a pair, and columns that pad the rows.
void clear_padding(int64_t head_dim, int64_t n, uint8_t* head) {
  const int64_t stride = value_stride(head_dim);
  uint8_t* values = head + key_bytes(KVType::bfloat16, head_dim);
  for (int64_t slot = 0; slot < n + n % 2; ++slot)
    for (int64_t column = slot < n ? head_dim : 0; column < stride; ++column)
      std::memset(values + ((slot / 2 * stride + column) * 2 + slot % 2) * 2, 0, 2);
}

}  // namespace

KVType kv_type_of(const std::string& name) {
  const auto found = std::find(kTypeNames.begin(), kTypeNames.end(), name);
  require(found != kTypeNames.end(), "keys and values are float32, bfloat16 or int8, not '", name, "'");
  return static_cast<KVType>(found - kTypeNames.begin());
}

const char* name_of(KVType type) { return kTypeNames[static_cast<size_t>(type)]; }

KVCache::KVCache(int64_t layers, int64_t heads, int64_t head_dim, KVType type, int64_t max_bytes)
    : layers_(layers),
      heads_(heads),
      head_dim_(head_dim),
      type_(type),
      head_bytes_(qkv::page_bytes(type, std::max<int64_t>(head_dim, 0))) {
  require(layers > 0 && heads > 0 && head_dim > 0, "KV cache: layers, heads and head_dim must be positive");
  max_pages_ = std::min<int64_t>(max_bytes / page_bytes(), INT_MAX);
  require(max_pages_ > 0, "KV cache: ", max_bytes, " bytes hold no page; one takes ", page_bytes(), " bytes");
  pages_.reserve(static_cast<size_t>(max_pages_));
}

int KVCache::allocate() {
  const std::lock_guard lock(mutex_);
  if (free_.empty()) {
    require(static_cast<int64_t>(pages_.size()) < max_pages_, "KV cache: all ", max_pages_, " pages are in use (",
            max_pages_ * kPageTokens, " positions)");
    pages_.push_back({Memory(static_cast<size_t>(page_bytes()))});
    free_.push_back(static_cast<int>(pages_.size()) - 1);
  }
  const int page = free_.back();
  free_.pop_back();
  pages_[static_cast<size_t>(page)].references = 1;
  pages_[static_cast<size_t>(page)].empty = false;
  return page;
}

void KVCache::retain(int page) {
  const std::lock_guard lock(mutex_);
  require_use(page);
  ++pages_[static_cast<size_t>(page)].references;
}

void KVCache::release(int page) {
  const std::lock_guard lock(mutex_);
  require_use(page);
  if (--pages_[static_cast<size_t>(page)].references == 0) free_.push_back(page);
}

int KVCache::references(int page) const {
  const std::lock_guard lock(mutex_);
  require_use(page);
  return pages_[static_cast<size_t>(page)].references;
}

void KVCache::copy(int from, int to, int64_t first, int64_t positions, int threads) {
  require(first >= 0 && positions >= 0 && first + positions <= kPageTokens, "KV cache: a page has no positions ", first,
          " to ", first + positions);
  check(std::array{from, to});
  require(from != to, "KV cache: page ", from, " can't be copied to itself");
  const auto bytes = static_cast<double>(page_bytes() * positions / kPageTokens);
  parallel_for(layers_ * heads_, threads_for(kCopyWork * bytes, threads), [&](int64_t i, int) {
    copy_positions(type_, head_dim_, first, positions, data(from) + i * head_bytes_, data(to) + i * head_bytes_);
  });
}

void KVCache::trim(int64_t kept) {
  const std::lock_guard lock(mutex_);
  int64_t bytes = 0;
  for (auto number = free_.rbegin(); number != free_.rend(); ++number) {  // the last one is used next
    Page& page = pages_[static_cast<size_t>(*number)];
    if (page.empty || (bytes += page_bytes()) <= kept) continue;
    page.memory.give_back();
    page.empty = true;
  }
}

void KVCache::read(int page, int64_t positions, uint8_t* bytes) const {
  require(positions >= 0 && positions <= kPageTokens, "KV cache: a page has no ", positions, " positions");
  check({&page, 1});
  std::memset(bytes, 0, static_cast<size_t>(page_bytes()));
  for (int64_t i = 0; i < layers_ * heads_; ++i, bytes += head_bytes_) {
    copy_positions(type_, head_dim_, 0, positions, data(page) + i * head_bytes_, bytes);
    if (type_ == KVType::bfloat16) clear_padding(head_dim_, positions, bytes);
  }
}

void KVCache::write(int page, const uint8_t* bytes) {
  check({&page, 1});
  std::memcpy(data(page), bytes, static_cast<size_t>(page_bytes()));
}

int64_t KVCache::pages_in_use() const {
  const std::lock_guard lock(mutex_);
  return static_cast<int64_t>(pages_.size() - free_.size());
}

void KVCache::check(std::span<const int> pages) const {
  const std::lock_guard lock(mutex_);
  for (const int page : pages) require_use(page);
}

void KVCache::require_use(int page) const {
  require(page >= 0 && static_cast<size_t>(page) < pages_.size() && pages_[static_cast<size_t>(page)].references > 0,
          "KV cache: page ", page, " is not in use");
}

uint8_t* KVCache::head(int page, int64_t layer, int64_t head) const {
  return data(page) + (layer * heads_ + head) * head_bytes_;
}

}  // namespace qkv
