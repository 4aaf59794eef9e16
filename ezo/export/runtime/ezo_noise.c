/* The noise z of a step, drawn again whenever it is needed and never stored.
 *
 * A word of the stream serves two weights with 16 bits each: the sign, and 15 bits y:
 *
 *     t = y - threshold      z = 0 where t < 0
 *     |z| = (t M >> 16) + 1      u = t M mod 2^16, left over, rounds the update
 *
 * Element i of a tensor: group i / 512, half (i % 512) / 256, word (i % 256) / 64, lane i % 64.
 * One counter's four words so serve eight weights, 64 apart: sweeps go lane by lane.
 */
#include "ezo_inside.h"

#define A 0xD2511F53u
#define B 0xCD9E8D57u
#define KEY0 0x9E3779B9u
#define KEY1 0xBB67AE85u

void ezo_philox(uint32_t c[4], uint64_t key) {
  uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
  for (int round = 0; round < 10; ++round, k0 += KEY0, k1 += KEY1) {
    const uint64_t a = (uint64_t)c[0] * A, b = (uint64_t)c[2] * B;
    c[0] = (uint32_t)(b >> 32) ^ c[1] ^ k0;
    c[1] = (uint32_t)b;
    c[2] = (uint32_t)(a >> 32) ^ c[3] ^ k1;
    c[3] = (uint32_t)a;
  }
}

uint32_t ezo_word(const ezo_place *place, uint32_t i) {
  uint32_t c[4] = {i / 256 * 64 + i % 64, 0, place->step, place->stream};
  ezo_philox(c, place->seed);
  return c[i % 256 / 64];
}

/* All counters of a tensor differ in their first number alone: what two rounds make of the rest. */
typedef struct {
  uint32_t k0[10], k1[10], first, second, third, fourth;
} stream;

static void open_stream(stream *s, const ezo_place *place, uint32_t tensor) {
  for (uint32_t i = 0; i < 10; ++i) {
    s->k0[i] = (uint32_t)place->seed + i * KEY0;
    s->k1[i] = (uint32_t)(place->seed >> 32) + i * KEY1;
  }
  const uint64_t b = (uint64_t)place->step * B;
  const uint64_t a = (uint64_t)((uint32_t)(b >> 32) ^ tensor ^ s->k0[0]) * A;
  s->first = place->stream ^ s->k1[0];
  s->second = (uint32_t)b ^ s->k0[1];
  s->third = (uint32_t)(a >> 32) ^ s->k1[1];
  s->fourth = (uint32_t)a;
}

/* `ezo_philox` of (counter, tensor, step, stream). */
EZO_INLINE void draw(const stream *s, uint32_t counter, uint32_t c[4]) {
  const uint64_t a = (uint64_t)counter * A;
  const uint64_t b = (uint64_t)((uint32_t)(a >> 32) ^ s->first) * B;
  uint32_t c0 = (uint32_t)(b >> 32) ^ s->second, c1 = (uint32_t)b;
  uint32_t c2 = (uint32_t)a ^ s->third, c3 = s->fourth;
  EZO_UNROLL
  for (int i = 2; i < 10; ++i) {
    const uint64_t p = (uint64_t)c0 * A, q = (uint64_t)c2 * B;
    c0 = (uint32_t)(q >> 32) ^ c1 ^ s->k0[i];
    c1 = (uint32_t)q;
    c2 = (uint32_t)(p >> 32) ^ c3 ^ s->k1[i];
    c3 = (uint32_t)p;
  }
  c[0] = c0;
  c[1] = c1;
  c[2] = c2;
  c[3] = c3;
}

typedef struct {
  int32_t threshold, bound;
  uint32_t multiplier, rate;
  int32_t times; /* shift: times z; update: restore */
  int32_t sign;  /* update: of move */
} sweep;

enum { SHIFT, UPDATE, UPDATE_FINE };

