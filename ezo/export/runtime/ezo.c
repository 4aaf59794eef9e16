/* The step: two passes at theta + z and theta - z for the first layers, backpropagation for the
 * last (arXiv 2501.04287), in integers. */
#include "ezo_inside.h"

#define ERROR_STREAM 0x80000000u /* of the noise that rounds the logits' error */
#define LOSS_BITS 20
#define RATE_BITS 16
#define LARGEST_SHIFT 24 /* of an int32 to 7 bits */
#define UNSTEADY 2
#define WINDOW 4 /* shifts, that 12 bits leave open */

/* A layer's, from pass to pass. */
typedef struct {
  uint32_t seen;      /* magnitudes of this pass's sums, or-ed */
  int16_t level;      /* exponent of the last pass's outputs, which this one tries first */
  int8_t error_shift; /* the last backward's, likewise */
  uint8_t unsteady;   /* passes for which the level is measured before it is used */
} ezo_scale;

typedef char ezo_state_fits[sizeof(ezo) <= EZO_STATE_BYTES && sizeof(ezo_scale) == 8 ? 1 : -1];

static void *at(const ezo *e, uint32_t place) { return (uint8_t *)(uintptr_t)e + place; }
static ezo_scale *scales(const ezo *e) { return at(e, EZO_STATE_BYTES); }
static void yield(const ezo_source *source) {
  if (source->yield) source->yield(source->context);
}

/* Where weights stand: the frozen in flash, the trained in the arena. */
static const int8_t *weights(const ezo *e, uint32_t place) {
  const ezo_model *m = e->model;
  if (place == EZO_NONE) return NULL;
  if (place < m->frozen) return m->weights + place;
  return (const int8_t *)at(e, m->weights_at) + (place - m->frozen);
}
static int8_t *trained(const ezo *e, uint32_t place) {
  return place == EZO_NONE ? NULL : (int8_t *)at(e, e->model->weights_at) + (place - e->model->frozen);
}
static uint8_t *fraction(const ezo *e, uint32_t place) {
  const ezo_model *m = e->model;
  if (place == EZO_NONE || m->fraction_at == EZO_NONE) return NULL;
  return (uint8_t *)at(e, m->fraction_at) + (place - m->frozen);
}

EZO_COLD int ezo_init(ezo *e, const ezo_model *m, uint32_t bytes) {
  if (bytes < m->arena_bytes) return EZO_SMALL_ARENA;
  memset(e, 0, m->arena_bytes);
  e->model = m;
  e->steps = m->steps;
  for (uint32_t i = 0; i < m->layer_count; ++i) scales(e)[i].level = m->layers[i].level;
  memcpy(at(e, m->weights_at), m->weights + m->frozen, m->trained);
  if (m->fraction_at != EZO_NONE) {
    if (m->fraction) memcpy(at(e, m->fraction_at), m->fraction, m->trained);
    else memset(at(e, m->fraction_at), 128, m->trained);
  }
  return EZO_OK;
}

/* ---- forward ----------------------------------------------------------------------------- */

/* The first of a window's shifts, so that the last pass's is in the middle. */
static int32_t window(int32_t shift) { return shift > WINDOW / 2 ? shift - WINDOW / 2 : 0; }

/* Layer i, by the shift that gives its outputs the last pass's exponent. */
EZO_COLD static ezo_work work_of(const ezo *e, uint32_t i, int32_t exponent) {
  const ezo_layer *l = &e->model->layers[i];
  const int32_t sums = exponent + l->weight_e, guess = scales(e)[i].level - sums;
  const int32_t shift = guess < 0 ? 0 : guess > LARGEST_SHIFT ? LARGEST_SHIFT : guess;
  ezo_work work = {l, weights(e, l->weight), weights(e, l->bias), sums, shift, EZO_ROUNDED, NULL,
                   0};
  if (i + 1 == e->model->layer_count) {
    work.form = EZO_SUMS;
    work.shift = 0;
  } else if (l->windowed) {
    work.form = EZO_WINDOW;
    work.shift = window(shift);
    work.low = (uint8_t *)at(e, l->out_at) + e->model->batch * l->out;
  }
  return work;
}

void ezo_put(const ezo_work *work, void *out, uint32_t at, int32_t sum) {
  ezo_store(work, out, at, sum);
}

