/* Training on a pool of examples in memory: what tests and measurements call, and boards run. */

#include "ezo_model.h"

#include "ezo_inside.h"

typedef struct {
  const int8_t *x;
  const uint8_t *y;
  uint32_t pool, first;
} examples;

static const int8_t *example(void *context, uint32_t j) {
  const examples *all = context;
  return all->x + (all->first + j) % all->pool * EZO_INPUT_BYTES;
}

static uint32_t label(void *context, uint32_t j) {
  const examples *all = context;
  return all->y[(all->first + j) % all->pool];
}

static volatile uint32_t yields;
static void yield(void *context) {
  (void)context;
  ++yields;
}

/* `steps` steps, the first on the pool's first examples; fresh: from the first weights. Returns the
 * weights' digest. losses: one a step, or NULL. */
uint32_t drive(ezo_arena *arena, const int8_t *x, const uint8_t *y, uint32_t pool, uint32_t steps,
               uint32_t rate, int32_t mu, uint32_t fresh, int64_t *losses) {
  examples all = {x, y, pool, 0};
  const ezo_source source = {example, label, yield, &all};
  if (fresh && ezo_init(&arena->state, &ezo_net, sizeof *arena)) return 0;
  all.first = (arena->state.steps - ezo_net.steps) * EZO_BATCH % pool;
  for (uint32_t step = 0; step < steps; ++step) {
    if (ezo_step(&arena->state, &source, rate, mu)) return 0;
    if (losses) losses[step] = arena->state.loss;
    all.first = (all.first + EZO_BATCH) % pool;
  }
  return ezo_digest(&arena->state);
}

uint32_t drive_predict(ezo_arena *arena, const int8_t *x, int32_t *logits) {
  const int32_t *found;
  const uint32_t best = ezo_predict(&arena->state, x, &found);
  for (uint32_t k = 0; k < EZO_CLASSES; ++k) logits[k] = found[k];
  return best;
}

typedef struct {
  uint8_t *bytes;
  uint32_t at;
} memory;

static int write_memory(void *context, const void *bytes, uint32_t n) {
  memory *m = context;
  memcpy(m->bytes + m->at, bytes, n);
  m->at += n;
  return 0;
}

static int read_memory(void *context, uint32_t at, void *bytes, uint32_t n) {
  memcpy(bytes, ((const memory *)context)->bytes + at, n);
  return 0;
}

/* Returns the bytes saved. */
uint32_t drive_save(const ezo_arena *arena, uint8_t *to) {
  memory m = {to, 0};
  return ezo_save(&arena->state, write_memory, &m) ? 0 : m.at;
}

uint32_t drive_load(ezo_arena *arena, uint8_t *from) {
  memory m = {from, 0};
  return (uint32_t)ezo_load(&arena->state, read_memory, &m);
}

uint32_t drive_check(ezo_arena *arena) { return (uint32_t)ezo_check(arena); }
