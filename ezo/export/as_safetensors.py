"""A trained integer network as safetensors: int8 mantissas, and their exponents in the header.

The file's tensors are ``0.weight``, ``0.bias``, ``1.weight``, ...: int8. Its metadata has an entry
``ezo`` in JSON: ``format`` (1), ``input_exponent``, and ``layers``, an object for each layer
(`ezo.export.describe.Stage` without its weights). A weight's value is m 2^E with E in
``weight_exponent``, a bias's in ``bias_exponent``. Sums become int8 by `ezo.int8.tensor.rescale`.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ezo import checkpoint
from ezo.export.as_onnx import _shaped
from ezo.export.describe import describe
from ezo.int8 import Int8Tensor
from ezo.int8.network import Network


def write(network: Network, x: Int8Tensor, path: Path) -> None:
    """Write the network; ``x``: an example or more, for its shape and exponent."""
    from safetensors.torch import save_file

    stages = describe(network, None, x).stages
    tensors = {}
    for i, stage in enumerate(stages):
        if stage.weight is not None:
            tensors[f"{i}.weight"] = torch.from_numpy(_shaped(stage).copy())
        if stage.bias is not None:
            tensors[f"{i}.bias"] = torch.from_numpy(stage.bias)
    layers = [
        {k: v for k, v in asdict(s).items() if k not in ("weight", "bias", "name")} for s in stages
    ]
    text = json.dumps({"format": 1, "input_exponent": x.e, "layers": layers})
    save_file(tensors, path, metadata={"ezo": text})


def read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """(the header's object, the tensors by name).

    Raises:
        ValueError: it is no file that `write` wrote, or damaged.
        OSError: it can't be read.
    """
    with checkpoint.reading(path, "an exported network", "export it again"):
        metadata, tensors = checkpoint.opened(path)
        header = json.loads(metadata["ezo"])
        if header["format"] != 1 or type(header["input_exponent"]) is not int:
            raise ValueError(f"format {header['format']!r:.40}")
        for i, layer in enumerate(header["layers"]):
            if (f"{i}.weight" in tensors) != (layer["kind"] != "MaxPool2d"):
                raise ValueError(f"the weight of layer {i}")
        return header, tensors
