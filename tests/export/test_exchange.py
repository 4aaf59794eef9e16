"""Trained networks as ONNX, which onnxruntime runs, and as safetensors."""

import numpy as np
import pytest
import torch
from torch import nn

from ezo.data import digits
from ezo.export import as_onnx, as_safetensors
from ezo.export.describe import describe, exponents
from ezo.int8 import ElasticZO, Int8Tensor, Loss, from_float, quantize
from ezo.models import lenet5
from tests.export.networks import MODELS, data, make


def test_onnxruntime_gives_the_same_classes(tmp_path):
    images = digits.load("digits", None)
    x = quantize(images.train_x)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = from_float(lenet5.build("lenet5"))
    optimizer = ElasticZO(network, "all", mu=3, fraction=True)
    for step in range(80):
        part = slice(step % 20 * 32, step % 20 * 32 + 32)
        given, labels = Int8Tensor(x.m[part], x.e), images.train_y[part]
        optimizer.step(lambda given=given, labels=labels: Loss(network(given), labels))
    path = tmp_path / "lenet5.onnx"
    as_onnx.write(network, Int8Tensor(x.m[:256], x.e), path)
    assert as_onnx.agreement(network, Int8Tensor(x.m[:1000], x.e), path) >= 0.99


@pytest.mark.parametrize("name", MODELS)
def test_onnx_has_the_networks_logits_but_for_rounding(name, tmp_path):
    network, _ = make(name, 0)
    x, _ = data(name)
    path = tmp_path / "network.onnx"
    as_onnx.write(network, x, path)
    theirs = as_onnx.session(path).run(None, {"input": x.to_float().numpy()})[0]
    with torch.no_grad():
        ours = network(x).to_float().numpy()
    assert np.abs(theirs - ours).max() <= 0.05 * np.abs(ours).max()


def test_onnxruntime_adds_up_large_products_without_loss(tmp_path):
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4))
    for p in model.parameters():  # each sum of two products is beyond 16 bits
        nn.init.constant_(p, 1.0)
    network, x = from_float(model), quantize(torch.ones(2, 64))
    as_onnx.write(network, x, tmp_path / "large.onnx")
    theirs = as_onnx.session(tmp_path / "large.onnx").run(None, {"input": x.to_float().numpy()})[0]
    with torch.no_grad():
        np.testing.assert_allclose(theirs, network(x).to_float().numpy(), rtol=0.02)


@pytest.mark.parametrize("name", MODELS)
def test_exponents_are_those_of_each_stage(name):
    network, _ = make(name, 0)
    x, _ = data(name)
    found = exponents(network, x)
    stages = describe(network, None, x).stages
    assert len(found) == len(stages)
    with torch.no_grad():
        assert found[-1] == network(x).e


def test_safetensors_hold_mantissas_and_exponents(tmp_path):
    network, _ = make("cnn", 0)
    x, _ = data("cnn")
    path = tmp_path / "network.safetensors"
    as_safetensors.write(network, x, path)
    header, tensors = as_safetensors.read(path)
    assert header["input_exponent"] == x.e
    layers = [layer for layer in network.layers if hasattr(layer, "weight_exponent")]
    assert len(header["layers"]) == len(layers) == len({n.split(".")[0] for n in tensors})
    for i, layer in enumerate(layers):
        assert torch.equal(tensors[f"{i}.weight"], layer.weight)
        assert torch.equal(tensors[f"{i}.bias"], layer.bias)
        assert header["layers"][i]["weight_exponent"] == layer.weight_exponent
