"""The noise stream: Random123's vectors, an oracle, statistics, and digests that hold it still."""

import hashlib
import itertools
import math

import numpy as np
import pytest
import torch
from oracles import philox

from ezo import noise

VECTORS = [  # Random123, kat_vectors, philox 4x32 10: counter, key, words
    ("00000000 00000000 00000000 00000000", "00000000 00000000",
     "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
     "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
     "d16cfe09 94fdcceb 5001e420 24126ea1"),
]  # fmt: skip

DIGESTS = {  # sha256 of the first 4096 numbers, little-endian float32
    "gaussian": "ad3512ae9d93583e6322f43d0d1747ff5176eb58d320a04fbb4ba15467e66d87",
    "rademacher": "055f47722b264e6ece190cd1a449e8b3721df0c8d89e3cb290965e5582f032b5",
    "uniform": "8dfaad9106d89a5742a77969209c3ed1b6ce5d6c1cdf72f476146ace0eaa6dc2",
    "gaussian-16": "87ed7c41596a09e9973c776ef44a786924b637646c2345ca2b9d1acb5dc4d378",
    "rademacher-1": "d6ea4d7d0c50564daa7da210fd4286ddb19ab5acc8736a2e1d3317b654a9bb2c",
}
PLACE = {"seed": 0x0123456789ABCDEF, "step": 17, "tensor": 5, "stream": 2}


def _hex(text):
    return tuple(int(word, 16) for word in text.split())


@pytest.mark.parametrize(("counter", "key", "expected"), VECTORS)
def test_oracle_gives_the_known_answers(counter, key, expected):
    assert philox.philox4x32_10(_hex(counter), _hex(key)) == _hex(expected)


@pytest.mark.parametrize(("counter", "key", "expected"), VECTORS)
def test_words_give_the_known_answers_where_the_mapping_says(counter, key, expected):
    (c0, tensor, step, stream), (low, high) = _hex(counter), _hex(key)
    group, lane = divmod(c0, 64)
    w = noise.words(low | high << 32, step, tensor, stream, group, group + 1, "cpu")
    assert tuple(w[0, :, lane].tolist()) == _hex(expected)


def test_words_have_every_counter_of_a_group():
    w = noise.words(**PLACE, first=3, last=5, device="cpu")
    key = (PLACE["seed"] % 2**32, PLACE["seed"] >> 32)
    for group, lane in itertools.product((3, 4), range(64)):
        counter = (64 * group + lane, PLACE["tensor"], PLACE["step"], PLACE["stream"])
        assert tuple(w[group - 3, :, lane].tolist()) == philox.philox4x32_10(counter, key)


@pytest.mark.parametrize("kind", noise.NOISES)
def test_draw_agrees_with_the_oracle(kind):
    z = noise.draw(kind, **PLACE, first=0, last=16).double().numpy()
    expected = philox.draw(kind, **PLACE, size=4096)
    tolerance = {"gaussian": 6e-6, "uniform": 3e-7, "gaussian-16": 2e-6}.get(kind, 0.0)
    np.testing.assert_allclose(z, expected, rtol=0, atol=tolerance)


def test_extreme_words_give_finite_gaussians_within_the_stated_range():
    edge = torch.tensor([0, 1, 511, 512, 2**29 - 1, 2**29, 2**30, 2**31 - 1, 2**31, 2**32 - 1])
    radius, angle = (x.flatten() for x in torch.meshgrid(edge, edge, indexing="ij"))
    first, second = noise._box_muller(radius, angle)
    for r, a, x, y in zip(
        radius.tolist(), angle.tolist(), first.tolist(), second.tolist(), strict=True
    ):
        length = math.sqrt(-2 * math.log(philox.unit(r)))
        assert x == pytest.approx(length * math.cos(philox.angle(a)), abs=6e-6)
        assert y == pytest.approx(length * math.sin(philox.angle(a)), abs=6e-6)
    assert first.abs().max() <= math.sqrt(48 * math.log(2)) * (1 + 1e-6)


@pytest.mark.parametrize("kind", noise.NOISES)
def test_any_part_is_drawn_alone(kind):
    whole = noise.draw(kind, **PLACE, first=0, last=9)
    parts = [noise.draw(kind, **PLACE, first=a, last=b) for a, b in ((0, 1), (1, 4), (4, 9))]
    assert torch.equal(whole, torch.cat(parts))


def _sample(kind, groups=1024, **place):
    return noise.draw(kind, **{**PLACE, **place}, first=0, last=groups).double()


