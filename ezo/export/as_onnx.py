"""A trained integer network as ONNX, with QuantizeLinear and DequantizeLinear (QDQ).

Inference runtimes take such a file. It has one static scale a tensor, where training finds each
shift from the whole batch: the scales are those of the calibration examples. So classes may differ
from Python's for a few examples in a thousand; ``agreement`` counts.
"""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ezo.export.describe import Stage, describe, exponents
from ezo.int8 import Int8Tensor
from ezo.int8.network import Network
from ezo.int8.ops import aligned

OPSET = 17
LARGEST_BATCH = 256  # of the examples that calibrate and that are compared


def write(network: Network, x: Int8Tensor, path: Path) -> None:
    """Write the network.

    Args:
        network: of `ezo.int8.from_float`, trained or not.
        x: examples that calibrate the scales, some hundred, (n, ...).
        path: of the file. Its input is float32, (N, ...), values m 2^E of ``x``; its output the
            logits, float32, (N, classes).

    Raises:
        ModuleNotFoundError: there is no ``onnx``.
    """
    onnx: Any = importlib.import_module("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    nodes: list[Any] = []
    constants: list[Any] = []

    def constant(name: str, value: Any) -> str:
        constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def dequantized(name: str, value: Any, e: int) -> str:
        scale = constant(f"{name}_scale", np.float32(2.0**e))
        zero = constant(f"{name}_zero", np.zeros((), value.dtype))
        return node("DequantizeLinear", [constant(name, value), scale, zero], f"{name}_float")

    def through_int8(given: str, name: str, e: int) -> str:
        scale = constant(f"{name}_scale", np.float32(2.0**e))
        zero = constant(f"{name}_zero", np.int8(0))
        q = node("QuantizeLinear", [given, scale, zero], f"{name}_int8")
        return node("DequantizeLinear", [q, scale, zero], name)

    stages, e = describe(network, None, x).stages, x.e
    at = through_int8("input", "x", e)
    after = exponents(network, x)
    for i, stage in enumerate(stages):
        name, last = f"layer{i}", i == len(stages) - 1
        if stage.kind == "Linear" and i and len(stages[i - 1].outputs) > 1:
            at = node("Flatten", [at], f"{name}_flat")
        if stage.weight is not None:
            e += stage.weight_exponent
            weight = dequantized(f"{name}_weight", _shaped(stage), stage.weight_exponent)
            inputs = [at, weight]
            if stage.bias is not None:
                sums = aligned(torch.from_numpy(stage.bias), stage.bias_exponent - e).numpy()
                inputs.append(dequantized(f"{name}_bias", sums, e))
            if stage.kind == "Linear":
                at = node("Gemm", inputs, f"{name}_sums", transB=1)
            else:
                at = node("Conv", inputs, f"{name}_sums", pads=[stage.padding] * 4)
        if stage.relu:
            at = node("Relu", [at], f"{name}_relu")
        if stage.pool > 1:
            size = [stage.pool] * 2
            at = node("MaxPool", [at], f"{name}_pool", kernel_shape=size, strides=size)
        if not last:
            e = after[i]
            at = through_int8(at, f"{name}_out", e)
    node("Identity", [at], "logits")
    float32 = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "ezo",
        [helper.make_tensor_value_info("input", float32, ["N", *stages[0].inputs])],
        [helper.make_tensor_value_info("logits", float32, ["N", *stages[-1].outputs])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = 8  # of that opset's time, so that older runtimes read it
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _shaped(stage: Stage) -> Any:
    """The weight, (O, I) or (O, C, K, K)."""
    assert stage.weight is not None
    if stage.kind == "Linear":
        return stage.weight.reshape(stage.outputs[0], -1)
    return stage.weight.reshape(stage.outputs[0], stage.inputs[0], stage.kernel, stage.kernel)


@torch.no_grad()
def agreement(network: Network, x: Int8Tensor, path: Path) -> float:
    """The share of examples to which onnxruntime gives the class that the network does."""
    onnxruntime: Any = importlib.import_module("onnxruntime")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    same = 0
    for first in range(0, len(x.m), LARGEST_BATCH):
        part = Int8Tensor(x.m[first : first + LARGEST_BATCH], x.e)
        theirs = session.run(None, {"input": part.to_float().numpy()})[0].argmax(1)
        ours: Tensor = network(part).m.argmax(1)
        same += int((ours.numpy() == theirs).sum())
    return same / len(x.m)