/* A window's n numbers to int8 by a further shift s. */
static void narrow(const ezo_work *work, int8_t *out, uint32_t n, int32_t s) {
  for (uint32_t k = 0; k < n; ++k)
    out[k] = ezo_round(out[k] * 16 + (work->low[k / 2] >> k % 2 * 4 & 15), s);
}

static void run(const ezo *e, uint32_t i, ezo_work *work, const ezo_source *source, uint32_t j) {
  const ezo_model *m = e->model;
  const ezo_layer *l = work->layer;
  const int8_t *x = l->in_at == EZO_NONE ? source->example(source->context, j)
                                         : (const int8_t *)at(e, l->in_at) + j * l->in_step;
  uint8_t *out = (uint8_t *)at(e, l->out_at) + j * l->out_step;
  work->low_at = j * l->out;
  scales(e)[i].seen |= l->kind->forward(work, x, out, at(e, m->scratch_at));
  yield(source);
}

/* Whether the shift was the one that layer i's sums ask for; the next pass tries that one. */
EZO_COLD static int right_shift(const ezo *e, uint32_t i, const ezo_work *work) {
  ezo_scale *scale = &scales(e)[i];
  const int32_t needed = ezo_needed(scale->seen), further = needed - work->shift;
  if (work->form == EZO_SUMS) return 1;
  const int right = work->form == EZO_ROUNDED ? further == 0
                                              : further <= WINDOW && (further > 0 || work->shift == 0);
  const int16_t level = (int16_t)(work->e + needed);
  if (level != scale->level) scale->unsteady = UNSTEADY;
  else if (scale->unsteady) --scale->unsteady;
  scale->level = level;
  return right;
}

/* One layer on the whole batch, for its sums' magnitudes. */
EZO_COLD static ezo_work sums_of(ezo *e, const ezo_source *source, uint32_t n, uint32_t i,
                                 int32_t before) {
  ezo_work work = work_of(e, i, before);
  scales(e)[i].seen = 0;
  for (uint32_t j = 0; j < n; ++j) run(e, i, &work, source, j);
  return work;
}

/* A segment: layers first to last, an example at a time through all of them, so that only the
 * last one's outputs lie there for the whole batch. Where a shift was wrong, once more; where the
 * first layer's has changed of late, it is found out before.
 *
 * Returns the exponent of the outputs. */
EZO_COLD static int32_t segment(ezo *e, const ezo_source *source, uint32_t n, uint32_t first,
                                uint32_t last, const int32_t before) {
  if (first < last && scales(e)[first].unsteady) {
    const ezo_work work = sums_of(e, source, n, first, before);
    right_shift(e, first, &work);
    ++e->repeated;
  }
  for (;; e->repeated += last - first + 1) {
    int32_t exponent = before;
    int whole = 1, right = 1;
    for (uint32_t i = first; i <= last; ++i) scales(e)[i].seen = 0;
    for (uint32_t j = 0; j < n && whole; ++j) {
      exponent = before;
      for (uint32_t i = first; i <= last && whole; ++i) {
        ezo_work work = work_of(e, i, exponent);
        run(e, i, &work, source, j);
        exponent = work.e + work.shift;
        /* sums beyond what the shift can hold: no need to see the rest */
        if (work.form == EZO_ROUNDED && ezo_needed(scales(e)[i].seen) > work.shift) whole = 0;
      }
    }
    ezo_work work;
    exponent = before;
    for (uint32_t i = first; i <= last; ++i) {
      work = work_of(e, i, exponent);
      exponent = work.e + work.shift;
      if (!whole && ezo_needed(scales(e)[i].seen) <= work.shift) continue;
      if (!right_shift(e, i, &work)) right = 0;
    }
    if (!whole || !right) continue;
    if (work.form == EZO_SUMS) return exponent;
    const int32_t further = scales(e)[last].level - exponent;
    if (work.form == EZO_WINDOW) narrow(&work, at(e, work.layer->out_at), n * work.layer->out, further);
    return exponent + further;
  }
}

