// Philox 4x32-10 (Salmon et al., SC 2011) and Box-Muller, 64 counters at a time.
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

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "int8.hpp"
#include "unroll.hpp"

namespace ezo {
namespace EZO_ISA {
namespace {

constexpr int kLanes = 64;
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
constexpr bool kLittleEndian = false;
#else
constexpr bool kLittleEndian = true;
#endif
constexpr float kGrid = 0x1p-22f;    // spacing of the grid that perturbed weights stay on
constexpr float kPerGrid = 0x1p22f;

inline float snap(float x) { return std::rint(x * kPerGrid) * kGrid; }

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

// Wide: a register of 64-bit lanes, each with a 32-bit word in its lower half and anything above.
// The processor's 32 x 32 -> 64 multiplication reads lower halves only, so the words need no packing
// between rounds; it is the one operation that a compiler does not find by itself.
#if defined(__AVX512F__)
typedef std::uint64_t Wide __attribute__((vector_size(64)));
inline Wide multiply(Wide a, Wide b) { return (Wide)_mm512_mul_epu32((__m512i)a, (__m512i)b); }
#elif defined(__AVX2__)
typedef std::uint64_t Wide __attribute__((vector_size(32)));
inline Wide multiply(Wide a, Wide b) { return (Wide)_mm256_mul_epu32((__m256i)a, (__m256i)b); }
#elif defined(__SSE2__)
typedef std::uint64_t Wide __attribute__((vector_size(16)));
inline Wide multiply(Wide a, Wide b) { return (Wide)_mm_mul_epu32((__m128i)a, (__m128i)b); }
#else
typedef std::uint64_t Wide;
inline Wide multiply(Wide a, Wide b) { return (a & 0xFFFFFFFFu) * (b & 0xFFFFFFFFu); }
#endif
constexpr int kWide = sizeof(Wide) / sizeof(std::uint64_t);

// The upper halves moved down, with anything above. With AVX-512 a shuffle runs beside the
// multiplications, where a shift would wait for their port.
inline Wide upper(Wide a) {
#if defined(__AVX512F__)
  return (Wide)_mm512_shuffle_epi32((__m512i)a, _MM_PERM_DDBB);
#else
  return a >> 32;
#endif
}

inline Wide all(std::uint64_t word) { return Wide{} + word; }

// The lower halves of both, by turns.
inline void store_by_turns(Wide even, Wide odd, std::uint32_t* to) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  const Wide both = (Wide)_mm256_blend_epi32((__m256i)even, (__m256i)(odd << 32), 0xAA);
#else
  const Wide both = (even & all(0xFFFFFFFFu)) | (odd << 32);
#endif
  if constexpr (kLittleEndian) {
    std::memcpy(to, &both, sizeof both);
  } else {
    std::uint64_t pairs[kWide];
    std::memcpy(pairs, &both, sizeof both);
    for (int j = 0; j < kWide; ++j) {
      to[2 * j] = static_cast<std::uint32_t>(pairs[j]);
      to[2 * j + 1] = static_cast<std::uint32_t>(pairs[j] >> 32);
    }
  }
}

constexpr std::uint32_t kA = 0xD2511F53u, kB = 0xCD9E8D57u;  // Philox's multipliers

// What all counters of a tensor share. Philox's first round meets it in three of four words, its
// second in two, so that most of both is done once.
struct Stream {
  Wide first;         // second round: w[2] = upper(a) ^ first, where a is the first round's
  Wide second, c, d;  // third round: w[0] = upper(b) ^ second, w[2] = a ^ c, w[3] = d
  Wide key[10][2];

