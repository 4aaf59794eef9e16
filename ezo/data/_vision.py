"""Import torchvision, also where its compiled part does not fit the installed torch."""

import functools
import sys
from types import ModuleType

import torch

from ezo.data._files import extra


def import_torchvision() -> ModuleType:
    """The module ``torchvision``, whole or without its compiled operators.

    A wheel of torchvision that was built for another torch (for CUDA's, say) can't load its
    compiled operators, and fails on import where it describes ``nms`` and ``qnms``. Data sets,
    transforms and models need neither: the two are declared, without code, and it is done again.

    Raises:
        ModuleNotFoundError: torchvision is not installed.
    """
    try:
        return _import()
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
    _declare()
    return _import()


def _import() -> ModuleType:
    # Parts that a failed import left behind, ours or another's, would be taken for imported.
    if "torchvision" not in sys.modules:
        for name in [name for name in sys.modules if name.startswith("torchvision.")]:
            del sys.modules[name]
    return extra("torchvision")


@functools.cache  # keeps the library, and with it the declarations, alive
def _declare() -> torch.library.Library:
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
