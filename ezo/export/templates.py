"""The text of what an export writes."""

from collections.abc import Iterable, Mapping
from typing import Any

from ezo.export.arena import STACK_BYTES, Arena
from ezo.export.describe import Problem

WRITTEN = "/* Written by `ezo export`. */\n"


def numbers(values: Iterable[int], indent: str = "    ") -> str:
    """C's rows of numbers."""
    rows, row = [], indent
    for value in values:
        text = f"{value}, "
        if len(row) + len(text) > 100:
            rows.append(row.rstrip())
            row = indent
        row += text
    return "\n".join([*rows, row.rstrip()])


def config(dsp: bool) -> str:
    return f"""{WRITTEN}#ifndef EZO_CONFIG_H
#define EZO_CONFIG_H
#ifndef EZO_DSP
#define EZO_DSP {int(dsp)} /* 1: the arena has room for two products an instruction (SMLAD) */
#endif
#endif
"""


def header(names: Mapping[str, int]) -> str:
    defines = "\n".join(f"#define EZO_{name} ({value})" for name, value in names.items())
    return f"""{WRITTEN}#ifndef EZO_MODEL_H
#define EZO_MODEL_H
#include "ezo.h"

#ifdef __cplusplus
extern "C" {{
#endif

/* Numbers of this network and its training; RATE and MU are those at the export. */
{defines}

/* All RAM that the network and a step need, but for the stack: see arena.txt. */
typedef union {{
  ezo state;
  int64_t aligned;
  uint8_t bytes[EZO_ARENA_BYTES];
}} ezo_arena;

extern const ezo_model ezo_net;

/* Trains a few steps on made-up examples and compares with what Python computed. The network then
 * stands as at first. Returns 0, or the number of what differed. */
int ezo_check(ezo_arena *arena);

#ifdef __cplusplus
}}
#endif
#endif
"""


def model(
    layers: list[dict[str, Any]],
    fields: Mapping[str, Any],
    weights: Any,
    fraction: Any | None,
) -> str:
    rows = "\n".join(
        "    {" + ", ".join(f".{name} = {value}" for name, value in row.items()) + "},"
        for row in layers
    )
    body = "\n".join(f"    .{name} = {value}," for name, value in fields.items())
    more = ""
    if fraction is not None:
        more = f"static const uint8_t fraction[{len(fraction)}] = {{\n{numbers(fraction)}\n}};\n\n"
    return f"""{WRITTEN}#include "ezo_model.h"

#include "ezo_inside.h"

/* The plan was made for exactly this. */
typedef char ezo_arena_is_as_planned[sizeof(ezo_arena) == EZO_ARENA_BYTES ? 1 : -1];

static const ezo_layer layers[{len(layers)}] = {{
{rows}
}};

static const int8_t weights[{len(weights)}] = {{
{numbers(weights)}
}};

{more}const ezo_model ezo_net = {{
{body}
}};
"""


def check(pool: list[int], digests: list[int], predicted: list[int], span: int) -> str:
    steps = len(digests)
    golden = (
        f"""static const uint32_t golden[{steps}] = {{{", ".join(f"{d}u" for d in digests)}}};
"""
        if digests
        else ""
    )
    loop = (
        f"""  const ezo_source source = {{example, label, NULL, &first}};
  for (uint32_t step = 0; step < {steps}; ++step, first += EZO_BATCH) {{
    ezo_step(e, &source, EZO_RATE, EZO_MU);
    if (ezo_digest(e) != golden[step]) return 2 + (int)step;
  }}
  ezo_init(e, &ezo_net, sizeof *arena);
"""
        if digests
        else ""
    )
    callbacks = (
        f"""static const int8_t *example(void *context, uint32_t j) {{
  return numbers + (*(const uint32_t *)context + j) * 37 % {span};
}}

static uint32_t label(void *context, uint32_t j) {{
  return (*(const uint32_t *)context + j) % EZO_CLASSES;
}}

"""
        if digests
        else ""
    )
    first = "  uint32_t first = 0;\n" if digests else ""
    return f"""{WRITTEN}#include "ezo_model.h"

/* Examples are windows of these. */
static const int8_t numbers[{len(pool)}] = {{
{numbers(pool)}
}};
{golden}static const uint8_t classes[{len(predicted)}] = {{{", ".join(map(str, predicted))}}};

{callbacks}int ezo_check(ezo_arena *arena) {{
  ezo *e = &arena->state;
{first}  if (ezo_init(e, &ezo_net, sizeof *arena)) return 1;
  for (uint32_t k = 0; k < {len(predicted)}; ++k)
    if (ezo_predict(e, numbers + k * 37 % {span}, NULL) != classes[k]) return 100 + (int)k;
{loop}  return 0;
}}
"""


