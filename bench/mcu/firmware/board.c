/* On a board under QEMU: the self-test, STEPS steps on examples in flash, and what came out. */
#include "ezo_inside.h"
#include "ezo_model.h"
#include "pool.h" /* POOL, STEPS, EVERY, pool_x, pool_y */

uint32_t drive(ezo_arena *arena, const int8_t *x, const uint8_t *y, uint32_t pool, uint32_t steps,
               uint32_t rate, int32_t mu, uint32_t fresh, int64_t *losses);
extern uint32_t stack_low[], stack_top[];
void print(const char *text); /* start.c */

#define FILL 0xA5A5A5A5u /* start.c's */
static ezo_arena arena;

static void print_word(const char *name, uint32_t word) {
  char text[12] = " 00000000\n";
  for (int k = 0; k < 8; ++k) text[1 + k] = "0123456789abcdef"[word >> (28 - 4 * k) & 15];
  print(name);
  print(text);
}

int main(void) {
  const int differs = ezo_check(&arena);
  if (differs) return differs;
  for (uint32_t step = 0; step < STEPS; step += EVERY)
    print_word("digest",
               drive(&arena, pool_x, pool_y, POOL, EVERY, EZO_RATE, EZO_MU, step == 0, NULL));
  const uint32_t *low = stack_low;
  while (*low == FILL) ++low;
  print_word("stack", (uint32_t)((const uint8_t *)stack_top - (const uint8_t *)low));
  return 0;
}
