/* ElasticZO-INT8 (arXiv 2501.04287) on a microcontroller: the same bits as ezo.int8 in Python.
 *
 * Freestanding C99: no allocation, no floating point, no library but memcpy and memset, no state
 * but the arena that the caller gives. Everything that is known before compiling stands in an
 * `ezo_model` in flash, which `ezo export` writes.
 *
 * Numbers: a tensor is int8 mantissas m in [-127, 127] and one exponent E; a value is m 2^E.
 * Letters: n j example, o output, c channel, k kernel, i input.
 */
#ifndef EZO_H
#define EZO_H
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EZO_NONE UINT32_MAX

typedef struct ezo_layer ezo_layer;
typedef struct ezo ezo;

/* How a layer's outputs are stored. */
typedef enum {
  EZO_ROUNDED, /* int8, divided by 2^shift, rounded to nearest */
  EZO_WINDOW,  /* 12 bits, divided by 2^shift, the rest dropped, to be rounded later: the upper 8
                  where an int8 would be, the lower 4 apart, two in a byte */
  EZO_SUMS     /* int32, as they are: the logits */
} ezo_form;

/* A layer in a pass. */
typedef struct {
  const ezo_layer *layer;
  const int8_t *weight, *bias; /* bias: NULL for none */
  int32_t e;                   /* exponent of the sums: the input's plus the weight's */
  int32_t shift;
  ezo_form form;
  uint8_t *low;    /* of EZO_WINDOW: where the lower 4 bits of the batch lie, */
  uint32_t low_at; /* and this example's first among them */
} ezo_work;

/* What a kind of layer can do. */
typedef struct {
  /* One example: sums, ReLU, maximum. Returns all sums' magnitudes, or-ed: their bit width. */
  uint32_t (*forward)(const ezo_work *work, const int8_t *x, void *out, void *scratch);
  /* Errors (n, O) to the errors of the input (n, I), as `form` and `shift` say; returns as above. */
  uint32_t (*error)(const ezo_work *work, const int8_t *err, uint32_t n, int8_t *below);
  /* Weight and bias, moved down the gradient err^T x; fraction: of the weight, NULL for none. */
  void (*descend)(const ezo_work *work, int8_t *weight, int8_t *bias, uint8_t *fraction,
                  uint8_t *bias_fraction, const int8_t *err, const int8_t *x, uint32_t n,
                  int32_t mu);
} ezo_kind;

/* A layer, with the ReLU and the maximum that follow it. `_at`: bytes from the arena's start;
 * `_step`: bytes from one example to the next. */
struct ezo_layer {
  const ezo_kind *kind;
  uint32_t weight, bias;             /* places among all weights; EZO_NONE for none */
  uint32_t weights, biases;          /* how many */
  uint32_t in, out;                  /* numbers of an example's input and output */
  uint32_t in_at, in_step;           /* in_at = EZO_NONE: the batch itself */
  uint32_t out_at, out_step;         /* out_step = 0: one example's place, for all in turn */
  uint32_t err_at;                   /* errors of the output; EZO_NONE where BP does not come */
  uint16_t channels, height, width;  /* of the input; of a linear layer, channels alone */
  uint16_t outputs, kernel, padding;
  int16_t level;                     /* exponent of the outputs, as Python last saw it: a guess */
  int8_t weight_e, bias_e;
  uint8_t relu, pool;                /* 0 or 1; the maximum's size, 1 for none */
  uint8_t windowed;                  /* outputs wait as EZO_WINDOW until the batch's shift is known */
};

enum { EZO_SIGN, EZO_ABSOLUTE };              /* magnitude */
enum { EZO_PLUS, EZO_MINUS, EZO_UNPERTURBED }; /* where the BP gradient is taken */

typedef struct {
  const ezo_layer *layers;
  const int8_t *weights;   /* at first, all; those of frozen layers are read from here */
  const uint8_t *fraction; /* at first, of the trained; NULL: all 128 */
  uint64_t seed;
  uint32_t steps;             /* made before the export */
  uint32_t identity;          /* CRC of all that a saved state must agree on */
  uint32_t frozen, trained;   /* weights; the frozen come first */
  uint32_t arena_bytes, weights_at, fraction_at; /* fraction_at = EZO_NONE: none */
  uint32_t input_at, logits_at, moves_at, scratch_at;
  uint32_t batch, classes, queries;
  uint32_t threshold, multiplier;      /* of the noise */
  uint32_t largest_difference;         /* a mean difference's bound, 2^-10 bit */
  int32_t input_e, bound;              /* the input's exponent; ZO weights stay within +-bound */
  uint16_t layer_count, first_trained; /* frozen layers, ... */
  uint16_t zo_end, first_bp;           /* ... ZO layers from first_trained to zo_end, BP layers */
  uint8_t magnitude, gradient;
} ezo_model;

/* Where a batch comes from. Within a step, the same number means the same example. */
typedef struct {
  const int8_t *(*example)(void *context, uint32_t j); /* read until the next call */
  uint32_t (*label)(void *context, uint32_t j);
  void (*yield)(void *context); /* called every some thousand instructions; NULL for none */
  void *context;
} ezo_source;

/* Status of a call; 0 is success. */
enum { EZO_OK, EZO_SMALL_ARENA, EZO_FULL, EZO_IO, EZO_FOREIGN, EZO_DAMAGED };

/* The state, at the arena's start; `ezo_model.h` has a type for both. */
struct ezo {
  const ezo_model *model;
  int64_t loss;       /* of the last step at theta + z (or theta), summed, in 2^-20 bit */
  uint32_t steps;     /* of the noise */
  uint32_t repeated;  /* layers of a batch computed again so far, for a shift was wrong */
  int32_t logits_e;   /* exponent of the last pass's logits */
};

/* Bytes at the arena's start, on any processor: `ezo`, then 8 a layer (`ezo_scale`). */
#define EZO_STATE_BYTES 48

/* The model at its first weights, in an arena of `bytes`, aligned as an int64. */
int ezo_init(ezo *e, const ezo_model *model, uint32_t bytes);

/* One step on a batch.
 *
 * rate: of ZO, 2^-16 of a weight's last place (for EZO_ABSOLUTE a bit of loss difference).
 * mu: bits of the largest BP update. */
int ezo_step(ezo *e, const ezo_source *source, uint32_t rate, int32_t mu);

/* The class of one example; `logits`, if not NULL, is where its sums stand until the next call. */
uint32_t ezo_predict(ezo *e, const int8_t *x, const int32_t **logits);

/* The trained weights, their fractions and the number of steps, as one piece of bytes.
 *
 * write: takes the next n bytes; read: gives n bytes from place `at`. Both return 0 for success.
 * A state that does not fit, or is damaged, is refused before anything changes. */
int ezo_save(const ezo *e, int (*write)(void *context, const void *bytes, uint32_t n),
             void *context);
int ezo_load(ezo *e, int (*read)(void *context, uint32_t at, void *bytes, uint32_t n),
             void *context);

/* CRC-32 (IEEE) of the trained weights, then their fractions. */
uint32_t ezo_digest(const ezo *e);

#ifdef __cplusplus
}
#endif
#endif
