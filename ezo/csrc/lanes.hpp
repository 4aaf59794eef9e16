// Registers of int32 and the encodings that products of int8 read: see product.cpp.
//
// Included once per instruction set, within its namespace's anonymous one.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace ezo {
namespace EZO_ISA {
namespace {

#if defined(__AVX512BW__)
constexpr int kLanes = 16, kBlock = 14;
#elif defined(__AVX2__)
constexpr int kLanes = 8, kBlock = 12;
#else
constexpr int kLanes = 4, kBlock = 12;
#endif

// kLanes int32 at once, by whatever registers there are.
typedef std::int32_t Lanes __attribute__((vector_size(4 * kLanes)));
inline Lanes load(const void* from) {
  Lanes v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
inline void store(std::int32_t* to, Lanes v) { std::memcpy(to, &v, sizeof v); }
inline Lanes larger(Lanes a, Lanes b) { return a > b ? a : b; }
inline Lanes smaller(Lanes a, Lanes b) { return a < b ? a : b; }

// acc + x w in each lane, of two int16 each, or of four bytes each where those of x are unsigned.
#if defined(__AVX512BW__)
inline Lanes add_pairs(Lanes acc, Lanes x, Lanes w) {
  return acc + (Lanes)_mm512_madd_epi16((__m512i)x, (__m512i)w);
}
inline Lanes add_quads(Lanes acc, Lanes x, Lanes w) {
#if defined(__AVX512VNNI__)
  return (Lanes)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)x, (__m512i)w);
#else
  return add_pairs(acc, (Lanes)_mm512_maddubs_epi16((__m512i)x, (__m512i)w), Lanes{} + 0x00010001);
#endif
}
#elif defined(__AVX2__)
inline Lanes add_pairs(Lanes acc, Lanes x, Lanes w) {
  return acc + (Lanes)_mm256_madd_epi16((__m256i)x, (__m256i)w);
}
inline Lanes add_quads(Lanes acc, Lanes x, Lanes w) {
  return add_pairs(acc, (Lanes)_mm256_maddubs_epi16((__m256i)x, (__m256i)w), Lanes{} + 0x00010001);
}
#elif defined(__SSE2__)
inline Lanes add_pairs(Lanes acc, Lanes x, Lanes w) {
  return acc + (Lanes)_mm_madd_epi16((__m128i)x, (__m128i)w);
}
#else
inline Lanes add_pairs(Lanes acc, Lanes x, Lanes w) {
  std::int16_t a[2 * kLanes], b[2 * kLanes];
  std::memcpy(a, &x, sizeof a);
  std::memcpy(b, &w, sizeof b);
  for (int l = 0; l < kLanes; ++l) {
    acc[l] += a[2 * l] * b[2 * l] + a[2 * l + 1] * b[2 * l + 1];
  }
  return acc;
}
#endif

// An encoding: the types of inputs and weights as the products read them, what is added to inputs,
// and the product of 32 bits of neighbouring inputs with the weights of kLanes outputs.
struct Pairs {  // any int8
  using Input = std::int16_t;
  using Weight = std::int16_t;
  static constexpr int kOffset = 0;
  static Lanes dot(Lanes acc, Lanes x, Lanes w) { return add_pairs(acc, x, w); }
};

#if defined(__AVX2__)
struct Quads {  // inputs of 0 or more: two products of 127 x 127 fit in 16 bits
  using Input = std::uint8_t;
  using Weight = std::int8_t;
  static constexpr int kOffset = 0;
  static Lanes dot(Lanes acc, Lanes x, Lanes w) { return add_quads(acc, x, w); }
};
#else
using Quads = Pairs;
#endif

#if defined(__AVX512VNNI__)
struct OffsetQuads : Quads {  // any int8: VNNI adds up four products in 32 bits. What the offset
  // adds, 128 times the sum of an output's weights, is taken off where accumulators begin.
  static constexpr int kOffset = 128;
};
using Any = OffsetQuads;
#else
using Any = Pairs;
#endif

template <class E>
constexpr int kInputs = 4 / sizeof(typename E::Input);

}  // namespace
}  // namespace EZO_ISA
}  // namespace ezo
