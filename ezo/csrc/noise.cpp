// Philox and Box-Muller: noise of floats, and the sweeps that use it.
//
// Compiled once per instruction set with EZO_ISA naming it, always with -ffp-contract=off:
// with no fused multiply-add and polynomials of our own, every processor draws the same bits.
// Arrays of 64 lanes let the compiler use whatever vector width there is.
//
// Index letters: l lane (counter within the group), w word of a counter, i element.
// Element i of a tensor: group i / 256, word (i % 256) / 64, lane i % 64.
#include "noise.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "philox.hpp"
#include "types.hpp"

namespace ezo {
namespace EZO_ISA {
namespace {

// A uniform number in (0, 1), a multiple of 2^-24, from the upper 23 bits: exact.
inline float unit(std::uint32_t w) { return float_of((w >> 9) | 0x3F800000u) - 0x1.fffffep-1f; }

// -2 ln u for u in (0, 1): u = 2^e (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)), and a minimax
// polynomial for -2 ln(1 + f) with a relative error of 3e-7.
inline float minus_two_log(float u) {
  const std::uint32_t shifted = bits_of(u) - 0x3F3504F3u;
  const std::int32_t e = static_cast<std::int32_t>(shifted) >> 23;
  const float f = float_of((shifted & 0x007FFFFFu) + 0x3F3504F3u) - 1.0f;
  float q = 0.20383448898792267f;
  q = q * f + -0.3204875886440277f;
  q = q * f + 0.3427425622940063f;
  q = q * f + -0.3984900712966919f;
  q = q * f + 0.4996653497219086f;
  q = q * f + -0.6666849255561829f;
  q = q * f + 1.0f;
  q = q * f + -2.0f;
  return q * f + static_cast<float>(e) * -1.3862943649291992f;
}

// Two standard normal numbers from a radius and a word for the angle (Box and Muller). The lower 30
// bits place the angle within [-pi/4, pi/4), bit 30 mirrors it at the diagonal, bit 31 turns it by
// half a circle.
// Minimax polynomials, absolute error 1e-6 (sine) and 1e-7 (cosine).
inline void turn(float r, std::uint32_t w_angle, float& first, float& second) {
  const float x = static_cast<float>(static_cast<std::int32_t>(w_angle << 2)) *
                  3.6572951981e-10f;  // (pi / 2) 2^-32
  const float y = x * x;
  float s = 0.008152992464601994f;
  s = s * y + -0.16662833094596863f;
  s = s * (y * x) + x;
  float c = -0.0013652449706569314f;
  c = c * y + 0.041661277413368225f;
  c = c * y + -0.5f;
  c = c * y + 1.0f;
  const float signed_r = float_of(bits_of(r) ^ (w_angle & 0x80000000u));
  const bool mirror = (w_angle & 0x40000000u) != 0;
  first = signed_r * (mirror ? s : c);
  second = signed_r * (mirror ? c : s);
}

// A nearly normal number from 16 bits: see ezo/noise.py.
inline float quantile(std::uint32_t half) {
  const float t = float_of(0x3F800000u | half << 7) - 0x1.7fff8p+0f;  // (half + 1/2) 2^-16 - 1/2
  const float y = t * t;
  float z = 635.1478271484375f;
  z = z * y + -188.13473510742188f;
  z = z * y + 19.853418350219727f;
  z = z * y + 2.142845392227173f;
  return z * t;
}

// How many groups of numbers the words of one serve.
constexpr std::size_t shared(Noise noise) {
  return noise == Noise::gaussian_16 ? 2 : noise == Noise::rademacher_1 ? 32 : 1;
}

// Philox's words for one group after another.
template <Noise noise>
struct Words {
  alignas(64) std::uint32_t c[4][kLanes];
  std::size_t at = ~std::size_t{0};  // whose these are

