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
    stages, graph = describe(network, None, x).stages, _Graph(onnx)
    levels = [x.e, *exponents(network, x)]  # of each stage's input, and the logits'
    at = graph.through_int8("input", "x", x.e)
    for i, stage in enumerate(stages):
        at = graph.stage(
            f"layer{i}", at, stage, levels[i], i > 0 and len(stages[i - 1].outputs) > 1
        )
        if i < len(stages) - 1:
            at = graph.through_int8(at, f"layer{i}_out", levels[i + 1])
    graph.node("Identity", [at], "logits")
    model = graph.model(stages[0].inputs, stages[-1].outputs)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


class _Graph:
    """Nodes and constants of an ONNX graph, as they are added."""

    def __init__(self, onnx: Any) -> None:
        self._onnx = onnx
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        made = self._onnx.helper.make_node(kind, inputs, [output], **attributes)
        self._nodes.append(made)
        return output

    def stage(self, name: str, at: str, stage: Stage, e: int, image: bool) -> str:
        """A layer, with its ReLU and maximum, in float; e: its input's exponent."""
        if stage.kind == "Linear" and image:
            at = self.node("Flatten", [at], f"{name}_flat")
        if stage.weight is not None:
            e += stage.weight_exponent
            weight = self._dequantized(f"{name}_weight", _shaped(stage), stage.weight_exponent)
            inputs = [at, weight]
            if stage.bias is not None:
                sums = aligned(torch.from_numpy(stage.bias), stage.bias_exponent - e).numpy()
                inputs.append(self._dequantized(f"{name}_bias", sums, e))
            if stage.kind == "Linear":
                at = self.node("Gemm", inputs, f"{name}_sums", transB=1)
            else:
                at = self.node("Conv", inputs, f"{name}_sums", pads=[stage.padding] * 4)
        if stage.relu:
            at = self.node("Relu", [at], f"{name}_relu")
        if stage.pool > 1:
            size = [stage.pool] * 2
            at = self.node("MaxPool", [at], f"{name}_pool", kernel_shape=size, strides=size)
        return at

    def through_int8(self, given: str, name: str, e: int) -> str:
        """Rounded to int8 with exponent e, and back to float."""
        scale = self._constant(f"{name}_scale", np.float32(2.0**e))
        zero = self._constant(f"{name}_zero", np.int8(0))
        q = self.node("QuantizeLinear", [given, scale, zero], f"{name}_int8")
        return self.node("DequantizeLinear", [q, scale, zero], name)

    def model(self, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> Any:
        helper, float32 = self._onnx.helper, self._onnx.TensorProto.FLOAT
        graph = helper.make_graph(
            self._nodes,
            "ezo",
            [helper.make_tensor_value_info("input", float32, ["N", *inputs])],
            [helper.make_tensor_value_info("logits", float32, ["N", *outputs])],
            self._constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
        model.ir_version = 8  # of that opset's time, so that older runtimes read it
        return model

    def _constant(self, name: str, value: Any) -> str:
        self._constants.append(self._onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    def _dequantized(self, name: str, value: Any, e: int) -> str:
        scale = self._constant(f"{name}_scale", np.float32(2.0**e))
        zero = self._constant(f"{name}_zero", np.zeros((), value.dtype))
        given = [self._constant(name, value), scale, zero]
        return self.node("DequantizeLinear", given, f"{name}_float")


def _shaped(stage: Stage) -> Any:
    """The weight, (O, I) or (O, C, K, K)."""
    assert stage.weight is not None
    if stage.kind == "Linear":
        return stage.weight.reshape(stage.outputs[0], -1)
    return stage.weight.reshape(stage.outputs[0], stage.inputs[0], stage.kernel, stage.kernel)


def session(path: Path) -> Any:
    """An onnxruntime session of a network, on the CPU, that adds products up without loss.

    On x86 processors without VNNI, onnxruntime by default adds the products of two int8 in 16 bits,
    which saturate where weights are large; its option ``session.x64quantprecision`` forbids it.

    Raises:
        ModuleNotFoundError: there is no ``onnxruntime``.
    """
    onnxruntime: Any = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@torch.no_grad()
def agreement(network: Network, x: Int8Tensor, path: Path) -> float:
    """The share of examples to which onnxruntime gives the class that the network does."""
    runtime = session(path)
    same = 0
    for first in range(0, len(x.m), LARGEST_BATCH):
        part = Int8Tensor(x.m[first : first + LARGEST_BATCH], x.e)
        theirs = runtime.run(None, {"input": part.to_float().numpy()})[0].argmax(1)
        ours: Tensor = network(part).m.argmax(1)
        same += int((ours.numpy() == theirs).sum())
    return same / len(x.m)
