#include "profile.h"

#include <cstdlib>

namespace qkv {

Profile::Profile() {
  const char* wish = std::getenv("QKV_PROFILE");
  enabled_ = wish && *wish && std::string(wish) != "0";
}

void Profile::add(const std::string& kind, double seconds, const Work& work) {
  const std::lock_guard lock(mutex_);
  Usage& usage = usage_[kind];
  ++usage.calls;
  usage.seconds += seconds;
  usage.work.flops += work.flops;
  usage.work.bytes += work.bytes;
}

std::map<std::string, Usage> Profile::usage() const {
  const std::lock_guard lock(mutex_);
  return usage_;
}

}  // namespace qkv
