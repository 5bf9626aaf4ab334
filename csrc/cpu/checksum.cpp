#include "checksum.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <vector>

#include "threads.h"

namespace qkv {
namespace {

static_assert(std::endian::native == std::endian::little, "XXH64 reads little-endian lanes");

constexpr uint64_t kPrime1 = 0x9E3779B185EBCA87, kPrime2 = 0xC2B2AE3D27D4EB4F, kPrime3 = 0x165667B19E3779F9,
                   kPrime4 = 0x85EBCA77C2B2AE63, kPrime5 = 0x27D4EB2F165667C5;
constexpr size_t kBlock = size_t{1} << 20;

template <class T>
uint64_t lane_at(const unsigned char* p) {
  T lane;
  std::memcpy(&lane, p, sizeof lane);
  return lane;
}

uint64_t round(uint64_t accumulator, uint64_t lane) { return std::rotl(accumulator + lane * kPrime2, 31) * kPrime1; }

}  // namespace

uint64_t xxh64(const void* data, size_t bytes) {
  const auto* p = static_cast<const unsigned char*>(data);
  const auto* const end = p + bytes;
  uint64_t sum = kPrime5;
  if (bytes >= 32) {
    uint64_t lanes[4] = {kPrime1 + kPrime2, kPrime2, 0, 0 - kPrime1};
    for (; end - p >= 32; p += 32)
      for (int i = 0; i < 4; ++i) lanes[i] = round(lanes[i], lane_at<uint64_t>(p + 8 * i));
    sum = std::rotl(lanes[0], 1) + std::rotl(lanes[1], 7) + std::rotl(lanes[2], 12) + std::rotl(lanes[3], 18);
    for (const uint64_t lane : lanes) sum = (sum ^ round(0, lane)) * kPrime1 + kPrime4;
  }
  sum += bytes;
  for (; end - p >= 8; p += 8) sum = std::rotl(sum ^ round(0, lane_at<uint64_t>(p)), 27) * kPrime1 + kPrime4;
  for (; end - p >= 4; p += 4) sum = std::rotl(sum ^ lane_at<uint32_t>(p) * kPrime1, 23) * kPrime2 + kPrime3;
  for (; p < end; ++p) sum = std::rotl(sum ^ *p * kPrime5, 11) * kPrime1;
  sum = (sum ^ sum >> 33) * kPrime2;
  sum = (sum ^ sum >> 29) * kPrime3;
  return sum ^ sum >> 32;
}

uint64_t checksum(const void* data, size_t bytes, int threads) {
  const auto* p = static_cast<const unsigned char*>(data);
  std::vector<uint64_t> blocks((bytes + kBlock - 1) / kBlock);
  parallel_for(static_cast<int64_t>(blocks.size()), threads, [&](int64_t task, int) {
    const size_t block = static_cast<size_t>(task), start = block * kBlock;
    blocks[block] = xxh64(p + start, std::min(kBlock, bytes - start));
  });
  return xxh64(blocks.data(), blocks.size() * sizeof(uint64_t));
}

}  // namespace qkv
