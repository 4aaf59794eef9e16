/* A convolution of stride 1 with square kernels and zero padding, images as (C, H, W).
 *
 * layer: Conv2d
 * image: (height + 2 * padding) * (width + 2 * padding)
 * planes: (channels + 1) // 2
 * rows: channels // 2 * kernel + channels % 2 * ((kernel + 1) // 2)
 * blocks: sums / outputs * ((outputs + 1) // 2) / 2
 * single: kernel * (14 - 7 * (kernel == 5))
 * double: kernel * (21 - 10 * (kernel == 3) - 10 * (kernel == 5))
 * scratch: channels * image + 4
 * scratch dsp: 4 * planes * image + 12 + 16 * kernel * rows
 * instructions: blocks * (channels * kernel * (single + 8) + 105) + 10 * channels * image + 40 * out
 * instructions dsp: blocks * (rows * (double + 16) + 165) / 2 + 12 * planes * image + 11 * kernel * outputs * rows + 40 * out
 *
 * The image is copied within its zeros. Then a block of sums at a time: two neighbouring pixels by
 * four or two output channels, so that a number once loaded serves several products.
 *
 * With SMLAD the image is planes of words: a pixel of two channels. A channel that is left over has
 * a plane of its own, whose words hold a pixel and the one below it; every other row serves.
 */
#include "ezo_dsp.h"

#if EZO_PAIRS
typedef uint32_t number; /* two int16, of pixels or of weights */
#else
typedef int8_t number;
#endif

typedef struct {
  const number *image;   /* padded */
  const number *numbers; /* the group's weights; with SMLAD as plane, row, column, channel */
  const int8_t *weight;  /* the group's weights as they are */
  uint32_t wide, tall, planes, kernel;
  uint32_t step; /* from one output channel's weights to the next */
  uint32_t pool;
  uint32_t alone; /* 1: the last plane is of one channel */
  int32_t bias[4];
} images;

/* The next number of a kernel's row, of `group` channels, times two neighbouring pixels: *v, and the
 * one at `from`, which is the next *v. */
EZO_INLINE void along(const images *m, const number **w, const number **from, number *v,
                      int32_t *a0, int32_t *a1, const uint32_t group) {
#if EZO_PAIRS
  const number next = ezo_next(from, w);
  (void)m;
  EZO_UNROLL
  for (uint32_t g = 0; g < group; g += 2) *w = ezo_four(*w, *v, next, a0 + g, a1 + g);
#else
  const number next = *(*from)++;
  EZO_UNROLL
  for (uint32_t g = 0; g < group; ++g) {
    a0[g] += (*w)[g * m->step] * *v;
    a1[g] += (*w)[g * m->step] * next;
  }
  ++*w;
#endif
  *v = next;
}

/* Sums of pixels (y, x) and, if `two`, (y, x + 1): the largest into `best` where there is a
 * maximum, else one into `best` and one into `second`. Returns their magnitudes, or-ed.
 * unrolled: whether the loop along a kernel's row is. */
