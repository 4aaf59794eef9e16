/* The two functions of a C library that the runtime asks for, where no library is linked. */
#include <stddef.h>

__attribute__((weak)) void *memcpy(void *to, const void *from, size_t n) {
  unsigned char *t = to;
  const unsigned char *f = from;
  while (n--) *t++ = *f++;
  return to;
}

__attribute__((weak)) void *memset(void *to, int value, size_t n) {
  unsigned char *t = to;
  while (n--) *t++ = (unsigned char)value;
  return to;
}
