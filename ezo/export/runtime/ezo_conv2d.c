/* A convolution of stride 1 with square kernels and zero padding, images as (C, H, W).
 *
 * layer: Conv2d
 * scratch: channels * (height + 2 * padding) * (width + 2 * padding) + 4
 * scratch dsp: 2 * channels * (height + 2 * padding) * (width + 2 * padding) + 8 + 16 * channels * kernel * ((kernel + 1) // 2) + 4
 * instructions: 2 * products + 20 * sums
 * instructions dsp: products * 13 / 10 + 20 * sums
 *
 * The image is copied within its zeros. Then a block of sums at a time: two neighbouring pixels by
 * four or two output channels, so that a number once loaded serves several products.
 */
#include "ezo_dsp.h"

#if EZO_PAIRS
typedef int16_t pixel; /* two a word, as SMLAD takes them */
#else
typedef int8_t pixel;
#endif

typedef struct {
  const pixel *image;    /* padded */
  const uint32_t *pairs; /* the group's weights as int16: row, pair, channel (SMLAD) */
  const int8_t *weight;  /* the group's weights */
  uint32_t wide, tall, channels, kernel;
  uint32_t step; /* from one output channel's weights to the next */
  uint32_t pool;
  int32_t bias[4];
} images;

/* A step along a kernel's row: a word of two weights, or one weight, for each of `group` channels,
 * times pixels (y, x) and (y, x + 1). */
#if EZO_PAIRS
enum { AT_ONCE = 2 };
typedef uint32_t number;
EZO_INLINE void along(const images *m, const number *w, const pixel *from, int32_t *a0, int32_t *a1,
                      const uint32_t group) {
  const uint32_t v0 = ezo_pair_at(from), v1 = ezo_pair_at(from + 1);
  (void)m;
  EZO_UNROLL
  for (uint32_t g = 0; g < group; ++g) {
    a0[g] = ezo_smlad(w[g], v0, a0[g]);
    a1[g] = ezo_smlad(w[g], v1, a1[g]);
  }
}
#else
enum { AT_ONCE = 1 };
typedef int8_t number;
EZO_INLINE void along(const images *m, const number *w, const pixel *from, int32_t *a0, int32_t *a1,
                      const uint32_t group) {
  EZO_UNROLL
  for (uint32_t g = 0; g < group; ++g) {
    a0[g] += w[g * m->step] * from[0];
    a1[g] += w[g * m->step] * from[1];
  }
}
#endif

enum { NOTHING, ROW, ROWS };

/* Sums of pixels (y, x) and, if `two`, (y, x + 1): the largest into `best` where there is a
 * maximum, else one into `best` and one into `second`. Returns their magnitudes, or-ed.
 * unrolled: whether the loops along a kernel's row, or down its rows too, are. */
EZO_INLINE uint32_t block(const images *m, uint32_t y, uint32_t x, int two, int32_t *best,
                          int32_t *second, const uint32_t group, const uint32_t kernel,
                          const int unrolled) {
  const uint32_t next = EZO_PAIRS ? group : 1, steps = (kernel + AT_ONCE - 1) / AT_ONCE;
  const uint32_t over = (m->tall - kernel) * m->wide;
  const pixel *from = m->image + y * m->wide + x;
  const number *w = EZO_PAIRS ? (const number *)(const void *)m->pairs : (const number *)m->weight;
  int32_t a0[4], a1[4];
  EZO_UNROLL
  for (uint32_t g = 0; g < group; ++g) a0[g] = a1[g] = m->bias[g];
  for (uint32_t c = m->channels; c; --c, from += over) {
    if (unrolled == ROWS) {
      EZO_UNROLL
      for (uint32_t ky = 0; ky < kernel; ++ky, from += m->wide, w += next * steps) {
        EZO_UNROLL
        for (uint32_t k = 0; k < steps; ++k)
          along(m, w + next * k, from + AT_ONCE * k, a0, a1, group);
      }
      continue;
    }
    for (uint32_t ky = 0; ky < kernel; ++ky, from += m->wide, w += next * steps) {
      if (unrolled == ROW) {
        EZO_UNROLL
        for (uint32_t k = 0; k < steps; ++k)
          along(m, w + next * k, from + AT_ONCE * k, a0, a1, group);
      } else {
        for (uint32_t k = 0; k < steps; ++k)
          along(m, w + next * k, from + AT_ONCE * k, a0, a1, group);
      }
    }
  }
  if (!two) {
    EZO_UNROLL
    for (uint32_t g = 0; g < group; ++g) a1[g] = a0[g];
  }
  uint32_t seen = 0;
  EZO_UNROLL
  for (uint32_t g = 0; g < group; ++g) seen |= ezo_magnitude(a0[g]) | ezo_magnitude(a1[g]);
  if (m->pool == 1) {
    EZO_UNROLL
    for (uint32_t g = 0; g < group; ++g) {
      best[g] = a0[g];
      second[g] = a1[g];
    }
    return seen;
  }
  EZO_UNROLL
  for (uint32_t g = 0; g < group; ++g) {
    const int32_t larger = a0[g] > a1[g] ? a0[g] : a1[g];
    if (larger > best[g]) best[g] = larger;
  }
  return seen;
}

/* A function each, so that every one has all registers; the usual kernels
 * have their own. */
