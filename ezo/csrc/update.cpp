// The update of a BP weight, rounded pseudo-stochastically; ezo/int8/rounding.py defines it.
#include <algorithm>
#include <climits>

#include "integers.hpp"
#include "rounding.hpp"

namespace ezo {
namespace {

int bit_length(std::uint64_t x) {
  int bits = 0;
  for (; x; x >>= 1) ++bits;
  return bits;
}

}  // namespace

template <class Sum>
void pseudo_stochastic_update(std::int8_t* weight, std::uint8_t* fraction, const Sum* gradient,
                              std::size_t n, int mu, int bound) {
  std::int64_t largest = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const std::int64_t g = gradient[i];
    largest = std::max(largest, g < 0 ? -g : g);
  }
  const bool fine = fraction != nullptr;
  const int s = std::clamp(bit_length(largest) - mu - (fine ? 8 : 0), 0, 62);
  const std::int64_t most = fine ? INT32_MAX : 127;
  for (std::size_t i = 0; i < n; ++i) {
    const std::int64_t g = gradient[i];
    std::int64_t m = g < 0 ? -g : g;
    m = std::min(pseudo_stochastic(m, s), most);
    if (g < 0) m = -m;
    if (fine) {
      const std::int64_t moved = 256 * weight[i] + fraction[i] - m;
      const std::int64_t held = std::clamp<std::int64_t>(moved, -256 * bound, 256 * bound + 255);
      weight[i] = static_cast<std::int8_t>(held >> 8);
      fraction[i] = static_cast<std::uint8_t>(held & 255);
    } else {
      weight[i] = static_cast<std::int8_t>(std::clamp<std::int64_t>(weight[i] - m, -bound, bound));
    }
  }
}

template void pseudo_stochastic_update(std::int8_t*, std::uint8_t*, const std::int32_t*, std::size_t,
                                       int, int);
template void pseudo_stochastic_update(std::int8_t*, std::uint8_t*, const std::int64_t*, std::size_t,
                                       int, int);

}  // namespace ezo
