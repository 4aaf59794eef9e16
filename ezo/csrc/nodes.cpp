// The inner loops of a node update.
//
// Compiled once per instruction set with EZO_ISA naming it.
#include "nodes.hpp"

#include <algorithm>

#include "rounding.hpp"

namespace ezo {
namespace EZO_ISA {
namespace {

void update(std::int8_t* weight, std::uint8_t* fraction, const std::int32_t* g, std::size_t n,
            Scale by) {
  const auto moved = [&](std::int64_t gradient) {
    const std::int64_t product = gradient * by.times;
    const std::int64_t m = pseudo_stochastic(product < 0 ? -product : product, by.shift);
    return product < 0 ? -m : m;
  };
  if (fraction == nullptr) {
    for (std::size_t i = 0; i < n; ++i) {
      const std::int64_t held = std::clamp<std::int64_t>(weight[i] - moved(g[i]), -127, 127);
      weight[i] = static_cast<std::int8_t>(held);
    }
    return;
  }
  for (std::size_t i = 0; i < n; ++i) {
    const std::int64_t fine = 256 * std::int64_t{weight[i]} + fraction[i] - moved(g[i]);
    const std::int64_t held = std::clamp<std::int64_t>(fine, -256 * 127, 256 * 127 + 255);
    weight[i] = static_cast<std::int8_t>(held >> 8);
    fraction[i] = static_cast<std::uint8_t>(held & 255);
  }
}

std::int64_t dot(const std::int32_t* a, const std::int32_t* b, std::size_t n) {
  std::int64_t sum = 0;
  for (std::size_t i = 0; i < n; ++i) sum += std::int64_t{a[i]} * b[i];
  return sum;
}

void add(std::int32_t* to, std::int32_t* sum, int c, const std::int8_t* x, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) {
    to[i] += c * x[i];
    sum[i] += x[i];
  }
}

}  // namespace

extern const NodeKernels node_kernels;
const NodeKernels node_kernels = {update, dot, add};

}  // namespace EZO_ISA
}  // namespace ezo
