/* What a device has learnt, as bytes that Python reads (`ezo.export.load`), little-endian:
 *
 *     "EZO1", identity, steps, n      uint32 each
 *     n weights, int8; with a fraction, n of uint8
 *     CRC-32 of all before
 */
#include "ezo_inside.h"

#define MAGIC 0x314F5A45u
enum { HEADER = 16, PIECE = 64 };

EZO_COLD static uint32_t crc(uint32_t c, const uint8_t *p, uint32_t n) {
  c = ~c;
  for (; n; --n, ++p) {
    c ^= *p;
    for (int k = 0; k < 8; ++k) c = c >> 1 ^ (c & 1 ? 0xEDB88320u : 0);
  }
  return ~c;
}

EZO_COLD static void put_word(uint8_t *to, uint32_t word) {
  for (int k = 0; k < 4; ++k) to[k] = (uint8_t)(word >> 8 * k);
}
EZO_COLD static uint32_t word_at(const uint8_t *from) {
  return from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 | (uint32_t)from[3] << 24;
}

EZO_COLD static void head_of(const ezo *e, uint8_t head[HEADER]) {
  put_word(head, MAGIC);
  put_word(head + 4, e->model->identity);
  put_word(head + 8, e->steps);
  put_word(head + 12, e->model->trained);
}

/* The weights, then the fractions: two pieces of the arena. */
EZO_COLD static const uint8_t *part(const ezo *e, int which) {
  const uint32_t place = which ? e->model->fraction_at : e->model->weights_at;
  return place == EZO_NONE ? NULL : (const uint8_t *)e + place;
}

EZO_COLD uint32_t ezo_digest(const ezo *e) {
  uint32_t c = crc(0, part(e, 0), e->model->trained);
  return part(e, 1) ? crc(c, part(e, 1), e->model->trained) : c;
}

EZO_COLD int ezo_save(const ezo *e, int (*write)(void *context, const void *bytes, uint32_t n),
             void *context) {
  uint8_t head[HEADER], end[4];
  head_of(e, head);
  if (write(context, head, HEADER)) return EZO_IO;
  uint32_t c = crc(0, head, HEADER);
  for (int which = 0; which < 2 && part(e, which); ++which) {
    c = crc(c, part(e, which), e->model->trained);
    if (write(context, part(e, which), e->model->trained)) return EZO_IO;
  }
  put_word(end, c);
  return write(context, end, 4) ? EZO_IO : EZO_OK;
}

EZO_COLD int ezo_load(ezo *e, int (*read)(void *context, uint32_t at, void *bytes, uint32_t n),
             void *context) {
  uint8_t ours[HEADER], piece[PIECE];
  const uint32_t n = e->model->trained, bytes = HEADER + (part(e, 1) ? 2 : 1) * n;
  head_of(e, ours);
  if (read(context, 0, piece, HEADER)) return EZO_IO;
  if (word_at(piece) != MAGIC || word_at(piece + 4) != e->model->identity || word_at(piece + 12) != n)
    return EZO_FOREIGN;
  const uint32_t steps = word_at(piece + 8);
  uint32_t c = 0;
  for (uint32_t at = 0, more; at < bytes; at += more) { /* once to see that it is whole, ... */
    more = bytes - at < PIECE ? bytes - at : PIECE;
    if (read(context, at, piece, more)) return EZO_IO;
    c = crc(c, piece, more);
  }
  if (read(context, bytes, piece, 4)) return EZO_IO;
  if (word_at(piece) != c) return EZO_DAMAGED;
  for (int which = 0; which < 2 && part(e, which); ++which) /* ... then for good */
    if (read(context, HEADER + (uint32_t)which * n, (uint8_t *)(uintptr_t)part(e, which), n))
      return EZO_IO;
  e->steps = steps;
  return EZO_OK;
}
