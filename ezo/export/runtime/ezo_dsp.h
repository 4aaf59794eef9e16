/* Two products an instruction, where the processor can (Cortex-M4, M7, M33 and above). */
#ifndef EZO_DSP_H
#define EZO_DSP_H
#include "ezo_inside.h"

/* ezo_even: bytes 0 and 2 of a word as two int16; ezo_odd: bytes 1 and 3. */
#if EZO_DSP && defined(__ARM_FEATURE_DSP)
#define EZO_PAIRS 1
#include <arm_acle.h>
#define ezo_smlad(a, b, sum) __smlad((int32_t)(a), (int32_t)(b), sum)
#define ezo_even(x) ((uint32_t)__sxtb16((int32_t)(x)))
EZO_INLINE uint32_t ezo_odd(uint32_t x) { /* one instruction, which compilers don't find */
  uint32_t odd;
  __asm__("sxtb16 %0, %1, ror #8" : "=r"(odd) : "r"(x));
  return odd;
}
/* sum + the products of four bytes u and two words, of the even and the odd ones. */
EZO_INLINE int32_t ezo_quad(uint32_t u, uint32_t even, uint32_t odd, int32_t sum) {
  uint32_t two;
  __asm__("sxtb16 %1, %2\n\t"
          "smlad %0, %1, %3, %0\n\t"
          "sxtb16 %1, %2, ror #8\n\t"
          "smlad %0, %1, %4, %0"
          : "+r"(sum), "=&r"(two)
          : "r"(u), "r"(even), "r"(odd));
  return sum;
}
/* The next pixels; not before what `w` waits for, for registers are few. */
EZO_INLINE uint32_t ezo_next(const uint32_t **from, const uint32_t **w) {
  uint32_t word;
  __asm__("ldr %0, [%1], #4" : "=r"(word), "+r"(*from), "+r"(*w) : "m"(**from));
  return word;
}
/* Words of two channels by pixels v0, into a0, and by v1, into a1; returns the words behind them.
 * In one piece: compilers would load all words first, and run out of registers. */
EZO_INLINE const uint32_t *ezo_four(const uint32_t *w, uint32_t v0, uint32_t v1, int32_t *a0,
                                    int32_t *a1) {
  uint32_t first, second;
  __asm__("ldrd %0, %1, [%2], #8\n\t"
          "smlad %3, %0, %7, %3\n\t"
          "smlad %4, %0, %8, %4\n\t"
          "smlad %5, %1, %7, %5\n\t"
          "smlad %6, %1, %8, %6"
          : "=&r"(first), "=&r"(second), "+r"(w), "+r"(a0[0]), "+r"(a1[0]), "+r"(a0[1]),
            "+r"(a1[1])
          : "r"(v0), "r"(v1), "m"(*(const uint32_t(*)[2])w));
  return w;
}
#elif EZO_DSP && defined(EZO_DSP_IN_C) /* the same in C, to be tested where there are sanitizers */
#define EZO_PAIRS 1
EZO_INLINE int32_t ezo_smlad(uint32_t a, uint32_t b, int32_t sum) {
  return sum + (int16_t)a * (int16_t)b + (int16_t)(a >> 16) * (int16_t)(b >> 16);
}
EZO_INLINE uint32_t ezo_even(uint32_t x) {
  return (uint16_t)(int8_t)x | (uint32_t)(uint16_t)(int8_t)(x >> 16) << 16;
}
EZO_INLINE uint32_t ezo_odd(uint32_t x) { return ezo_even(x >> 8 | x << 24); }
EZO_INLINE int32_t ezo_quad(uint32_t u, uint32_t even, uint32_t odd, int32_t sum) {
  return ezo_smlad(odd, ezo_odd(u), ezo_smlad(even, ezo_even(u), sum));
}
EZO_INLINE uint32_t ezo_next(const uint32_t **from, const uint32_t **w) {
  (void)w;
  return *(*from)++;
}
EZO_INLINE const uint32_t *ezo_four(const uint32_t *w, uint32_t v0, uint32_t v1, int32_t *a0,
                                    int32_t *a1) {
  for (uint32_t g = 0; g < 2; ++g, ++w) {
    a0[g] = ezo_smlad(*w, v0, a0[g]);
    a1[g] = ezo_smlad(*w, v1, a1[g]);
  }
  return w;
}
#else
#define EZO_PAIRS 0
#endif

#if EZO_PAIRS
EZO_INLINE uint32_t ezo_pair_at(const void *from) { /* at any address */
  uint32_t word;
  __builtin_memcpy(&word, from, sizeof word); /* one instruction, also where freestanding */
  return word;
}
#endif
#endif