EZO_INLINE uint32_t block(const images *m, uint32_t y, uint32_t x, int two, int32_t *best,
                          int32_t *second, const uint32_t group, const uint32_t kernel,
                          const int unrolled) {
  const number *from = m->image + y * m->wide + x, *w = m->numbers;
  int32_t a0[4], a1[4];
  EZO_UNROLL
  for (uint32_t g = 0; g < group; ++g) a0[g] = a1[g] = m->bias[g];
  for (uint32_t plane = m->planes; plane; --plane) {
    uint32_t rows = kernel;
    ptrdiff_t next = (ptrdiff_t)m->wide; /* from a row to the next */
    if (EZO_PAIRS && plane == m->alone) {
      rows = (kernel + 1) / 2;
      next *= 2;
    }
    for (next -= (ptrdiff_t)kernel + 1; rows; --rows, from += next) {
      number v = *from++;
      if (unrolled) {
        EZO_UNROLL
        for (uint32_t k = 0; k < kernel; ++k) along(m, &w, &from, &v, a0, a1, group);
      } else {
        for (uint32_t k = kernel; k; --k) along(m, &w, &from, &v, a0, a1, group);
      }
    }
    from += (m->tall - kernel) * m->wide;
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
BLOCK(two_by_5, 2, 5, 1)
BLOCK(two_by_any, 2, m->kernel, 0)
#if EZO_PAIRS
BLOCK(four_by_3, 4, 3, 1)
BLOCK(four_by_5, 4, 5, 1)
BLOCK(four_by_any, 4, m->kernel, 0)
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

EZO_INLINE number *zeros(number *to, uint32_t n) { /* volatile: no call of memset */
  for (; n; --n) *(volatile number *)to++ = 0;
  return to;
}

/* The image within its zeros; returns the first number behind it. */
static number *pad(const ezo_layer *l, const int8_t *x, number *to) {
  const uint32_t padding = l->padding, width = l->width, edge = padding * (width + 2 * padding);
#if EZO_PAIRS
  const uint32_t size = width * l->height;
  for (uint32_t c = 0; c < l->channels; c += 2, x += size) {
    const int8_t *end = x + size, *low = x, *high = end;
    uint32_t low_mask = 0xFFFF, above = edge;
    if (c + 1 == l->channels) { /* alone: the pixel below it */
      high = x;
      if (padding) low_mask = 0; /* the row above the first has that one below it */
      else high += width;
      above -= padding ? width + 2 * padding : 0;
    }
    to = zeros(to, above);
    while (low < end) {
      to = zeros(to, padding);
      const uint32_t high_mask = high == end && c + 1 == l->channels ? 0 : 0xFFFF;
      if (!high_mask) high = low;
      for (uint32_t i = width; i; --i)
        *to++ = ((uint32_t)*low++ & low_mask) | ((uint32_t)*high++ & high_mask) << 16;
      if (!high_mask) high = end;
      to = zeros(to, padding);
      if (!low_mask) low = x;
      low_mask = 0xFFFF;
    }
    to = zeros(to, edge);
    if (c + 1 < l->channels) x = end;
  }
  return zeros(to, 1); /* a block reads a little further */
#else
  for (uint32_t c = l->channels; c; --c) {
    to = zeros(to, edge);
    for (uint32_t y = l->height; y; --y) {
      to = zeros(to, padding);
      for (uint32_t i = width; i; --i) *to++ = *x++;
      to = zeros(to, padding);
    }
    to = zeros(to, edge);
  }
  return zeros(to, 1);
#endif
}

#if EZO_PAIRS
/* Weights of `there` output channels (then the first's again) as words of two: of two input
 * channels, or of two rows of the one left over. */
static void interleave(const images *m, uint32_t group, uint32_t there, uint32_t *words) {
  const uint32_t kernel = m->kernel, size = kernel * kernel;
  for (uint32_t g = 0; g < group; ++g) {
    const int8_t *w = m->weight + (g < there ? g * m->step : 0);
    uint32_t *to = words + g;
    for (uint32_t plane = m->planes; plane; --plane) {
      if (plane == m->alone) {
        for (uint32_t row = 0; row < kernel; row += 2, w += kernel)
          for (uint32_t k = kernel; k; --k, ++w, to += group)
            *to = (uint16_t)w[0] | (row + 1 < kernel ? (uint32_t)(uint16_t)w[kernel] << 16 : 0);
      } else {
        for (uint32_t k = size; k; --k, ++w, to += group)
          *to = (uint16_t)w[0] | (uint32_t)(uint16_t)w[size] << 16;
        w += size;
      }
    }
  }
}
#endif

static uint32_t conv2d_forward(const ezo_work *work, const int8_t *x, void *out, void *scratch) {
  const ezo_layer *l = work->layer;
  const uint32_t size = l->kernel * l->kernel * l->channels, pool = l->pool;
  images m = {scratch, NULL, work->weight, l->width + 2u * l->padding,
              l->height + 2u * l->padding, EZO_PAIRS ? (l->channels + 1u) / 2 : l->channels,
              l->kernel, size, pool, l->channels % 2u, {0, 0, 0, 0}};
  const uint32_t rows = m.tall - l->kernel + 1, columns = m.wide - l->kernel + 1;
  const uint32_t high = rows / pool, wide = columns / pool;
  const uint32_t across = pool > 1 ? pool : 2; /* pixels of a row that are looked at together */
  uint32_t seen = 0;
  number *behind = pad(l, x, scratch);
#if EZO_PAIRS
  behind += ((uintptr_t)behind & 4) != 0;
  m.numbers = behind;
#endif
  for (uint32_t o = 0, group; o < l->outputs; o += group, m.weight += group * size) {
    const uint32_t left = l->outputs - o;
    group = EZO_PAIRS && left > 2 ? 4 : 2;
    const uint32_t there = left < group ? left : group;
    const run_block run = best_block(group, l->kernel);
#if EZO_PAIRS
    interleave(&m, group, there, behind);
#else
    (void)behind;
    m.numbers = m.weight;
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
          ezo_store(work, out, at, best[g]);
          if (pool == 1 && i + 1 < columns) ezo_put(work, out, at + 1, second[g]);
        }
      }
  }
  return seen;
}

const ezo_kind ezo_Conv2d = {conv2d_forward, NULL, NULL};
