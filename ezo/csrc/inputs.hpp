// Inputs as the products read them, and what accumulators begin with.
//
// Included once per instruction set, within its namespace's anonymous one, after lanes.hpp.
#pragma once
#include <algorithm>
#include <cstdint>

#include "product.hpp"

namespace ezo {
namespace EZO_ISA {
namespace {

template <class E>
int groups(const Layer& layer) {  // of one row of the kernel
  return (layer.wide * layer.channels + kInputs<E> - 1) / kInputs<E>;
}

// The bias of each output, less what the encoding's offset will add; 0 for outputs beyond the last.
template <class E>
void begin(const Layer& layer, const std::int32_t* bias_of, int outputs, std::int32_t* start) {
  const std::size_t n = static_cast<std::size_t>(layer.high) * layer.wide * layer.channels;
  for (int o = 0; o < outputs; ++o) {
    std::uint32_t sum = 0;
    const std::int8_t* w = layer.weight + o * n;
    if (E::kOffset != 0 && o < layer.outputs) {
      for (std::size_t i = 0; i < n; ++i) sum += w[i];
    }
    const std::uint32_t bias = o < layer.outputs ? bias_of[o] : 0;
    start[o] = static_cast<std::int32_t>(bias - E::kOffset * sum);
  }
}

// `count` inputs, `n` or more, so many at a time: of the last ones some are there already.
template <class E, int n>
void encode(const std::int8_t* x, int count, typename E::Input* to) {
  for (int i = 0; i < count; i += n) {
    const int at = std::min(i, count - n);
    for (int j = at; j < at + n; ++j) to[j] = static_cast<typename E::Input>(x[j] + E::kOffset);
  }
}

// An image with its border of zeros, and `more` of them behind it.
template <class E>
void widen(const Layer& layer, const std::int8_t* x, int height, int width, std::size_t more,
           typename E::Input* to) {
  using Input = typename E::Input;
  const int inner = width * layer.channels;
  const std::size_t wide = (width + layer.left + layer.right) * layer.channels;
  const std::size_t all = (height + layer.top + layer.bottom) * wide;
  const bool border = all > static_cast<std::size_t>(inner) * height;
  std::fill_n(to + (border ? 0 : all), more + (border ? all : 0), static_cast<Input>(E::kOffset));
  to += layer.top * wide + layer.left * layer.channels;
  for (int y = 0; y < height; ++y, x += inner, to += wide) {
    if (inner >= 64) {
      encode<E, 64>(x, inner, to);
    } else if (inner >= 16) {
      encode<E, 16>(x, inner, to);
    } else {
      encode<E, 1>(x, inner, to);
    }
  }
}

}  // namespace
}  // namespace EZO_ISA
}  // namespace ezo
