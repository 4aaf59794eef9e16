// A magnitude divided by a power of two, rounded pseudo-stochastically; ezo/int8/rounding.py defines
// it.
#pragma once
#include <cstdint>

namespace ezo {
namespace {  // each file's own, for those of an instruction set may share no function

// s from 0 to 62
inline std::int64_t pseudo_stochastic(std::int64_t magnitude, int s) {
  const int half = s / 2;
  const std::int64_t r = magnitude & ((std::int64_t{1} << s) - 1);
  const std::int64_t lower = (r & ((std::int64_t{1} << half) - 1)) << (s % 2);
  return (magnitude >> s) + ((r >> half) > lower);
}

}  // namespace
}  // namespace ezo
