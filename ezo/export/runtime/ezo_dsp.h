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
#elif EZO_DSP && defined(EZO_DSP_IN_C) /* the same in C, to be tested where there are sanitizers */
#define EZO_PAIRS 1
EZO_INLINE int32_t ezo_smlad(uint32_t a, uint32_t b, int32_t sum) {
  return sum + (int16_t)a * (int16_t)b + (int16_t)(a >> 16) * (int16_t)(b >> 16);
}
EZO_INLINE uint32_t ezo_even(uint32_t x) {
  return (uint16_t)(int8_t)x | (uint32_t)(uint16_t)(int8_t)(x >> 16) << 16;
}
EZO_INLINE uint32_t ezo_odd(uint32_t x) { return ezo_even(x >> 8 | x << 24); }
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
