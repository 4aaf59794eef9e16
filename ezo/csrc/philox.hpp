// Philox 4x32-10 (Salmon et al., SC 2011), 64 counters at a time.
//
// Included once per instruction set, within its namespace's anonymous one: the processor's widest
// registers decide what it compiles to, and no two instruction sets may share a function.
//
// Index letters: l lane (counter within the group), w word of a counter.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "noise.hpp"
#include "unroll.hpp"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace ezo {
namespace EZO_ISA {
namespace {

constexpr int kLanes = 64;
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
constexpr bool kLittleEndian = false;
#else
constexpr bool kLittleEndian = true;
#endif

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

}  // namespace
}  // namespace EZO_ISA
}  // namespace ezo
