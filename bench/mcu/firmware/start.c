/* A board under QEMU: from its start to `main`, and out of QEMU with what `main` returned. `print`
 * is for `main`, too. The RAM that the stack did not use keeps FILL. */
#include <stdint.h>

void print(const char *text);
extern uint32_t stack_low[], stack_filled[], stack_top[], data_start[], data_end[], data_from[], bss_start[],
    bss_end[];
int main(void);

#define FILL 0xA5A5A5A5u

#if defined(__arm__)
static int semihosting(int what, const void *with) {
  register int r0 __asm__("r0") = what;
  register const void *r1 __asm__("r1") = with;
  __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}
void print(const char *text) { semihosting(4, text); }
static void leave(int code) {
  const uint32_t block[2] = {0x20026, (uint32_t)code};
  semihosting(0x20, block);
  for (;;) {
  }
}
#else /* QEMU's rv32 "virt": a UART, and a device that ends it */
void print(const char *text) {
  for (; *text; ++text) *(volatile uint8_t *)0x10000000 = (uint8_t)*text;
}
static void leave(int code) {
  *(volatile uint32_t *)0x100000 = code ? (uint32_t)code << 16 | 0x3333 : 0x5555;
  for (;;) {
  }
}
#endif

__attribute__((noreturn, used)) static void begin(void) {
  for (uint32_t *to = data_start, *from = data_from; to < data_end;) *to++ = *from++;
  for (uint32_t *to = bss_start; to < bss_end;) *to++ = 0;
  for (volatile uint32_t *to = stack_low; to < stack_filled; ++to) *to = FILL;
  leave(main());
  for (;;) {
  }
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