/* One weight; half: its 16 bits stand in the upper half. */
EZO_INLINE void visit(int8_t *theta, uint8_t *fraction, uint32_t half, const sweep *w,
                      const int what) {
  const int32_t t = (int32_t)(half << 1 >> 17) - w->threshold;
  const uint32_t product = t < 0 ? 0 : (uint32_t)t * w->multiplier + 0x10000, u = product & 0xFFFF;
  const int32_t size = (int32_t)(product >> 16);
  const int32_t z = (int32_t)half < 0 ? -size : size;
  if (what == SHIFT) {
    *theta = (int8_t)(*theta + z * w->times);
  } else if (what == UPDATE) {
    const int32_t move = (int32_t)(((uint32_t)size * w->rate + u) >> 16) * w->sign;
    const int32_t v = *theta + w->times * z - ((int32_t)half < 0 ? -move : move);
    *theta = (int8_t)(v < -w->bound ? -w->bound : v > w->bound ? w->bound : v);
  } else {
    const int32_t move = (int32_t)(((uint32_t)size * w->rate + (u >> 8)) >> 8) * w->sign;
    const int32_t low = -w->bound * 256, high = w->bound * 256 + 255;
    int32_t v = (*theta + w->times * z) * 256 + *fraction - ((int32_t)half < 0 ? -move : move);
    v = v < low ? low : v > high ? high : v;
    *theta = (int8_t)(v >> 8);
    *fraction = (uint8_t)v;
  }
}

EZO_INLINE void go(int8_t *theta, uint8_t *fraction, uint32_t n, const ezo_place *place,
                   uint32_t tensor, const sweep *given, const int what) {
  const sweep w = *given;
  stream s;
  open_stream(&s, place, tensor);
  for (uint32_t base = 0; base < n; base += 512) {
    const uint32_t left = n - base, lanes = left < 64 ? left : 64;
    for (uint32_t lane = 0; lane < lanes; ++lane) {
      uint32_t c[4];
      int8_t *p = theta + base + lane;
      uint8_t *f = what == UPDATE_FINE ? fraction + base + lane : NULL;
      draw(&s, base / 8 + lane, c);
      if (what != UPDATE && left >= 512) { /* the usual ones without a test for the end */
        EZO_UNROLL
        for (uint32_t k = 0; k < 4; ++k) {
          visit(p + 64 * k, what == UPDATE_FINE ? f + 64 * k : NULL, c[k] << 16, &w, what);
          visit(p + 64 * k + 256, what == UPDATE_FINE ? f + 64 * k + 256 : NULL, c[k], &w, what);
        }
      } else {
        for (uint32_t k = 0, i = lane; k < 8 && i < left; ++k, i += 64)
          visit(p + i - lane, what == UPDATE_FINE ? f + i - lane : NULL,
                k < 4 ? c[k] << 16 : c[k - 4], &w, what);
      }
    }
  }
}

void ezo_shift(int8_t *theta, uint32_t n, const ezo_place *place, uint32_t tensor,
               const ezo_noise *noise, int32_t times) {
  const sweep w = {(int32_t)noise->threshold, noise->bound, noise->multiplier, 0, times, 0};
  go(theta, NULL, n, place, tensor, &w, SHIFT);
}

EZO_COLD static void update_coarse(int8_t *theta, uint32_t n, const ezo_place *place,
                                   uint32_t tensor, const sweep *w) {
  go(theta, NULL, n, place, tensor, w, UPDATE);
}

void ezo_update(int8_t *theta, uint8_t *fraction, uint32_t n, const ezo_place *place,
                uint32_t tensor, const ezo_noise *noise, int32_t move, int32_t restore) {
  const sweep w = {(int32_t)noise->threshold, noise->bound, noise->multiplier,
                   ezo_magnitude(move), restore, move < 0 ? -1 : 1};
  if (fraction) go(theta, fraction, n, place, tensor, &w, UPDATE_FINE);
  else update_coarse(theta, n, place, tensor, &w);
}