/* Logits of n examples, segment by segment: a layer whose outputs have a step ends one. */
EZO_COLD static void forward(ezo *e, const ezo_source *source, uint32_t n) {
  const ezo_model *m = e->model;
  if (m->input_at != EZO_NONE) /* BP will ask for the first layer's input */
    for (uint32_t j = 0; j < n; ++j)
      memcpy((int8_t *)at(e, m->input_at) + j * m->layers[0].in,
             source->example(source->context, j), m->layers[0].in);
  e->logits_e = m->input_e;
  for (uint32_t first = 0, last; first < m->layer_count; first = last + 1) {
    for (last = first; !m->layers[last].out_step;) ++last;
    e->logits_e = segment(e, source, n, first, last, e->logits_e);
  }
}

EZO_COLD static int64_t total(const ezo *e, const ezo_source *source) {
  const ezo_model *m = e->model;
  const int32_t *logits = at(e, m->logits_at);
  int64_t sum = 0;
  for (uint32_t j = 0; j < m->batch; ++j, logits += m->classes)
    sum += ezo_loss(logits, m->classes, e->logits_e, source->label(source->context, j));
  return sum;
}

static int64_t pass(ezo *e, const ezo_source *source) {
  forward(e, source, e->model->batch);
  return total(e, source);
}

/* ---- backpropagation --------------------------------------------------------------------- */

/* Errors of layer i's outputs to errors of its input; again where the shift was wrong. */
EZO_COLD static void errors_below(const ezo *e, uint32_t i, const int8_t *x, int8_t *below) {
  const ezo_layer *l = &e->model->layers[i];
  const int8_t *err = at(e, l->err_at);
  ezo_work work = work_of(e, i, 0);
  const uint32_t n = e->model->batch;
  for (;;) {
    work.shift = scales(e)[i].error_shift;
    const int32_t needed = ezo_needed(l->kind->error(&work, err, n, below));
    scales(e)[i].error_shift = (int8_t)needed;
    if (needed == work.shift) break;
  }
  if (e->model->layers[i - 1].relu)
    for (uint32_t k = 0; k < n * l->in; ++k)
      if (x[k] <= 0) below[k] = 0;
}

/* From the last pass's logits: the last layers' errors and, layer by layer, their update. */
EZO_COLD static void backward(ezo *e, const ezo_source *source, int32_t mu) {
  const ezo_model *m = e->model;
  const ezo_place place = {m->seed, e->steps, ERROR_STREAM + (m->gradient == EZO_MINUS)};
  const int32_t *logits = at(e, m->logits_at);
  int8_t *error = at(e, m->layers[m->layer_count - 1].err_at);
  for (uint32_t j = 0; j < m->batch; ++j)
    ezo_loss_error(logits + j * m->classes, m->classes, e->logits_e,
                   source->label(source->context, j), &place, j * m->classes,
                   error + j * m->classes);
  for (uint32_t i = m->layer_count; i-- > m->first_bp;) {
    const ezo_layer *l = &m->layers[i];
    const int8_t *x = at(e, l->in_at);
    const ezo_work work = work_of(e, i, 0);
    if (i > m->first_bp) errors_below(e, i, x, at(e, m->layers[i - 1].err_at));
    yield(source);
    l->kind->descend(&work, trained(e, l->weight), trained(e, l->bias), fraction(e, l->weight),
                     fraction(e, l->bias), at(e, l->err_at), x, m->batch, mu);
    yield(source);
  }
}

void ezo_descend_one(int8_t *weight, uint8_t *part, int32_t gradient, int32_t s) {
  uint32_t m = ezo_magnitude(gradient);
  if (s > 0) {
    const uint32_t rest = s < 32 ? m & ((1u << s) - 1) : m, half = (uint32_t)s / 2;
    const uint32_t upper = half < 32 ? rest >> half : 0;
    const uint32_t lower = (half < 32 ? rest & ((1u << half) - 1) : rest) << (s % 2);
    m = (s < 32 ? m >> s : 0) + (upper > lower);
  }
  m = m > 65535 ? 65535 : m; /* further than any weight can go */
  const int32_t fine = part ? 8 : 0, move = gradient < 0 ? -(int32_t)m : (int32_t)m;
  const int32_t low = -127 * (1 << fine), high = (128 << fine) - 1;
  int32_t v = *weight * (1 << fine) + (part ? *part : 0) - move;
  v = v < low ? low : v > high ? high : v;
  *weight = (int8_t)(v >> fine);
  if (part) *part = (uint8_t)v;
}

