#include "memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>

#include "error.h"
#include "kernels/kernels.h"

namespace qkv {
namespace {
constexpr size_t kHugePage = size_t{2} << 20;
}

Memory::Memory(size_t bytes) : bytes_(bytes) {
  if (!bytes) return;
  const size_t alignment = bytes >= kHugePage ? kHugePage : kAlignment;
  data_.reset(std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment));
  require(data_ != nullptr, "out of memory: could not allocate ", bytes, " bytes");
#ifdef MADV_HUGEPAGE
  if (alignment == kHugePage) madvise(data_.get(), bytes, MADV_HUGEPAGE);
#endif
}

void Memory::reserve(size_t bytes) {
  if (bytes <= bytes_) return;
  *this = Memory();  // first give back, then take: the two are never held together
  *this = Memory(bytes);
}

void Memory::give_back() {
#ifdef MADV_DONTNEED
  // Only whole pages of the system: the others hold bytes of the allocator, too.
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE)), start = reinterpret_cast<uintptr_t>(data_.get());
  const uintptr_t first = (start + page - 1) / page * page, end = (start + bytes_) / page * page;
  if (end > first) madvise(reinterpret_cast<void*>(first), end - first, MADV_DONTNEED);
#endif
}

void Memory::Free::operator()(void* p) const { std::free(p); }

}  // namespace qkv
