// Memory that one thread takes in order and gives back all at once: no allocation while atoms are evaluated.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "vec.h"

namespace dpa1 {

class Arena {
 public:
  /// A place to go back to.
  struct Mark {
    size_t slab, used;
  };

  /// Room for n numbers, aligned to a cache line; contents are whatever was there.
  template <class R>
  R* take(size_t n) {
    const size_t bytes = (n * sizeof(R) + 63) / 64 * 64;
    while (slab_ < slabs_.size() && used_ + bytes > slabs_[slab_].size) {
      ++slab_;
      used_ = 0;
    }
    if (slab_ == slabs_.size()) grow(bytes);
    char* p = slabs_[slab_].data.get() + used_;
    used_ += bytes;
    return reinterpret_cast<R*>(p);
  }

  Mark mark() const { return {slab_, used_}; }
  void release(Mark m) {
    slab_ = m.slab;
    used_ = m.used;
  }

 private:
  static constexpr size_t SLAB = size_t(8) << 20;
  struct Free {
    void operator()(char* p) const { std::free(p); }
  };
  struct Slab {
    std::unique_ptr<char, Free> data;
    size_t size;
  };

  void grow(size_t bytes) {
    const size_t size = bytes > SLAB ? bytes : SLAB;
    char* p = static_cast<char*>(std::aligned_alloc(64, size));
    if (!p) throw std::bad_alloc();
    slabs_.push_back({std::unique_ptr<char, Free>(p), size});
    used_ = 0;
  }

  std::vector<Slab> slabs_;
  size_t slab_ = 0, used_ = 0;
};

}  // namespace dpa1
