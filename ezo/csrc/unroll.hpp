// EZO_UNROLL before a short loop over registers: left to itself, GCC keeps an array of more than
// eight of them in memory.
#pragma once

#if defined(__clang__)
#define EZO_UNROLL _Pragma("unroll")
#else
#define EZO_UNROLL _Pragma("GCC unroll 16")
#endif
