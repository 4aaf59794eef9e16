"""Integer layers a few examples at a time: the whole batch's bits, from any guess."""

from dataclasses import replace

import pytest
import torch

from bench.workload import Workload
from ezo import checkpoint, kernels
from ezo.int8 import from_float
from ezo.int8.tensor import quantize
from ezo.models.lenet5 import build as lenet5
from ezo.models.pointnet import build as pointnet

BUILD = {"lenet5": (lenet5, (7, 1, 28, 28)), "pointnet": (pointnet, (7, 33, 3))}


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("backend", ["reference", None])
@pytest.mark.parametrize("name", BUILD)
def test_logits_are_the_whole_batchs(name, backend, chunk):
    build, shape = BUILD[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network, x = from_float(build(name)), torch.randn(shape)
        x[3] *= 5  # one example that alone decides the shifts
    with torch.no_grad(), kernels.using(backend or kernels._automatic().backends[0]):
        wanted = network(quantize(x))
        shifts = [layer.shift for layer in network.weighted()[:-1]]
        for guess in (0, 3, 12):
            for layer in network.weighted():
                layer.shift = guess
            network.chunk = chunk
            found = network(quantize(x))
            assert torch.equal(found.m, wanted.m)
            assert found.e == wanted.e
            assert [layer.shift for layer in network.weighted()[:-1]] == shifts
        network.chunk = 0
        network.calibrate(quantize(x)).eval()
        alone = network(quantize(x)).m
        network.chunk = chunk
        assert torch.equal(network(quantize(x)).m, alone)


@pytest.mark.parametrize("method", ["full-zo", "elastic-1", "elastic-2", "elastic-4", "full-bp"])
@pytest.mark.parametrize("model", BUILD)
def test_steps_come_to_the_whole_batchs_weights(model, method):
    case = Workload(model, method, 6, points=20, precision="int8")
    digests = []
    for one in (case, replace(case, chunk=2)):
        found, step = one.prepare()
        losses = [step() for _ in range(3)]
        digests.append((losses, checkpoint.digest(found.state_dict())))
    assert digests[0] == digests[1]
