/* The largest of each block of an image (C, H, W), where no convolution stands right before it.
 *
 * layer: MaxPool2d
 * scratch: 0
 * instructions: 8 * in
 */
#include "ezo_inside.h"

static uint32_t max_pool2d_forward(const ezo_work *work, const int8_t *x, void *out, void *scratch) {
  const ezo_layer *l = work->layer;
  const uint32_t pool = l->pool, high = l->height / pool, wide = l->width / pool;
  (void)scratch;
  for (uint32_t c = 0; c < l->channels; ++c)
    for (uint32_t y = 0; y < high; ++y)
      for (uint32_t i = 0; i < wide; ++i) {
        int32_t best = INT32_MIN;
        for (uint32_t dy = 0; dy < pool; ++dy)
          for (uint32_t di = 0; di < pool; ++di) {
            const int32_t v = x[(c * l->height + y * pool + dy) * l->width + i * pool + di];
            if (v > best) best = v;
          }
        ezo_put(work, out, (c * high + y) * wide + i, best);
      }
  return 0; /* int8 as it came: no shift */
}

const ezo_kind ezo_MaxPool2d = {max_pool2d_forward, NULL, NULL};
