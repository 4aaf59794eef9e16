// The noise stream of ezo, and the sweeps of a zeroth-order step that use it.
//
// ezo/noise.py defines the same stream in plain torch: the two agree to the bit.
// This header holds plain types only, for it is compiled once per instruction set.
#pragma once
#include <cstddef>
#include <cstdint>

namespace ezo {

enum class Noise : int {
  gaussian = 0,
  rademacher = 1,
  uniform = 2,
  gaussian_16 = 3,  // 16 bits a number
  rademacher_1 = 4  // one
};

// Where in the stream a step's noise stands, and within it a tensor's.
struct Place {
  std::uint64_t seed;
  std::uint32_t step;
  std::uint32_t stream;
  std::uint32_t tensor = 0;

  Place of(std::uint32_t t) const { return {seed, step, stream, t}; }
};

// Elements of a group: 64 Philox counters of four 32-bit words each.
constexpr std::size_t kGroup = 256;

enum class Type : int { float32 = 0, float64 = 1, float16 = 2, bfloat16 = 3 };

// A tensor of floats, whose elements count in row-major order whatever its strides, in elements;
// with a rank of 0 they lie in that order.
struct View {
  void* data;
  Type type;
  int rank;
  const std::int64_t* shape;
  const std::int64_t* strides;
};
constexpr int kLargestRank = 12;

// theta <- snap(theta) + times snap(eps z)
struct Shift {
  double eps, times;
};

// theta <- snap(theta) + (restore ? snap(eps z) : 0)
// theta <- theta + (snap((eps - rate) z - decay theta) - snap(eps z))
struct Update {
  double eps, eps_minus_rate, decay;
  bool restore;
};

// theta <- stochastic(theta - (rate z + decay theta)), of 16 bits: see ezo/perturb.py.
struct Learn {
  double rate, decay;
};
constexpr std::uint32_t kRounding = 1u << 30;  // the stream that rounds, above the noise's

// Over elements [begin, end); `begin` is a multiple of kGroup. float64 is computed in itself, other
// types in float32; 16 bits have no grid, and `snap` leaves them as they are.
struct FloatKernels {
  void (*fill)(const View&, std::size_t begin, std::size_t end, Place, Noise);
  void (*shift)(const View&, std::size_t begin, std::size_t end, Place, Noise, Shift);
  void (*update)(const View&, std::size_t begin, std::size_t end, Place, Noise, Update);
  void (*learn)(const View&, std::size_t begin, std::size_t end, Place, Noise, Learn);
  // y <- y + by z, float32 in row-major order; `on`, which may be null, says which are above 0 then.
  void (*add)(float* y, std::uint8_t* on, std::size_t begin, std::size_t end, Place, Noise, float by);
};

// Sparse integer noise for int8 weights (ezo/int8/perturb.py says how words become z and u).
constexpr std::size_t kSparseGroup = 512;  // two elements to a word

struct Sparse {
  std::uint32_t threshold, multiplier;
};

// theta <- clip(theta - g sign(z) ((|z| rate + u) >> 16)), from theta - restore z.
// With a fraction, eight more bits of each weight, the same for 256 theta + fraction, 8 bits finer.
struct SparseUpdate {
  int g;
  int rate;
  int bound;
  int restore;  // -1, 0 or 1
};

struct SparseKernels {
  // The words of groups first .. last - 1: (group, word, lane).
  void (*words)(std::uint32_t* out, std::size_t first, std::size_t last, Place);
  // theta <- theta + times z
  void (*shift)(std::int8_t* p, std::size_t begin, std::size_t end, Place, Sparse, int times);
  void (*update)(std::int8_t* p, std::uint8_t* fraction, std::size_t begin, std::size_t end, Place,
                 Sparse, SparseUpdate);  // fraction may be null
};

}  // namespace ezo
