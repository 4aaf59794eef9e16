/* What the runtime's files share: rounding, noise, loss. */
#ifndef EZO_INSIDE_H
#define EZO_INSIDE_H
#include "ezo.h"
#include "ezo_config.h"

#if defined(__GNUC__)
#define EZO_INLINE static inline __attribute__((always_inline))
#define EZO_UNROLL _Pragma("GCC unroll 8")
#define EZO_COLD __attribute__((cold, noinline)) /* seldom run: small rather than fast */
#define EZO_APART static __attribute__((noinline)) /* a loop that wants all registers */
#else
#define EZO_COLD
#define EZO_APART static
#define EZO_INLINE static inline
#define EZO_UNROLL
#endif

void *memcpy(void *to, const void *from, size_t n);
void *memset(void *to, int value, size_t n);

/* ---- rounding ---------------------------------------------------------------------------- */

EZO_INLINE uint32_t ezo_magnitude(int32_t x) { return x < 0 ? 0u - (uint32_t)x : (uint32_t)x; }

/* Bits of a magnitude: 0 for 0. */
EZO_INLINE int32_t ezo_bits(uint32_t x) {
  int32_t bits = 0;
  for (int32_t step = 16; step; step >>= 1)
    if (x >> step) {
      x >>= step;
      bits += step;
    }
  return bits + (int32_t)x;
}

/* The shift that makes the largest of magnitudes fit in 7 bits. */
EZO_INLINE int32_t ezo_needed(uint32_t magnitudes) {
  const int32_t s = ezo_bits(magnitudes) - 7;
  return s > 0 ? s : 0;
}

/* x / 2^s to nearest, halves away from zero, clipped to +-127; s from 0 to 30. */
EZO_INLINE int8_t ezo_round(int32_t x, int32_t s) {
  uint32_t m = (ezo_magnitude(x) + ((1u << s) >> 1)) >> s;
  m = m > 127 ? 127 : m;
  return (int8_t)(x < 0 ? -(int32_t)m : (int32_t)m);
}

/* x / 2^s, the rest dropped, held within 12 bits. */
EZO_INLINE int32_t ezo_cut(int32_t x, int32_t s) {
  uint32_t m = ezo_magnitude(x) >> s;
  m = m > 2047 ? 2047 : m;
  return x < 0 ? -(int32_t)m : (int32_t)m;
}

/* bias 2^left, to nearest, held within +-2^29. */
EZO_INLINE int32_t ezo_aligned(int8_t bias, int32_t left) {
  const uint32_t most = 1u << 29;
  uint32_t m = ezo_magnitude(bias);
  if (left > 29) m = m ? most : 0;
  else if (left >= 0) m = m > most >> left ? most : m << left;
  else m = left < -8 ? 0 : (m + (1u << (-left - 1))) >> -left;
  return bias < 0 ? -(int32_t)m : (int32_t)m;
}

/* A sum, in the form that the pass wants; ReLU first. `ezo_put` is the same, called. */
EZO_INLINE void ezo_store(const ezo_work *work, void *out, uint32_t at, int32_t sum) {
  if (work->layer->relu && sum < 0) sum = 0;
  if (work->form == EZO_ROUNDED) {
    ((int8_t *)out)[at] = ezo_round(sum, work->shift);
  } else if (work->form == EZO_WINDOW) {
    const int32_t v = ezo_cut(sum, work->shift);
    const uint32_t place = work->low_at + at, bits = place % 2 * 4;
    uint8_t *low = work->low + place / 2;
    ((int8_t *)out)[at] = (int8_t)(v >> 4);
    *low = (uint8_t)((*low & (0xF0 >> bits)) | (v & 15) << bits);
  } else {
    ((int32_t *)out)[at] = sum;
  }
}
void ezo_put(const ezo_work *work, void *out, uint32_t at, int32_t sum);

/* One weight's BP update, the gradient divided by 2^s with pseudo-stochastic rounding (NITI):
 * up where the upper half of the dropped bits exceeds the lower half. */
void ezo_descend_one(int8_t *weight, uint8_t *fraction, int32_t gradient, int32_t s);

/* ---- noise ------------------------------------------------------------------------------- */

typedef struct {
  uint64_t seed;
  uint32_t step, stream;
} ezo_place;

typedef struct {
  uint32_t threshold, multiplier;
  int32_t bound;
} ezo_noise;

/* Philox 4x32-10 (Salmon et al., 2011): a counter and a key to four words, in place. */
void ezo_philox(uint32_t counter[4], uint64_t key);

/* Word i of tensor 0 of a stream. */
uint32_t ezo_word(const ezo_place *place, uint32_t i);

/* theta <- theta + times z, for one tensor of n weights. */
void ezo_shift(int8_t *theta, uint32_t n, const ezo_place *place, uint32_t tensor,
               const ezo_noise *noise, int32_t times);

/* theta <- clip(theta - move z 2^-16), rounded at random; theta stands at theta - restore z.
 * move: g rate, magnitude up to 2^16. fraction: NULL for none. */
void ezo_update(int8_t *theta, uint8_t *fraction, uint32_t n, const ezo_place *place,
                uint32_t tensor, const ezo_noise *noise, int32_t move, int32_t restore);

/* ---- loss -------------------------------------------------------------------------------- */

/* Cross-entropy of one example, in 2^-20 bit, at most 2^50. */
int64_t ezo_loss(const int32_t *logits, uint32_t classes, int32_t e, uint32_t target);

/* Its gradient, int8 in units of 2^-7, rounded by the words from `first` on. */
void ezo_loss_error(const int32_t *logits, uint32_t classes, int32_t e, uint32_t target,
                    const ezo_place *place, uint32_t first, int8_t *error);

/* floor(a / b), bit by bit: no library's 64-bit division. */
uint64_t ezo_divide(uint64_t a, uint64_t b);

/* ---- kinds of layers, a file each -------------------------------------------------------- */

extern const ezo_kind ezo_Linear, ezo_Conv2d, ezo_MaxPool2d;

#endif
