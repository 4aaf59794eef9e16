// Scratch of a call, aligned to a cache line.
#pragma once
#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>

namespace ezo {

struct Free {
  void operator()(void* p) const { std::free(p); }
};
using Memory = std::unique_ptr<void, Free>;

inline Memory allocate(std::size_t bytes) {
  Memory memory(std::aligned_alloc(64, (bytes + 63) / 64 * 64));
  if (!memory) throw std::bad_alloc();
  return memory;
}

}  // namespace ezo