  void of(std::size_t group, const Stream& stream) {
    if (at != group / shared(noise)) philox(c, at = group / shared(noise), stream);
  }
};

template <Noise noise>
inline void draw(float (&z)[kGroup], std::size_t group, const Stream& stream,
                 Words<noise>& words) {
  words.of(group, stream);
  const auto& c = words.c;
  if constexpr (noise == Noise::gaussian) {
    for (int half = 0; half < 4; half += 2) {
      alignas(64) float r[kLanes];  // three short loops: many lanes of each are under way at once
      for (int l = 0; l < kLanes; ++l) r[l] = minus_two_log(unit(c[half][l]));
      for (int l = 0; l < kLanes; ++l) r[l] = std::sqrt(r[l]);
      for (int l = 0; l < kLanes; ++l) {
        turn(r[l], c[half + 1][l], z[half * kLanes + l], z[(half + 1) * kLanes + l]);
      }
    }
  }
  for (int w = 0; w < 4; ++w) {
    for (int l = 0; l < kLanes; ++l) {
      if constexpr (noise == Noise::rademacher) {
        z[w * kLanes + l] = float_of(0x3F800000u | (c[w][l] & 0x80000000u));
      } else if constexpr (noise == Noise::uniform) {
        z[w * kLanes + l] = (unit(c[w][l]) - 0.5f) * 3.4641016151f;  // 2 sqrt(3): variance 1
      } else if constexpr (noise == Noise::gaussian_16) {
        const int low = static_cast<int>(group % 2) * 16;
        z[w * kLanes + l] = quantile(c[w][l] >> low & 0xFFFFu);
      } else if constexpr (noise == Noise::rademacher_1) {
        const int up = 31 - static_cast<int>(group % 32);
        z[w * kLanes + l] = float_of(0x3F800000u | (c[w][l] << up & 0x80000000u));
      }
    }
  }
}

// How sweeps over a type compute: in which type, and on which grid.
struct Single {
  using Number = float;
  static float snap(float x) { return std::rint(x * 0x1p22f) * 0x1p-22f; }
};
struct Double {
  using Number = double;
  static double snap(double x) { return std::rint(x * 0x1p51) * 0x1p-51; }
};
struct Coarse {  // 16 bits, in float32
  using Number = float;
  static float snap(float x) { return x; }
};

// Calls apply(theta, z) on each element of [begin, end), a group of noise at a time. A tensor that
// does not lie as it is computed is gathered into a buffer, group by group, and put back.
template <Noise noise, class How, class Apply>
inline void sweep(const View& v, std::size_t begin, std::size_t end, Place at, Apply apply) {
  using Number = typename How::Number;
  alignas(64) float z[kGroup];
  alignas(64) Number buffer[kGroup];
  std::ptrdiff_t where[kGroup];
  const bool direct = v.rank == 0 && (sizeof(Number) == 8 || v.type == Type::float32);
  const Stream stream(at);
  Words<noise> words;
  for (std::size_t start = begin; start < end; start += kGroup) {
    const std::size_t n = std::min(kGroup, end - start);
    draw<noise>(z, start / kGroup, stream, words);
    Number* q = direct ? static_cast<Number*>(v.data) + start : buffer;
    if (v.rank > 0) places(v, start, n, where);
    if (!direct) gather(v, start, where, n, buffer);
    if (n == kGroup) {
      for (std::size_t i = 0; i < kGroup; ++i) q[i] = apply(q[i], static_cast<Number>(z[i]));
    } else {
      for (std::size_t i = 0; i < n; ++i) q[i] = apply(q[i], static_cast<Number>(z[i]));
    }
    if (!direct) scatter(v, start, where, n, buffer);
  }
}

// To one of the two nearest numbers of 16 bits, away from 0 with the probability of what is left
// over, by 16 random bits; in float32, exactly.
inline float up(float x, std::uint32_t u, std::uint32_t kept) {
  return float_of((bits_of(x) + u) & kept);
}
inline float stochastic(Type type, float x, std::uint32_t u) {
  if (type == Type::bfloat16) return up(x, u, 0xFFFF0000u);
  constexpr float least = 0x1p-14f;  // float16's least normal number
  const float size = std::fabs(x), small = size < least ? least : 0.0f;
  const float held = up(size + small, u >> 3, 0xFFFFE000u) - small;
  return x < 0 ? -held : held;
}

template <Noise noise>
inline void learn_kind(const View& v, std::size_t begin, std::size_t end, Place at, Learn by) {
  alignas(64) float z[kGroup], theta[kGroup];
  std::ptrdiff_t where[kGroup];
  const float rate = static_cast<float>(by.rate), decay = static_cast<float>(by.decay);
  const Stream stream(at), rounding({at.seed, at.step, at.stream + kRounding, at.tensor});
  Words<noise> words;
  Words<Noise::gaussian_16> halves;
  for (std::size_t start = begin; start < end; start += kGroup) {
    const std::size_t n = std::min(kGroup, end - start), group = start / kGroup;
    draw<noise>(z, group, stream, words);
    halves.of(group, rounding);
    const std::uint32_t* u = &halves.c[0][0];
    const int low = static_cast<int>(group % 2) * 16;
    if (v.rank > 0) places(v, start, n, where);
    gather(v, start, where, n, theta);
    for (std::size_t i = 0; i < n; ++i) {
      const float moved = theta[i] - (rate * z[i] + decay * theta[i]);
      theta[i] = stochastic(v.type, moved, u[i] >> low & 0xFFFFu);
    }
    scatter(v, start, where, n, theta);
  }
}

// Calls run(kind), of a type whose `value` is the noise.
template <class Run>
inline void of_noise(Noise noise, Run run) {
  switch (noise) {
    case Noise::gaussian: return run(std::integral_constant<Noise, Noise::gaussian>{});
    case Noise::rademacher: return run(std::integral_constant<Noise, Noise::rademacher>{});
    case Noise::uniform: return run(std::integral_constant<Noise, Noise::uniform>{});
    case Noise::gaussian_16: return run(std::integral_constant<Noise, Noise::gaussian_16>{});
    case Noise::rademacher_1: return run(std::integral_constant<Noise, Noise::rademacher_1>{});
  }
}

template <class How, class Apply>
inline void of_kind(const View& v, std::size_t begin, std::size_t end, Place at, Noise noise,
                    Apply apply) {
  of_noise(noise, [&](auto kind) { sweep<kind.value, How>(v, begin, end, at, apply); });
}

// `run` with the way in which a type is computed.
template <class Run>
inline void of_type(Type type, Run run) {
  switch (type) {
    case Type::float32: return run(Single{});
    case Type::float64: return run(Double{});
    default: return run(Coarse{});
  }
}

void fill(const View& v, std::size_t begin, std::size_t end, Place at, Noise noise) {
  of_type(v.type, [&](auto how) {
    using How = decltype(how);
    using Number = typename How::Number;
    of_kind<How>(v, begin, end, at, noise, [](Number, Number z) { return z; });
  });
}

void shift(const View& v, std::size_t begin, std::size_t end, Place at, Noise noise, Shift by) {
  of_type(v.type, [&](auto how) {
    using How = decltype(how);
    using Number = typename How::Number;
    const Number eps = static_cast<Number>(by.eps), times = static_cast<Number>(by.times);
    of_kind<How>(v, begin, end, at, noise, [eps, times](Number theta, Number z) {
      return How::snap(theta) + times * How::snap(eps * z);
    });
  });
}

void update(const View& v, std::size_t begin, std::size_t end, Place at, Noise noise, Update by) {
  of_type(v.type, [&](auto how) {
    using How = decltype(how);
    using Number = typename How::Number;
    const Number eps = static_cast<Number>(by.eps), decay = static_cast<Number>(by.decay);
    const Number eps_minus_rate = static_cast<Number>(by.eps_minus_rate);
    auto updated = [eps_minus_rate, decay](Number theta, Number e, Number z) {
      return theta + (How::snap(eps_minus_rate * z - decay * theta) - e);
    };
    if (by.restore) {  // a weight that was shifted is on the grid
      of_kind<How>(v, begin, end, at, noise, [eps, updated](Number shifted, Number z) {
        const Number e = How::snap(eps * z);
        return updated(shifted + e, e, z);
      });
    } else {
      of_kind<How>(v, begin, end, at, noise, [eps, updated](Number theta, Number z) {
        return updated(How::snap(theta), How::snap(eps * z), z);
      });
    }
  });
}

void learn(const View& v, std::size_t begin, std::size_t end, Place at, Noise noise, Learn by) {
  of_noise(noise, [&](auto kind) { learn_kind<kind.value>(v, begin, end, at, by); });
}

void add(float* y, std::uint8_t* on, std::size_t begin, std::size_t end, Place at, Noise noise, float by) {
  of_kind<Single>({y, Type::float32, 0, nullptr, nullptr}, begin, end, at, noise,
                  [by](float x, float z) { return x + by * z; });
  if (on == nullptr) return;
  std::uint32_t above[kGroup];  // words first, which a compiler compares in vectors
  for (std::size_t start = begin; start < end; start += kGroup) {
    const std::size_t n = std::min(kGroup, end - start);
    for (std::size_t i = 0; i < n; ++i) above[i] = y[start + i] > 0.0f ? 1 : 0;
    for (std::size_t i = 0; i < n; ++i) on[start + i] = static_cast<std::uint8_t>(above[i]);
  }
}

}  // namespace

extern const FloatKernels float_kernels;
const FloatKernels float_kernels = {fill, shift, update, learn, add};

}  // namespace EZO_ISA
}  // namespace ezo
