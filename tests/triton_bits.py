"""Triton's kernels in its interpreter, held to what else serves: run with TRITON_INTERPRET=1."""

import itertools
import sys

import torch

from ezo import kernels, noise
from ezo.int8 import perturb as integers
from ezo.perturb import Sweeper

PLACE = (0xFEDCBA9876543210, 12, 3)
EPS, RATE, DECAY = 1e-3, 3.7e-4, 1e-2
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
SIZES = (1300, 0, 1, 6, 9000)


def weights(*shape, dtype=torch.float32, seed=0):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (x * 0.5).to(dtype)


def both(make, sweep):
    """Both backends' tensors after a sweep."""
    found = []
    for backend in ("triton", ""):
        tensors = make()
        with kernels.using(backend) if backend else torch.no_grad():
            sweep(tensors)
        found.append(tensors)
    return found


def assert_equal(found, wanted, name):
    for a, b in zip(found, wanted, strict=True):
        kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
        kind = kinds[a.element_size()]
        differ = a.contiguous().view(kind) != b.contiguous().view(kind)
        assert not differ.any(), f"{name}: {int(differ.sum())} of {a.numel()} differ"


def number(x, where):
    return torch.tensor(x, dtype=torch.float64) if where else x


def sweep(kind, name, on_device=False):
    eps, rate, decay = (number(x, on_device) for x in (EPS, RATE, DECAY))
    place = (PLACE[0], torch.tensor(PLACE[1]) if on_device else PLACE[1], PLACE[2])

    def run(tensors):
        sweeper = Sweeper(tensors, noise=kind, first_tensor=4)
        if name == "fill":
            sweeper.fill(place)
        elif name == "shift":
            sweeper.shift(place, eps, -2.0)
        elif name == "learn":
            sweeper.learn(place, rate, decay)
        else:
            sweeper.update(place, eps, rate, decay, name == "restore")

    return run


def floats():
    for kind, dtype in itertools.product(noise.NOISES, FLOATS):
        coarse = dtype in (torch.float16, torch.bfloat16)
        some = ["fill", "shift", "restore", "update", *["learn"] * coarse]
        if kind != "gaussian":  # in one type each: a type's part in a sweep is not its noise's
            some = {torch.float32: ["shift"], torch.bfloat16: ["learn"]}.get(dtype, [])
        for name in some:

            def make(dtype=dtype):
                plain = [weights(n, dtype=dtype, seed=n) for n in SIZES]
                return [*plain, weights(7, 40, dtype=dtype).t(), weights(3, 5, 4, dtype=dtype)[1:]]

            assert_equal(*both(make, sweep(kind, name)), f"{kind} {name} {dtype}")


def numbers_on_a_device():
    for name, dtype in (("restore", torch.float32), ("learn", torch.bfloat16)):
        found, wanted = both(lambda d=dtype: [weights(600, dtype=d)], sweep("gaussian", name, True))
        assert_equal(found, wanted, name)
        plain, _ = both(lambda d=dtype: [weights(600, dtype=d)], sweep("gaussian", name))
        assert_equal(found, plain, name)


def perturbed():
    theta = [weights(700, dtype=torch.bfloat16), weights(30, dtype=torch.bfloat16, seed=1)]

    def run(results):
        numbered = list(enumerate(theta, 2))
        kernels.perturbed(numbered, results, "gaussian", PLACE, (EPS, -1.0))

    assert_equal(*both(lambda: [torch.empty_like(x) for x in theta], run), "perturbed")


def sparse():
    for fine, moves in ((False, False), (False, True), (True, True)):
        drawn = integers.SparseNoise(15, 0.5)

        def make():
            g = torch.Generator().manual_seed(3)
            sizes = (1, 700, 5000)
            theta = [torch.randint(-112, 113, (n,), generator=g).char() for n in sizes]
            return theta + [torch.randint(0, 256, (n,), generator=g).byte() for n in sizes]

        def run(tensors, fine=fine, moves=moves, drawn=drawn):
            theta, fractions = tensors[:3], tensors[3:] if fine else None
            integers.shift_(theta, drawn, PLACE, 1, 5)
            if moves:
                integers.update_(theta, drawn, PLACE, (-1, 20_000, -1), fractions, 5)

        assert_equal(*both(make, run), f"sparse, fine {fine}, moves {moves}")


if __name__ == "__main__":
    for check in (perturbed, sparse, numbers_on_a_device, floats):
        check()
        print(check.__name__, "equal", file=sys.stderr)
