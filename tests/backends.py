"""The backends that tests hold against each other, by one name each."""

import contextlib

from ezo import kernels
from ezo.kernels import compiled

ISAS = compiled.instruction_sets()
PATHS = ["reference", *ISAS]


def on(path):
    """Within, the backend of a name of `PATHS`; of an empty one, what serves by itself."""
    if not path:
        return contextlib.nullcontext()
    return kernels.using(path) if path == "reference" else kernels.using("compiled", isa=path)