#define BLOCK(name, group, kernel, unrolled)                                            \
  static uint32_t name(const images *m, uint32_t y, uint32_t x, int two, int32_t *best, \
                       int32_t *second) {                                               \
    return block(m, y, x, two, best, second, group, kernel, unrolled);                  \
  }
BLOCK(two_by_5, 2, 5, ROWS)
BLOCK(two_by_any, 2, m->kernel, NOTHING)
#if EZO_PAIRS
BLOCK(four_by_3, 4, 3, ROW)
BLOCK(four_by_5, 4, 5, ROWS)
BLOCK(four_by_any, 4, m->kernel, NOTHING)
#endif

typedef uint32_t (*run_block)(const images *m, uint32_t y, uint32_t x, int two, int32_t *best,
                              int32_t *second);
static run_block best_block(uint32_t group, uint32_t kernel) {
#if EZO_PAIRS
  if (group == 4) return kernel == 5 ? four_by_5 : kernel == 3 ? four_by_3 : four_by_any;
#endif
  (void)group;
  return kernel == 5 ? two_by_5 : two_by_any;
}

/* The image within its zeros; returns the first pixel behind it. */
static pixel *pad(const ezo_layer *l, const int8_t *x, pixel *to) {
  const uint32_t padding = l->padding, width = l->width, wide = width + 2 * padding;
  for (uint32_t c = l->channels; c; --c) {
    memset(to, 0, padding * wide * sizeof(pixel));
    to += padding * wide;
    for (uint32_t y = l->height; y; --y) {
      for (uint32_t i = padding; i; --i) *to++ = 0;
      for (uint32_t i = width; i; --i) *to++ = *x++;
      for (uint32_t i = padding; i; --i) *to++ = 0;
    }
    memset(to, 0, padding * wide * sizeof(pixel));
    to += padding * wide;
  }
  for (uint32_t i = 0; i < 4; ++i) *to++ = 0; /* a block reads a little further */
  return to;
}

#if EZO_PAIRS
/* Weights of `there` output channels (then the first's again) as words of two: row, pair,
 * channel. */
static void interleave(const images *m, uint32_t group, uint32_t there, uint32_t *words) {
  const uint32_t kernel = m->kernel;
  for (uint32_t g = 0; g < group; ++g) {
    const int8_t *w = m->weight + (g < there ? g * m->step : 0);
    uint32_t *to = words + g;
    for (uint32_t row = m->channels * kernel; row; --row) {
      for (uint32_t k = kernel / 2; k; --k, w += 2, to += group)
        *to = (uint16_t)w[0] | (uint32_t)(uint16_t)w[1] << 16;
      if (kernel % 2) {
        *to = (uint16_t)*w++;
        to += group;
      }
    }
  }
}
#endif

static uint32_t conv2d_forward(const ezo_work *work, const int8_t *x, void *out, void *scratch) {
  const ezo_layer *l = work->layer;
  const uint32_t size = l->kernel * l->kernel * l->channels, pool = l->pool;
  images m = {scratch, NULL, work->weight, l->width + 2u * l->padding, l->height + 2u * l->padding,
              l->channels, l->kernel, size, pool, {0, 0, 0, 0}};
  const uint32_t rows = m.tall - l->kernel + 1, columns = m.wide - l->kernel + 1;
  const uint32_t high = rows / pool, wide = columns / pool;
  const uint32_t across = pool > 1 ? pool : 2; /* pixels of a row that are looked at together */
  uint32_t seen = 0;
  pixel *behind = pad(l, x, scratch);
#if EZO_PAIRS
  uint32_t *pairs = (uint32_t *)(void *)(behind + (((uintptr_t)behind & 2) != 0));
  m.pairs = pairs;
#endif
  (void)behind;
  for (uint32_t o = 0, group; o < l->outputs; o += group, m.weight += group * size) {
    const uint32_t left = l->outputs - o;
    group = EZO_PAIRS && left > 2 ? 4 : 2;
    const uint32_t there = left < group ? left : group;
    const run_block run = best_block(group, l->kernel);
#if EZO_PAIRS
    interleave(&m, group, there, pairs);
#else
    m.step = there < group ? 0 : size; /* the last one alone: twice */
#endif
    for (uint32_t g = 0; g < group; ++g) /* of channels that are not there, the first's */
      m.bias[g] = work->bias ? ezo_aligned(work->bias[g < there ? o + g : o], l->bias_e - work->e) : 0;
    for (uint32_t y = 0; y < rows; y += pool)
      for (uint32_t i = 0; i < columns; i += across) {
        int32_t best[4] = {INT32_MIN, INT32_MIN, INT32_MIN, INT32_MIN}, second[4];
        for (uint32_t dy = 0; dy < pool && y + dy < rows; ++dy)
          for (uint32_t di = 0; di < across && i + di < columns; di += 2)
            seen |= run(&m, y + dy, i + di, di + 1 < across && i + di + 1 < columns, best, second);
        const uint32_t at_y = y / pool, at_x = pool == 1 ? i : i / pool;
        uint32_t at = (o * high + at_y) * wide + at_x;
        if (at_y >= high || at_x >= wide) continue; /* what does not fill a block */
        for (uint32_t g = 0; g < there; ++g, at += high * wide) {
          ezo_put(work, out, at, best[g]);
          if (pool == 1 && i + 1 < columns) ezo_put(work, out, at + 1, second[g]);
        }
      }
  }
  return seen;
}

const ezo_kind ezo_Conv2d = {conv2d_forward, NULL, NULL};
