/* A board under QEMU: start, the self-test, STEPS steps on examples in flash, and what came out. */
#include "ezo_inside.h"
#include "ezo_model.h"
#include "pool.h" /* POOL, STEPS, EVERY, pool_x, pool_y */

uint32_t drive(ezo_arena *arena, const int8_t *x, const uint8_t *y, uint32_t pool, uint32_t steps,
               uint32_t rate, int32_t mu, uint32_t fresh, int64_t *losses);
extern uint32_t stack_low[], stack_filled[], stack_top[], data_start[], data_end[], data_from[], bss_start[],
    bss_end[];
int main(void);

#define FILL 0xA5A5A5A5u
static ezo_arena arena;

#if defined(__arm__)
static int semihosting(int what, const void *with) {
  register int r0 __asm__("r0") = what;
  register const void *r1 __asm__("r1") = with;
  __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}
static void print(const char *text) { semihosting(4, text); }
static void leave(int code) {
  const uint32_t block[2] = {0x20026, (uint32_t)code};
  semihosting(0x20, block);
  for (;;) {
  }
}
#else /* QEMU's rv32 "virt": a UART, and a device that ends it */
static void print(const char *text) {
  for (; *text; ++text) *(volatile uint8_t *)0x10000000 = (uint8_t)*text;
}
static void leave(int code) {
  *(volatile uint32_t *)0x100000 = code ? (uint32_t)code << 16 | 0x3333 : 0x5555;
  for (;;) {
  }
}
#endif

static void print_word(const char *name, uint32_t word) {
  char text[12] = " 00000000\n";
  for (int k = 0; k < 8; ++k) text[1 + k] = "0123456789abcdef"[word >> (28 - 4 * k) & 15];
  print(name);
  print(text);
}

__attribute__((noreturn, used)) static void begin(void) {
  for (uint32_t *to = data_start, *from = data_from; to < data_end;) *to++ = *from++;
  for (uint32_t *to = bss_start; to < bss_end;) *to++ = 0;
  for (volatile uint32_t *to = stack_low; to < stack_filled; ++to) *to = FILL;
  leave(main());
  for (;;) {
  }
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

#if defined(__arm__)
static void fault(void) {
  print("fault\n");
  leave(99);
}
__attribute__((section(".vectors"), used)) static void (*const vectors[16])(void) = {
    (void (*)(void))stack_top, begin, fault, fault, fault, fault, fault, fault,
    fault, fault, fault, fault, fault, fault, fault, fault};
#else
__attribute__((section(".vectors"), naked, used)) void enter(void) {
  __asm__ volatile("la sp, stack_top\n j begin");
}
#endif
