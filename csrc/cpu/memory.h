// Aligned memory that is released with its owner.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace qkv {

class Memory {
 public:
  Memory() = default;
  // Not initialised. Large blocks ask for huge pages: streaming weights through 4 KiB pages costs up to a fifth of
  // the memory bandwidth. Throws Error when there is not enough memory.
  explicit Memory(size_t bytes);

  // Makes room for at least `bytes`; what was in it is lost when it grows.
  void reserve(size_t bytes);
  // Gives what it takes of the machine's memory back, for now; what was in it is lost.
  void give_back();

  size_t bytes() const { return bytes_; }
  void* data() const { return data_.get(); }
  float* floats() const { return static_cast<float*>(data_.get()); }

 private:
  struct Free {
    void operator()(void* p) const;
  };
  std::unique_ptr<void, Free> data_;
  size_t bytes_ = 0;
};

}  // namespace qkv
