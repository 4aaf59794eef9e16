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

// Sparse integer noise for int8 weights (ezo/int8/perturb.py says how words become z and u).
constexpr std::size_t kSparseGroup = 512;  // two elements to a word

struct Sparse {
  std::uint32_t threshold, multiplier;
};

// p[i] <- clip(theta - g sign(z_i) ((|z_i| rate + u_i) >> 16)), theta = p[i] + restore z_i
// With a fraction, eight more bits of each weight, the same for 256 theta + fraction, 8 bits finer.
struct SparseUpdate {
  int g;
  int rate;
  int bound;
  int restore;  // -1, 0 or 1
};

struct Int8Kernels;

struct Kernels {
  const char* isa;
  FillFn fill;
  ShiftFn shift;
  UpdateFn update;
  // The words of groups first .. last - 1: (group, word, lane).
  void (*words)(std::uint32_t* out, std::size_t first, std::size_t last, Place);
  // p[i] += times * z_i
  void (*sparse_shift)(std::int8_t* p, std::size_t begin, std::size_t end, Place, Sparse,
                       int times);
  void (*sparse_update)(std::int8_t* p, std::uint8_t* fraction, std::size_t begin, std::size_t end,
                        Place, Sparse, SparseUpdate);  // fraction may be null
  const Int8Kernels* int8;
};

}  // namespace ezo
