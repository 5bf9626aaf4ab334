// A checksum that tells damaged files from sound ones as fast as memory is read. It is no signature: who wants to forge
// a file can compute it too.
#pragma once

#include <cstddef>
#include <cstdint>

namespace qkv {

// XXH64 with seed 0 (Yann Collet, https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md).
uint64_t xxh64(const void* data, size_t bytes);

// XXH64 of the XXH64s of consecutive blocks of 1 MiB (the last one may be shorter; of none when there are no bytes), so
// that all threads can work on it.
uint64_t checksum(const void* data, size_t bytes, int threads);

}  // namespace qkv