/* ---- zeroth order ------------------------------------------------------------------------ */

/* theta <- theta + times z, or with `moves` the update; all ZO tensors, weight before bias. */
EZO_COLD static void sweep(ezo *e, const ezo_source *source, uint32_t stream, int32_t times,
                  const int32_t *move) {
  const ezo_model *m = e->model;
  const ezo_place place = {m->seed, e->steps, stream};
  const ezo_noise noise = {m->threshold, m->multiplier, m->bound};
  uint32_t tensor = 0;
  for (uint32_t i = m->first_trained; i < m->zo_end; ++i) {
    const ezo_layer *l = &m->layers[i];
    for (int of_bias = 0; of_bias < 2; ++of_bias) {
      const uint32_t where = of_bias ? l->bias : l->weight, n = of_bias ? l->biases : l->weights;
      if (where == EZO_NONE) continue;
      if (move)
        ezo_update(trained(e, where), fraction(e, where), n, &place, tensor, &noise, *move, times);
      else if (times)
        ezo_shift(trained(e, where), n, &place, tensor, &noise, times);
      ++tensor;
      yield(source);
    }
  }
}

/* How far a query moves the weights along its z: g times its share of the rate. */
EZO_COLD static int32_t share(const ezo_model *m, uint32_t rate, int64_t difference) {
  const uint64_t d = (uint64_t)(difference < 0 ? -difference : difference);
  uint64_t whole = rate;
  if (m->magnitude == EZO_ABSOLUTE) {
    const uint64_t most = (uint64_t)m->largest_difference << (LOSS_BITS - 10);
    const uint64_t mean = ezo_divide(d, m->batch);
    whole = (rate * (mean < most ? mean : most)) >> LOSS_BITS;
  }
  if (whole > 1u << RATE_BITS) whole = 1u << RATE_BITS;
  const int32_t part = (int32_t)ezo_divide(whole, m->queries);
  return difference < 0 ? -part : difference > 0 ? part : 0;
}

EZO_COLD int ezo_step(ezo *e, const ezo_source *source, uint32_t rate, int32_t mu) {
  const ezo_model *m = e->model;
  const int zo = m->zo_end > m->first_trained, bp = m->first_bp < m->layer_count;
  /* the gradient's pass comes last, so that what it keeps is still there for `backward` */
  const int32_t first = bp && m->gradient == EZO_PLUS ? -1 : 1;
  const int unperturbed = !zo || (bp && m->gradient == EZO_UNPERTURBED);
  int32_t *moves = at(e, m->moves_at), stand = 0; /* the weights stand at theta + stand z */
  if (e->steps == UINT32_MAX) return EZO_FULL;
  for (uint32_t q = 0; zo && q < m->queries; ++q) {
    int64_t loss[2]; /* at theta + first z, theta - first z */
    for (int side = 0; side < 2; ++side) {
      const int32_t times = side ? -first : first;
      sweep(e, source, q, times - stand, NULL);
      stand = times;
      loss[side] = pass(e, source);
    }
    if (unperturbed || q + 1 < m->queries) {
      sweep(e, source, q, -stand, NULL);
      stand = 0;
    }
    e->loss = first == 1 ? loss[0] : loss[1];
    moves[q] = share(m, rate, first == 1 ? loss[0] - loss[1] : loss[1] - loss[0]);
  }
  if (unperturbed) e->loss = pass(e, source);
  if (bp) backward(e, source, mu);
  for (uint32_t q = m->queries; zo && q-- > 0; stand = 0) /* the last's z first, to come back */
    sweep(e, source, q, -stand, &moves[q]);
  ++e->steps;
  return EZO_OK;
}

/* ---- prediction -------------------------------------------------------------------------- */

static const int8_t *itself(void *context, uint32_t j) {
  (void)j;
  return context;
}

EZO_COLD uint32_t ezo_predict(ezo *e, const int8_t *x, const int32_t **logits) {
  const ezo_source one = {itself, NULL, NULL, (void *)(uintptr_t)x};
  forward(e, &one, 1);
  const int32_t *sums = at(e, e->model->logits_at);
  uint32_t best = 0;
  for (uint32_t k = 1; k < e->model->classes; ++k)
    if (sums[k] > sums[best]) best = k;
  if (logits) *logits = sums;
  return best;
}