def examples(x: list[int], y: list[int]) -> str:
    return f"""{WRITTEN}#ifndef EXAMPLES_H
#define EXAMPLES_H
#include <stdint.h>

#define MY_EXAMPLES {len(y)}u
static const int8_t my_data[{len(x)}] = {{
{numbers(x)}
}};
static const uint8_t my_labels[{len(y)}] = {{
{numbers(y)}
}};
#endif
"""


def arena_map(planned: Arena, problem: Problem) -> str:
    """Where every byte lies, and when it is alive."""
    way = planned.way
    lines = [
        f"{planned.total:,} bytes of RAM ({planned.total / 1024:.1f} KiB), and up to "
        f"{STACK_BYTES:,} of stack; {len(problem.weights):,} bytes of weights in flash",
        f"batch {planned.batch}, way {way.name}, about {planned.instructions / 1e6:.1f} million "
        "instructions a step on a Cortex-M4",
        "",
        "times: " + "; ".join(f"{t} {name}" for t, name in enumerate(planned.times)),
        "",
        f"{'from':>9} {'to':>9} {'bytes':>9}  {'times':<8} buffer",
    ]
    for buffer in sorted(planned.buffers, key=lambda b: planned.places[b.name]):
        at, size = planned.places[buffer.name], max(buffer.sizes)
        alive = [t for t, s in enumerate(buffer.sizes) if s]
        if alive:
            when = f"{alive[0]}-{alive[-1]}" if len(alive) > 1 else str(alive[0])
            lines.append(f"{at:>9,} {at + size:>9,} {size:>9,}  {when:<8} {buffer.name}")
    return "\n".join(lines) + "\n"


def projects(sources: list[str]) -> dict[str, str]:
    """Files of the field's build systems, and a main to begin with."""
    listed = "\n  ".join(f"src/{name}" for name in sources)
    return {
        "CMakeLists.txt": f"""# Plain CMake, ESP-IDF and Zephyr.
set(EZO_SOURCES
  {listed})
if(ESP_PLATFORM)
  idf_component_register(SRCS ${{EZO_SOURCES}} INCLUDE_DIRS src)
  return()
endif()
if(DEFINED ZEPHYR_BASE)
  zephyr_library_named(ezo)
  zephyr_library_sources(${{EZO_SOURCES}})
  zephyr_include_directories(src)
  return()
endif()
cmake_minimum_required(VERSION 3.13)
project(ezo_device C)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()
add_library(ezo STATIC ${{EZO_SOURCES}})
target_include_directories(ezo PUBLIC src)
set_target_properties(ezo PROPERTIES C_STANDARD 99)
add_executable(ezo_main main.c)
target_link_libraries(ezo_main ezo)
""",
        "library.properties": """name=ezo
version=0.1.0
author=the ezo authors
maintainer=the ezo authors
sentence=Trains a neural network on the board, in integers.
paragraph=ElasticZO-INT8: the first layers by two forward passes, the last by backpropagation.
category=Data Processing
url=https://arxiv.org/abs/2501.04287
architectures=*
includes=ezo_model.h
""",
        "zephyr/module.yml": "name: ezo\nbuild:\n  cmake: .\n",
        "idf_component.yml": 'version: "0.1.0"\ndescription: Trains a neural network on the '
        "device, in integers\n",
        "main.c": MAIN,
    }


MAIN = f"""{WRITTEN}#include "ezo_model.h"

/* Your examples: int8 with the exponent EZO_INPUT_EXPONENT. They may lie in flash, or be read into
 * a buffer here. Within a step, the same j must mean the same example. */
static const int8_t *example(void *context, uint32_t j) {{
  static int8_t x[EZO_INPUT_BYTES];
  (void)context;
  for (uint32_t i = 0; i < EZO_INPUT_BYTES; ++i) x[i] = (int8_t)((i * 7 + j * 13) % 255 - 127);
  return x;
}}

static uint32_t label(void *context, uint32_t j) {{
  (void)context;
  return j % EZO_CLASSES;
}}

static ezo_arena arena;

int main(void) {{
  ezo *e = &arena.state;
  const ezo_source source = {{example, label, NULL, NULL}};
  const int differs = ezo_check(&arena); /* the same bits as in Python? */
  if (differs) return differs;
  for (int step = 0; step < 2; ++step)
    if (ezo_step(e, &source, EZO_RATE, EZO_MU)) return 1;
  return ezo_predict(e, example(NULL, 0), NULL) < EZO_CLASSES ? 0 : 1;
}}
"""