  explicit Stream(Place at) {
    std::uint32_t k0 = static_cast<std::uint32_t>(at.seed);
    std::uint32_t k1 = static_cast<std::uint32_t>(at.seed >> 32);
    for (auto& round : key) {
      round[0] = all(k0);
      round[1] = all(k1);
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    const Wide b = multiply(all(at.step), all(kB));
    first = all(at.stream) ^ key[0][1];
    second = b ^ key[1][0];
    d = multiply(upper(b) ^ all(at.tensor) ^ key[0][0], all(kA));
    c = upper(d) ^ key[1][1];
  }
};

// Four words for each of kAtOnce registers of counters, from `first` on. Several at once: a round
// waits for its multiplications, and the others' fill the wait.
constexpr int kAtOnce = 4;
inline void philox(std::uint32_t (&c)[4][kLanes], std::size_t first, int l, const Stream& stream) {
  alignas(64) std::uint64_t count[kWide];
  Wide x[kAtOnce][4];
  EZO_UNROLL
  for (int i = 0; i < kAtOnce; ++i) {  // even lanes and odd lanes apart
    Wide(&w)[4] = x[i];
    for (int j = 0; j < kWide; ++j) {
      count[j] = static_cast<std::uint32_t>(first + l + (i / 2 * kWide + j) * 2 + i % 2);
    }
    std::memcpy(&w[0], count, sizeof(Wide));
    const Wide a = multiply(w[0], all(kA));
    w[1] = multiply(upper(a) ^ stream.first, all(kB));
    w[0] = upper(w[1]) ^ stream.second;
    w[2] = a ^ stream.c;
    w[3] = stream.d;
  }
  for (int round = 2; round < 10; ++round) {
    EZO_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      Wide(&w)[4] = x[i];
      const Wide a = multiply(w[0], all(kA));
      const Wide b = multiply(w[2], all(kB));
      w[0] = upper(b) ^ (w[1] ^ stream.key[round][0]);
      w[1] = b;
      w[2] = upper(a) ^ (w[3] ^ stream.key[round][1]);
      w[3] = a;
    }
  }
  EZO_UNROLL
  for (int i = 0; i < kAtOnce; i += 2) {
    for (int w = 0; w < 4; ++w) store_by_turns(x[i][w], x[i + 1][w], &c[w][l + i * kWide]);
  }
}

// Four words for each of the 64 counters of group `group`.
inline void philox(std::uint32_t (&c)[4][kLanes], std::size_t group, const Stream& stream) {
  for (int l = 0; l < kLanes; l += kAtOnce * kWide) philox(c, group * kLanes, l, stream);
}

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

template <Noise noise>
inline void draw(float (&z)[kGroup], std::size_t group, const Stream& stream) {
  alignas(64) std::uint32_t c[4][kLanes];
  philox(c, group, stream);
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
      }
    }
  }
}

// Calls apply(p, z) on each element of [begin, end), a group of noise at a time.
template <Noise noise, class Apply>
inline void sweep(float* p, std::size_t begin, std::size_t end, Place at, Apply apply) {
  alignas(64) float z[kGroup];
  const Stream stream(at);
  for (std::size_t start = begin; start < end; start += kGroup) {
    draw<noise>(z, start / kGroup, stream);
    float* q = p + start;
    if (end - start >= kGroup) {
      for (std::size_t i = 0; i < kGroup; ++i) q[i] = apply(q[i], z[i]);
    } else {
      for (std::size_t i = 0; i < end - start; ++i) q[i] = apply(q[i], z[i]);
    }
  }
}

template <class Apply>
inline void dispatch(float* p, std::size_t begin, std::size_t end, Place at, Noise noise,
                     Apply apply) {
  switch (noise) {
    case Noise::gaussian: return sweep<Noise::gaussian>(p, begin, end, at, apply);
    case Noise::rademacher: return sweep<Noise::rademacher>(p, begin, end, at, apply);
    case Noise::uniform: return sweep<Noise::uniform>(p, begin, end, at, apply);
  }
}

void fill(float* z, std::size_t begin, std::size_t end, Place at, Noise noise) {
  dispatch(z, begin, end, at, noise, [](float, float zi) { return zi; });
}

void shift(float* p, std::size_t begin, std::size_t end, Place at, Noise noise, Shift how) {
  dispatch(p, begin, end, at, noise,
           [how](float pi, float zi) { return snap(pi) + how.times * snap(how.eps * zi); });
}

void update(float* p, std::size_t begin, std::size_t end, Place at, Noise noise, Update how) {
  auto updated = [how](float theta, float e, float zi) {
    return theta + (snap(how.eps_minus_rate * zi - how.decay * theta) - e);
  };
  if (how.restore) {  // a weight that was shifted is on the grid
    dispatch(p, begin, end, at, noise, [how, updated](float pi, float zi) {
      const float e = snap(how.eps * zi);
      return updated(pi + e, e, zi);
    });
  } else {
    dispatch(p, begin, end, at, noise, [how, updated](float pi, float zi) {
      return updated(snap(pi), snap(how.eps * zi), zi);
    });
  }
}

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

extern const Int8Kernels int8_kernels;  // int8.cpp
extern const Kernels kernels;
const Kernels kernels = {EZO_ISA_NAME, fill,          shift,          update,
                         words,        sparse_shift,  sparse_update,  &int8_kernels};

}  // namespace EZO_ISA
}  // namespace ezo
