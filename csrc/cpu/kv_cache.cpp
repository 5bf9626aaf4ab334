#include "kv_cache.h"

#include <algorithm>
#include <array>

#include "error.h"

namespace qkv {
namespace {

constexpr std::array kTypeNames = {"float32", "bfloat16", "int8"};

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
  max_pages_ = max_bytes / page_bytes();
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
  return page;
}

void KVCache::retain(int page) {
  const std::lock_guard lock(mutex_);
  require(in_use(page), "KV cache: page ", page, " is not in use");
  ++pages_[static_cast<size_t>(page)].references;
}

void KVCache::release(int page) {
  const std::lock_guard lock(mutex_);
  require(in_use(page), "KV cache: page ", page, " is not in use");
  if (--pages_[static_cast<size_t>(page)].references == 0) free_.push_back(page);
}

int64_t KVCache::pages_in_use() const {
  const std::lock_guard lock(mutex_);
  return static_cast<int64_t>(pages_.size() - free_.size());
}

void KVCache::check(int page) const {
  const std::lock_guard lock(mutex_);
  require(in_use(page), "KV cache: page ", page, " is not in use");
}

bool KVCache::in_use(int page) const {
  return page >= 0 && static_cast<size_t>(page) < pages_.size() && pages_[static_cast<size_t>(page)].references > 0;
}

uint8_t* KVCache::head(int page, int64_t layer, int64_t head) const {
  return static_cast<uint8_t*>(pages_[static_cast<size_t>(page)].memory.data()) + (layer * heads_ + head) * head_bytes_;
}

}  // namespace qkv
