// Where the time of a program's runs goes, by step kind. On when QKV_PROFILE is set to anything but 0.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>

namespace qkv {

// What a step did: arithmetic, and bytes of weights and activations that it had to read or write once.
struct Work {
  double flops = 0;
  double bytes = 0;
};

struct Usage {
  int64_t calls = 0;
  double seconds = 0;
  Work work;
};

class Profile {
 public:
  Profile();
  bool enabled() const { return enabled_; }
  void add(const std::string& kind, double seconds, const Work& work);
  std::map<std::string, Usage> usage() const;

 private:
  bool enabled_;
  mutable std::mutex mutex_;
  std::map<std::string, Usage> usage_;
};

}  // namespace qkv
