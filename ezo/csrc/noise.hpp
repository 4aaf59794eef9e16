// The noise stream of ezo, and the three sweeps of a zeroth-order step that use it.
//
// ezo/noise.py defines the same stream in plain torch: the two agree to the bit.
// This header holds plain types only, for it is compiled once per instruction set.
#pragma once
#include <cstddef>
#include <cstdint>

namespace ezo {

enum class Noise : int { gaussian = 0, rademacher = 1, uniform = 2 };

// Where in the stream a tensor's noise stands.
struct Place {
  std::uint64_t seed;
  std::uint32_t tensor;
  std::uint32_t step;
  std::uint32_t stream;
};

// Elements of a group: 64 Philox counters of four 32-bit words each.
constexpr std::size_t kGroup = 256;

// p[i] <- snap(p[i]) + times * snap(eps * z_i)      for i in [begin, end)
struct Shift {
  float eps;
  float times;
};

// theta <- snap(p[i]) + (restore ? snap(eps * z_i) : 0)
// p[i]  <- theta + snap((eps - rate) * z_i - decay * theta) - snap(eps * z_i)
struct Update {
  float eps;
  float eps_minus_rate;
  float decay;
  bool restore;
};

// `begin` is a multiple of kGroup; p points at element 0 of the tensor.
using FillFn = void (*)(float* z, std::size_t begin, std::size_t end, Place, Noise);
using ShiftFn = void (*)(float* p, std::size_t begin, std::size_t end, Place, Noise, Shift);
using UpdateFn = void (*)(float* p, std::size_t begin, std::size_t end, Place, Noise, Update);

struct Kernels {
  const char* isa;
  FillFn fill;
  ShiftFn shift;
  UpdateFn update;
};

}  // namespace ezo