@pytest.mark.parametrize(("kind", "kurtosis", "sixth"), [
    ("gaussian", 3.0, 15.0), ("rademacher", 1.0, 1.0), ("uniform", 9 / 5, 27 / 7),
    ("gaussian-16", 2.8625, 12.0473), ("rademacher-1", 1.0, 1.0),
])  # fmt: skip
def test_moments(kind, kurtosis, sixth):
    z = _sample(kind)
    n = z.numel()
    for power, mean, square in ((1, 0, 1), (2, 1, kurtosis), (3, 0, sixth), (4, kurtosis, 105.0)):
        deviation = math.sqrt(max(square - mean**2, 0) / n)
        assert z.pow(power).mean().item() == pytest.approx(mean, abs=4 * deviation + 1e-6), power


@pytest.mark.parametrize("kind", ["gaussian", "uniform"])
def test_distribution_by_kolmogorov_smirnov(kind):
    z = _sample(kind).sort().values
    n = z.numel()
    below = torch.special.ndtr(z) if kind == "gaussian" else (z / math.sqrt(3) + 1) / 2
    rank = torch.arange(n, dtype=torch.float64) / n
    distance = max((below - rank).max().item(), (rank + 1 / n - below).max().item())
    assert distance * math.sqrt(n) < 1.95  # one sample in a thousand is farther off


@pytest.mark.parametrize("kind", ["rademacher", "rademacher-1"])
def test_rademacher_is_a_sign(kind):
    assert set(_sample(kind).tolist()) == {-1.0, 1.0}


def test_all_of_a_cheap_gaussian_s_numbers_are_as_the_docstring_says():
    """Each of the 65,536: symmetric, in order, of variance 1, and near to the normal quantiles."""
    z = noise._quantile(torch.arange(1 << 16)).double()
    assert torch.equal(z, -z.flip(0)) and (z.diff() > 0).all()
    assert z.square().mean().item() == pytest.approx(1, abs=1e-6)
    assert z.pow(4).mean().item() == pytest.approx(2.8625, abs=1e-4)
    assert z.max().item() == pytest.approx(2.64, abs=5e-3)
    below = (torch.arange(1 << 16, dtype=torch.float64) + 0.5) / (1 << 16)
    assert (torch.special.ndtr(z) - below).abs().max() < 0.009


@pytest.mark.parametrize("kind", noise.SHARED)
def test_a_word_s_parts_are_independent(kind):
    """All groups that one group of words serves, two at a time."""
    z = _sample(kind, 64 * noise.SHARED[kind]).view(64, noise.SHARED[kind], noise.GROUP)
    correlation = torch.corrcoef(z.transpose(0, 1).flatten(1))
    correlation.fill_diagonal_(0.0)
    assert correlation.abs().max() < 5 / math.sqrt(64 * noise.GROUP)


@pytest.mark.parametrize("kind", noise.NOISES)
def test_seeds_steps_tensors_and_streams_are_independent(kind):
    places = [
        {}, {"seed": PLACE["seed"] + 1}, {"seed": PLACE["seed"] + 2**32}, {"step": 18},
        {"tensor": 6}, {"stream": 3}, {"step": 5, "tensor": 17}, {"step": 2, "stream": 17},
    ]  # fmt: skip
    z = torch.stack([_sample(kind, 256, **place) for place in places])
    correlation = torch.corrcoef(z)
    correlation.fill_diagonal_(0.0)
    assert correlation.abs().max() < 4.5 / math.sqrt(z.shape[1])
    cubes = torch.corrcoef(z.abs() ** 1.5 * z.sign() if kind.startswith("rademacher") else z**3)
    cubes.fill_diagonal_(0.0)
    assert cubes.abs().max() < 4.5 / math.sqrt(z.shape[1])


@pytest.mark.parametrize("kind", noise.NOISES)
def test_neighbours_within_a_tensor_are_independent(kind):
    z = _sample(kind)
    for lag in (1, 2, 64, 128, 192, 256, 512, 8192):  # 64: the other words of the same counter
        for f in (lambda x: x, lambda x: x.abs()):
            x = f(z)
            if x.std() == 0:
                continue  # a sign has no size
            r = torch.corrcoef(torch.stack([x[:-lag], x[lag:]]))[0, 1]
            assert abs(r.item()) < 4.5 / math.sqrt(z.numel()), lag


@pytest.mark.parametrize("kind", noise.NOISES)
def test_the_stream_never_changes(kind):
    z = noise.draw(kind, **PLACE, first=0, last=16)
    assert z.dtype == torch.float32 and z.shape == (4096,)
    assert hashlib.sha256(z.numpy().astype("<f4").tobytes()).hexdigest() == DIGESTS[kind]


def test_unknown_noise_names_the_known():
    with pytest.raises(ValueError, match="uniform, gaussian-16, rademacher-1, got 'normal'"):
        noise.draw("normal", **PLACE, first=0, last=1)
