/* What the exporter chose for the whole runtime; it writes this file anew. */
#ifndef EZO_CONFIG_H
#define EZO_CONFIG_H

/* 1: where the processor can, two products an instruction (SMLAD); the arena has room for it. */
#ifndef EZO_DSP
#define EZO_DSP 1
#endif

#endif
