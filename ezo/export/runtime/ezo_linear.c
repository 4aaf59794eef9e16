/* A linear layer: y = x W^T + b, its errors and its update.
 *
 * layer: Linear
 * scratch: 0
 * calls: out // 4 + out % 4
 * instructions: calls * (11 * in + 35) + 75 * out
 * instructions dsp: calls * (27 * in / 4 + 30) + 75 * out
 */
#include "ezo_dsp.h"

/* Four rows of the weight, `step` apart, against one x. */
EZO_APART void four_sums(const int8_t *w, uint32_t step, const int8_t *x, uint32_t n,
                         int32_t a[4]) {
  const int8_t *v = w + 2 * step; /* the third row */
  int32_t a0 = 0, a1 = 0, a2 = 0, a3 = 0;
#if EZO_PAIRS
  for (uint32_t k = n / 4; k; --k, x += 4, w += 4, v += 4) {
    const uint32_t t = ezo_pair_at(x), even = ezo_even(t), odd = ezo_odd(t);
    a0 = ezo_quad(ezo_pair_at(w), even, odd, a0);
    a1 = ezo_quad(ezo_pair_at(w + step), even, odd, a1);
    a2 = ezo_quad(ezo_pair_at(v), even, odd, a2);
    a3 = ezo_quad(ezo_pair_at(v + step), even, odd, a3);
  }
  n %= 4;
#endif
  for (; n; --n, ++x, ++w, ++v) {
    a0 += *x * w[0];
    a1 += *x * w[step];
    a2 += *x * v[0];
    a3 += *x * v[step];
  }
  a[0] = a0;
  a[1] = a1;
  a[2] = a2;
  a[3] = a3;
}

static uint32_t linear_forward(const ezo_work *work, const int8_t *x, void *out, void *scratch) {
  const ezo_layer *l = work->layer;
  uint32_t seen = 0;
  (void)scratch;
  for (uint32_t o = 0, rows; o < l->outputs; o += rows) {
    int32_t a[4];
    rows = l->outputs - o < 4 ? 1 : 4; /* the last ones singly, four times */
    four_sums(work->weight + o * l->in, rows == 4 ? l->in : 0, x, l->in, a);
    for (uint32_t k = 0; k < rows; ++k) {
      if (work->bias) a[k] += ezo_aligned(work->bias[o + k], l->bias_e - work->e);
      seen |= ezo_magnitude(a[k]);
      ezo_put(work, out, o + k, a[k]);
    }
  }
  return seen;
}

/* err W, four inputs at once: err (O) against W (O, I) from column i on. */
EZO_INLINE void columns(const int8_t *err, uint32_t outputs, uint32_t err_step, const int8_t *w,
                        uint32_t w_step, uint32_t wide, int32_t a[4]) {
  a[0] = a[1] = a[2] = a[3] = 0;
  if (wide == 4) {
    int32_t a0 = 0, a1 = 0, a2 = 0, a3 = 0;
    for (uint32_t o = 0; o < outputs; ++o, err += err_step, w += w_step) {
      const int32_t v = *err;
      a0 += v * w[0];
      a1 += v * w[1];
      a2 += v * w[2];
      a3 += v * w[3];
    }
    a[0] = a0;
    a[1] = a1;
    a[2] = a2;
    a[3] = a3;
  } else {
    for (uint32_t o = 0; o < outputs; ++o, err += err_step, w += w_step)
      for (uint32_t k = 0; k < wide; ++k) a[k] += *err * w[k];
  }
}

EZO_COLD static uint32_t linear_error(const ezo_work *work, const int8_t *err, uint32_t n, int8_t *below) {
  const ezo_layer *l = work->layer;
  uint32_t seen = 0;
  for (uint32_t j = 0; j < n; ++j, err += l->outputs, below += l->in)
    for (uint32_t i = 0; i < l->in; i += 4) {
      const uint32_t wide = l->in - i < 4 ? l->in - i : 4;
      int32_t a[4];
      columns(err, l->outputs, 1, work->weight + i, l->in, wide, a);
      for (uint32_t k = 0; k < wide; ++k) {
        seen |= ezo_magnitude(a[k]);
        below[i + k] = ezo_round(a[k], work->shift);
      }
    }
  return seen;
}

/* The gradient err^T x is never stored: it is summed twice, for its largest, then to move by it. */
static void linear_descend(const ezo_work *work, int8_t *weight, int8_t *bias, uint8_t *fraction,
                    uint8_t *bias_fraction, const int8_t *err, const int8_t *x, uint32_t n,
                    int32_t mu) {
  const ezo_layer *l = work->layer;
  const int32_t keep = mu + (fraction ? 8 : 0);
  uint32_t seen = 0;
  for (int moving = 0; moving < 2; ++moving) {
    const int32_t s = ezo_bits(seen) - keep;
    for (uint32_t o = 0; o < l->outputs; ++o)
      for (uint32_t i = 0; i < l->in; i += 4) {
        const uint32_t wide = l->in - i < 4 ? l->in - i : 4, at = o * l->in + i;
        int32_t g[4];
        columns(err + o, n, l->outputs, x + i, l->in, wide, g);
        for (uint32_t k = 0; k < wide; ++k)
          if (moving) ezo_descend_one(weight + at + k, fraction ? fraction + at + k : NULL, g[k], s);
          else seen |= ezo_magnitude(g[k]);
      }
  }
  if (!bias) return;
  seen = 0;
  for (int moving = 0; moving < 2; ++moving) {
    const int32_t s = ezo_bits(seen) - keep;
    for (uint32_t o = 0; o < l->outputs; ++o) {
      int32_t g = 0;
      for (uint32_t j = 0; j < n; ++j) g += err[j * l->outputs + o];
      if (moving) ezo_descend_one(bias + o, bias_fraction ? bias_fraction + o : NULL, g, s);
      else seen |= ezo_magnitude(g);
    }
  }
}

const ezo_kind ezo_Linear = {linear_forward, linear_error, linear_descend};
