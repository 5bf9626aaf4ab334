// The one exception of the C++ side; Python sees it as qkv.Error.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace qkv {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// require(n > 0, "linear: ", n, " features") throws the joined text when the condition does not hold.
template <class... Parts>
void require(bool holds, const Parts&... parts) {
  if (holds) return;
  std::ostringstream text;
  (text << ... << parts);
  throw Error(text.str());
}

}  // namespace qkv
