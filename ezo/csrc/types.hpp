// Types of floats, and where the elements of a tensor lie.
//
// Included once per instruction set, within its namespace's anonymous one.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "noise.hpp"

namespace ezo {
namespace EZO_ISA {
namespace {

inline std::uint32_t bits_of(float x) {
  std::uint32_t u;
  std::memcpy(&u, &x, sizeof u);
  return u;
}

inline float float_of(std::uint32_t u) {
  float x;
  std::memcpy(&x, &u, sizeof x);
  return x;
}

inline float of_bfloat16(std::uint16_t x) { return float_of(std::uint32_t{x} << 16); }

inline std::uint16_t to_bfloat16(float x) {  // to nearest, halves to even
  const std::uint32_t u = bits_of(x);
  if (x != x) return 0x7FC0;
  return static_cast<std::uint16_t>((u + 0x7FFFu + (u >> 16 & 1)) >> 16);
}

// float16 by arithmetic of float32 alone (Maratyszcza's FP16, as in torch), subnormal numbers too.
inline float of_float16(std::uint16_t x) {
  const std::uint32_t w = std::uint32_t{x} << 16, sign = w & 0x80000000u, twice = w + w;
  const float normal = float_of((twice >> 4) + (0xE0u << 23)) * 0x1p-112f;
  const float subnormal = float_of((twice >> 17) | (126u << 23)) - 0.5f;
  return float_of(sign | bits_of(twice < (1u << 27) ? subnormal : normal));
}

inline std::uint16_t to_float16(float x) {  // to nearest, halves to even
  const std::uint32_t w = bits_of(x), sign = w & 0x80000000u, twice = w + w;
  const std::uint32_t bias = std::max(twice & 0xFF000000u, 0x71000000u);
  float base = std::fabs(x) * 0x1p+112f * 0x1p-110f;  // infinite where too large
  base = float_of((bias >> 1) + 0x07800000u) + base;
  const std::uint32_t u = bits_of(base), rest = (u >> 13 & 0x7C00u) + (u & 0xFFFu);
  return static_cast<std::uint16_t>(sign >> 16 | (twice > 0xFF000000u ? 0x7E00u : rest));
}

// Where elements first .. first + n - 1, in row-major order, lie from the first of all; of a rank
// above 0.
inline void places(const View& v, std::size_t first, std::size_t n, std::ptrdiff_t* where) {
  std::int64_t index[kLargestRank];
  std::ptrdiff_t at = 0;
  for (int d = v.rank - 1; d >= 0; --d) {
    index[d] = static_cast<std::int64_t>(first) % v.shape[d];
    first /= static_cast<std::size_t>(v.shape[d]);
    at += index[d] * v.strides[d];
  }
  const int last = v.rank - 1;
  for (std::size_t i = 0; i < n;) {
    const std::int64_t left = v.shape[last] - index[last];
    const std::int64_t run = std::min(static_cast<std::int64_t>(n - i), left);
    for (std::int64_t j = 0; j < run; ++j, at += v.strides[last]) where[i++] = at;
    index[last] += run;
    for (int d = last; d > 0 && index[d] == v.shape[d]; --d) {
      at += v.strides[d - 1] - v.shape[d] * v.strides[d];
      index[d] = 0;
      ++index[d - 1];
    }
  }
}

// to[i] = element first + i, at where[i], as a number to compute with.
template <class Number>
inline void gather(const View& v, std::size_t first, const std::ptrdiff_t* where, std::size_t n,
                   Number* to) {
  auto each = [&](auto* from, auto read) {
    if (v.rank == 0) {
      for (std::size_t i = 0; i < n; ++i) to[i] = static_cast<Number>(read(from[first + i]));
    } else {
      for (std::size_t i = 0; i < n; ++i) to[i] = static_cast<Number>(read(from[where[i]]));
    }
  };
  switch (v.type) {
    case Type::float32: return each(static_cast<float*>(v.data), [](float x) { return x; });
    case Type::float64: return each(static_cast<double*>(v.data), [](double x) { return x; });
    case Type::float16:
      return each(static_cast<std::uint16_t*>(v.data),
                  [](std::uint16_t x) { return of_float16(x); });
    case Type::bfloat16:
      return each(static_cast<std::uint16_t*>(v.data),
                  [](std::uint16_t x) { return of_bfloat16(x); });
  }
}

// Element first + i, at where[i], = from[i], rounded to the tensor's type.
template <class Number>
inline void scatter(const View& v, std::size_t first, const std::ptrdiff_t* where, std::size_t n,
                    const Number* from) {
  auto each = [&](auto* to, auto write) {
    if (v.rank == 0) {
      for (std::size_t i = 0; i < n; ++i) to[first + i] = write(from[i]);
    } else {
      for (std::size_t i = 0; i < n; ++i) to[where[i]] = write(from[i]);
    }
  };
  switch (v.type) {
    case Type::float32:
      return each(static_cast<float*>(v.data), [](Number x) { return static_cast<float>(x); });
    case Type::float64: return each(static_cast<double*>(v.data), [](Number x) { return x; });
    case Type::float16:
      return each(static_cast<std::uint16_t*>(v.data),
                  [](Number x) { return to_float16(static_cast<float>(x)); });
    case Type::bfloat16:
      return each(static_cast<std::uint16_t*>(v.data),
                  [](Number x) { return to_bfloat16(static_cast<float>(x)); });
  }
}

}  // namespace
}  // namespace EZO_ISA
}  // namespace ezo
