// Keys and values of past tokens, in pages of kPageTokens positions. A page holds those positions for every layer
// and key/value head; sequences list the pages they use, and pages are shared by reference count.
#pragma once

#include <cstdint>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "kernels/kernels.h"
#include "memory.h"

namespace qkv {

// "float32", "bfloat16", "int8"; throws Error for other names.
KVType kv_type_of(const std::string& name);
const char* name_of(KVType type);

constexpr int kNoPage = -1;  // in a sequence's list of pages: freed, as no query looks back that far

class KVCache {
 public:
  // At most max_bytes of pages are held at once.
  KVCache(int64_t layers, int64_t heads, int64_t head_dim, KVType type, int64_t max_bytes);

  int allocate();          // a page with one reference; throws Error when the limit is reached
  void retain(int page);   // one more reference
  void release(int page);  // one less; the last one frees the page
  int references(int page) const;
  // Some positions of a page, to the same place in another that is like it before them.
  void copy(int from, int to, int64_t first, int64_t positions, int threads);
  // Gives the memory of free pages back to the system, until they are used again; of all but `kept` bytes.
  void trim(int64_t kept);

  // The bytes of a page for files: zeros wherever the first `positions` positions are not. [page_bytes()]
  void read(int page, int64_t positions, uint8_t* bytes) const;
  void write(int page, const uint8_t* bytes);

  int64_t pages_in_use() const;
  int64_t page_bytes() const { return layers_ * heads_ * head_bytes_; }
  int64_t max_pages() const { return max_pages_; }
  int64_t layers() const { return layers_; }
  int64_t heads() const { return heads_; }
  int64_t head_dim() const { return head_dim_; }
  KVType type() const { return type_; }

  // Throws Error unless these pages are in use.
  void check(std::span<const int> pages) const;
  // Keys and values of one head, laid out as kernels.h says. The page must be in use.
  uint8_t* head(int page, int64_t layer, int64_t head) const;

 private:
  struct Page {
    Memory memory;
    int references = 0;
    bool empty = false;  // the system has its memory
  };
  void require_use(int page) const;  // the mutex is held
  uint8_t* data(int page) const { return static_cast<uint8_t*>(pages_[static_cast<size_t>(page)].memory.data()); }

  int64_t layers_, heads_, head_dim_;
  KVType type_;
  int64_t head_bytes_, max_pages_;
  std::vector<Page> pages_;  // reserved for max_pages_, so that growing never moves a page in use
  std::vector<int> free_;
  mutable std::mutex mutex_;
};

}  // namespace qkv
