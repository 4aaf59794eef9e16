// Sparse integer noise for int8 weights: ezo/int8/perturb.py says how words become z and u.
//
// Compiled once per instruction set with EZO_ISA naming it.
#include <algorithm>

#include "noise.hpp"
#include "philox.hpp"

namespace ezo {
namespace EZO_ISA {
namespace {

void words(std::uint32_t* out, std::size_t first, std::size_t last, Place at) {
  alignas(64) std::uint32_t c[4][kLanes];
  const Stream stream(at);
  for (std::size_t group = first; group < last; ++group, out += kGroup) {
    philox(c, group, stream);
    std::memcpy(out, c, sizeof c);
  }
}

inline std::uint16_t upper_half(std::uint16_t a, std::uint16_t b) {
  return static_cast<std::uint16_t>((std::uint32_t{a} * b) >> 16);
}

// Calls apply(i, sign, magnitude, u) for each element i of [begin, end), a group of sparse noise at
// a time; sign is 0 or -1. All in 16 bits, so that a register holds many.
template <class Apply>
inline void sparse_sweep(std::size_t begin, std::size_t end, Place at, Sparse how,
                         Apply apply) {
  constexpr std::size_t kHalf = kSparseGroup / 2;
  alignas(64) std::uint32_t c[4][kLanes];
  alignas(64) std::int16_t sign[kSparseGroup];
  alignas(64) std::uint16_t magnitude[kSparseGroup], u[kSparseGroup];
  const std::uint16_t threshold = static_cast<std::uint16_t>(how.threshold);
  const std::uint16_t multiplier = static_cast<std::uint16_t>(how.multiplier);
  const Stream stream(at);
  for (std::size_t start = begin; start < end; start += kSparseGroup) {
    philox(c, start / kSparseGroup, stream);
    const std::uint32_t* words = &c[0][0];
    for (std::size_t i = 0; i < kHalf; ++i) {
      u[i] = static_cast<std::uint16_t>(words[i] & 0xFFFF);
      u[kHalf + i] = static_cast<std::uint16_t>(words[i] >> 16);
    }
    for (std::size_t i = 0; i < kSparseGroup; ++i) {
      const std::uint16_t y = u[i] & 0x7FFF;
      sign[i] = static_cast<std::int16_t>(static_cast<std::int16_t>(u[i]) >> 15);
      const std::uint16_t t = static_cast<std::uint16_t>(std::max(y, threshold) - threshold);
      magnitude[i] = static_cast<std::uint16_t>(upper_half(t, multiplier) + (y >= threshold));
      u[i] = static_cast<std::uint16_t>(t * multiplier);
    }
    if (end - start >= kSparseGroup) {
      for (std::size_t i = 0; i < kSparseGroup; ++i) apply(start + i, sign[i], magnitude[i], u[i]);
    } else {
      for (std::size_t i = 0; i < end - start; ++i) apply(start + i, sign[i], magnitude[i], u[i]);
    }
  }
}

void sparse_shift(std::int8_t* p, std::size_t begin, std::size_t end, Place at, Sparse how,
                  int times) {
  const std::int16_t by = static_cast<std::int16_t>(times);
  sparse_sweep(begin, end, at, how,
               [=](std::size_t i, std::int16_t sign, std::uint16_t magnitude, std::uint16_t) {
                 const std::int16_t z = static_cast<std::int16_t>((magnitude ^ sign) - sign);
                 p[i] = static_cast<std::int8_t>(p[i] + static_cast<std::int16_t>(by * z));
               });
}

// Eight bits finer. A weight and its fraction are one int16, whose overflow is caught.
void fine_update(std::int8_t* p, std::uint8_t* fraction, std::size_t begin, std::size_t end,
                 Place at, Sparse noise, SparseUpdate how) {
  const std::int16_t back = static_cast<std::int16_t>(how.restore);
  const std::int16_t g = static_cast<std::int16_t>(how.g);
  const std::int16_t low = static_cast<std::int16_t>(-256 * how.bound);
  const std::int16_t high = static_cast<std::int16_t>(256 * how.bound + 255);
  // |z| rate / 2^8, rate at most 2^16, is |z| times its upper bits and a part of its lower
  const std::uint16_t upper = static_cast<std::uint16_t>(how.rate >> 8);
  const std::uint16_t lower = static_cast<std::uint16_t>(how.rate & 255);
  sparse_sweep(
      begin, end, at, noise,
      [=](std::size_t i, std::int16_t sign, std::uint16_t magnitude, std::uint16_t u) {
        const std::uint16_t rest = static_cast<std::uint16_t>(magnitude * lower + (u >> 8));
        const std::uint16_t move =
            static_cast<std::uint16_t>(magnitude * upper + static_cast<std::uint16_t>(rest >> 8));
        const std::int16_t z = static_cast<std::int16_t>((magnitude ^ sign) - sign);
        const std::int16_t toward =
            static_cast<std::int16_t>(g * static_cast<std::int16_t>((move ^ sign) - sign));
        const std::int16_t weight = static_cast<std::int16_t>(p[i] + back * z);
        const std::int16_t theta = static_cast<std::int16_t>(
            static_cast<std::uint16_t>(static_cast<std::uint16_t>(weight) << 8) | fraction[i]);
        const std::int16_t moved = static_cast<std::int16_t>(
            static_cast<std::uint16_t>(theta) - static_cast<std::uint16_t>(toward));
        const bool over = static_cast<std::int16_t>((theta ^ toward) & (theta ^ moved)) < 0;
        const std::int16_t beyond = theta < 0 ? low : high;
        const std::int16_t held = over ? beyond : std::min(std::max(moved, low), high);
        p[i] = static_cast<std::int8_t>(held >> 8);
        fraction[i] = static_cast<std::uint8_t>(held & 255);
      });
}

void sparse_update(std::int8_t* p, std::uint8_t* fraction, std::size_t begin, std::size_t end,
                   Place at, Sparse noise, SparseUpdate how) {
  if (fraction != nullptr) return fine_update(p, fraction, begin, end, at, noise, how);
  const std::int16_t back = static_cast<std::int16_t>(how.restore);
  const std::int16_t g = static_cast<std::int16_t>(how.g);
  const std::int16_t bound = static_cast<std::int16_t>(how.bound);
  // rate is at most 2^16: its 17th bit, and the rest, whose product's upper half and carry count
  const std::uint16_t whole = static_cast<std::uint16_t>(how.rate >> 16);
  const std::uint16_t rate = static_cast<std::uint16_t>(how.rate);
  sparse_sweep(
      begin, end, at, noise,
      [=](std::size_t i, std::int16_t sign, std::uint16_t magnitude, std::uint16_t u) {
        const std::uint16_t low = static_cast<std::uint16_t>(magnitude * rate);
        const std::uint16_t carry = static_cast<std::uint16_t>(low + u) < low;
        const std::uint16_t move = static_cast<std::uint16_t>(
            static_cast<std::uint16_t>(magnitude * whole) + upper_half(magnitude, rate) + carry);
        const std::int16_t z = static_cast<std::int16_t>((magnitude ^ sign) - sign);
        const std::int16_t toward = static_cast<std::int16_t>((move ^ sign) - sign);
        const std::int16_t moved = static_cast<std::int16_t>(
            p[i] + static_cast<std::int16_t>(back * z) - static_cast<std::int16_t>(g * toward));
        p[i] = static_cast<std::int8_t>(
            std::min(std::max(moved, static_cast<std::int16_t>(-bound)), bound));
      });
}

}  // namespace

extern const SparseKernels sparse_kernels;
const SparseKernels sparse_kernels = {words, sparse_shift, sparse_update};

}  // namespace EZO_ISA
}  // namespace ezo
