"""The checks of node perturbation: ours conforms, and each check catches its mistake."""

import pytest
import torch

from ezo import ElasticZO, Nodes, node_conformance
from ezo.noise import NOISES

CAUGHT = {
    "uphill": {"node_noise", "node_gradient"},
    "half sigma": {"node_noise"},
    "one noise for all examples": {"node_independence"},
    "one noise for all layers": {"node_independence"},
    "one noise for all steps": {"node_independence", "node_gradient"},
    "other noise": {"node_noise", "node_gradient"},
    "one-sided": {"node_symmetry"},
    "seed ignored": {"node_replay"},
    "draws from torch": {"node_replay"},
}


@pytest.mark.parametrize("noise", NOISES)
def test_elastic_zo_conforms(noise):
    def make_step(model, lr, sigma, seed):
        nodes = Nodes(lr, sigma, clip=None)
        return ElasticZO(model, 0, nodes=nodes, noise=noise, seed=seed).step

    node_conformance.assert_conforms(make_step)


def plain(mistake):
    """A step of node perturbation, written out, with one mistake."""

    def make_step(model, lr, sigma, seed):
        count, sides, kept = 0, [0.0], []
        noise = {}

        def hook(number):
            def add(module, inputs, y):
                kept.append(inputs[0])
                return y + sides[0] * sigma * noise[number]

            return add

        for number, layer in enumerate(model.layers):
            layer.register_forward_hook(hook(number))

        def drawn(step):
            place = 0 if mistake == "seed ignored" else seed
            step = 0 if mistake == "one noise for all steps" else step
            generator = torch.Generator().manual_seed(1000 * place + step)
            if mistake == "draws from torch":
                generator = None
            for number, layer in enumerate(model.layers):
                n, units = len(model.inputs[0]), layer.out_features
                z = torch.randn(n, units, generator=generator)
                if mistake == "one noise for all examples":
                    z = z[:1].expand(n, -1)
                if mistake == "one noise for all layers" and number:
                    z = noise[0]
                noise[number] = z

        @torch.no_grad()
        def step(closure):
            nonlocal count
            drawn(count)
            losses = []
            for sides[0] in (1.0, 0.0 if mistake == "one-sided" else -1.0):
                kept.clear()
                losses.append(closure())
            sides[0] = 0.0
            span = (2.0 if mistake != "half sigma" else 1.0) * sigma
            g = (losses[0] - losses[1]) / (span / 2 if mistake == "one-sided" else span)
            if mistake == "other noise":
                drawn(count + 500)
            for number, layer in enumerate(model.layers):
                e = (g[:, None] * noise[number]).float() / len(g)
                sign = -1 if mistake == "uphill" else 1
                layer.weight.sub_(sign * lr * e.T @ kept[number])
                layer.bias.sub_(sign * lr * e.sum(0))
            count += 1

        return step

    return make_step


def test_plain_step_conforms():
    node_conformance.assert_conforms(plain(""))


@pytest.mark.parametrize("mistake", CAUGHT)
def test_mistake_is_caught(mistake):
    failed = {found.check for found in node_conformance.run(plain(mistake)) if not found.passed}
    assert CAUGHT[mistake] <= failed
    with pytest.raises(AssertionError, match="does not conform:\n"):
        node_conformance.assert_conforms(plain(mistake))
