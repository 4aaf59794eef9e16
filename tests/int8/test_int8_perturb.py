"""Integer noise against its definition one word at a time, exact undoing, the update's mean."""

import pytest
import torch

from ezo import kernels
from ezo.int8.perturb import SPARSE_GROUP, SparseNoise, draw
from ezo.kernels import reference
from tests import sweeps
from tests.oracles.philox import philox4x32_10

NOISES = [SparseNoise(15, 0.5), SparseNoise(7, 0.8), SparseNoise(1, 0.0), SparseNoise(63, 0.9)]


def weights(noise, *sizes, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [
        torch.randint(-noise.bound, noise.bound + 1, (n,), generator=g).to(torch.int8)
        for n in sizes
    ]


@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_noise_agrees_with_its_definition_one_word_at_a_time(noise):
    seed, step, tensor, stream, group = (7 << 40) + 3, 11, 2, 5, 3
    z, u = draw(noise, seed, step, tensor, stream, group, group + 1)
    for i in range(SPARSE_GROUP):
        half, word, lane = i // 256, i % 256 // 64, i % 64
        counter = (64 * group + lane, tensor, step, stream)
        bits = philox4x32_10(counter, (seed & 0xFFFFFFFF, seed >> 32))[word]
        bits = bits // 65536 if half else bits % 65536
        y = bits % 32768
        p = noise.p_zero + (1 - noise.p_zero) / (2 * noise.r_max + 1)
        threshold = round(32768 * p)
        if y < threshold:
            wanted = (0, 0)
        else:
            product = (y - threshold) * ((noise.r_max * 65536 - 1) // (32767 - threshold))
            sign = -1 if bits >= 32768 else 1
            wanted = (sign * (1 + product // 65536), product % 65536)
        assert (z[i].item(), u[i].item()) == wanted


@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_noise_over_all_16_bit_numbers_is_uniform_sparse_and_of_mean_0(noise, monkeypatch):
    low = torch.arange(65536).view(-1, 4, 64)
    monkeypatch.setattr("ezo.noise.words", lambda *_: low + (low << 16))
    z, u = draw(noise, 0, 0, 0, 0, 0, 256)
    count = torch.bincount(z + noise.r_max, minlength=2 * noise.r_max + 1)
    assert len(count) == 2 * noise.r_max + 1
    assert torch.equal(count, count.flip(0))
    wanted = 2 * 65536 * (1 - noise.p_zero) / (2 * noise.r_max + 1)
    others = torch.cat([count[: noise.r_max], count[noise.r_max + 1 :]])
    assert ((others - wanted).abs() <= 0.02 * wanted + 8).all()
    assert int(u.min()) >= 0 and int(u.max()) < 65536
    for m in (1, noise.r_max):  # given the magnitude, what is left over is uniform
        assert abs(u[z.abs() == m].double().mean() / 65536 - 0.5) < 0.05


def test_restoring_is_exact_for_each_of_100_000_random_perturbations():
    """100,000 copies of eight weights, two of them at the bound, each copy perturbed by its own."""
    noise = SparseNoise(15, 0.5)
    eight = torch.tensor([noise.bound, -noise.bound, 0, 1, -1, 64, -90, 111], dtype=torch.int8)
    theta = eight.repeat(100_000)
    start, place = theta.clone(), {"seed": 3, "step": 8}
    drawn = []
    for times, at in ((1, 1), (-2, -1)):
        sweeps.sparse_shift_([theta], noise, times=times, **place)
        z = at * (theta.int() - start.int())  # beyond r_max, had a sum wrapped around
        assert z.abs().max() == 15
        drawn.append(z)
    assert torch.equal(*drawn)
    sweeps.sparse_update_([theta], noise, g=0, rate=1 << 16, **place)
    assert torch.equal(theta, start)


def test_a_draw_does_not_look_at_the_probability_which_is_a_float():
    noise = SparseNoise(15, 0.5)
    wanted = draw(noise, 0, 0, 0, 0, 0, 1)
    object.__setattr__(noise, "p_zero", None)
    assert all(map(torch.equal, draw(noise, 0, 0, 0, 0, 0, 1), wanted))


@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_perturbing_and_coming_back_is_exact_and_never_wraps(noise):
    parameters = weights(noise, 1, SPARSE_GROUP - 1, 3 * SPARSE_GROUP + 17, 0)
    start = [p.clone() for p in parameters]
    for step in range(30):
        place = {"seed": 5, "step": step}
        sweeps.sparse_shift_(parameters, noise, times=1, **place)
        plus = [p.clone() for p in parameters]
        sweeps.sparse_shift_(parameters, noise, times=-2, **place)
        for p, up, old in zip(parameters, plus, start, strict=True):
            assert torch.equal(up.int() + p.int(), 2 * old.int())  # neither side was clipped
        sweeps.sparse_update_(parameters, noise, g=0, rate=1 << 16, **place)
        assert all(map(torch.equal, parameters, start))


@pytest.mark.parametrize("noise", NOISES, ids=str)
@pytest.mark.parametrize("g", [-1, 0, 1])
def test_updating_from_either_side_ends_in_the_same_bits_within_the_bound(noise, g):
    there = weights(noise, 2 * SPARSE_GROUP + 5, 70)
    here = [p.clone() for p in there]
    place = {"seed": 9, "step": 4, "first_tensor": 3, "stream": 1}
    sweeps.sparse_shift_(there, noise, times=-1, **place)
    sweeps.sparse_update_(there, noise, g=g, rate=30_000, **place)
    sweeps.sparse_update_(here, noise, g=g, rate=30_000, restore=False, **place)
    assert all(map(torch.equal, there, here))
    assert max(int(p.abs().max()) for p in here) <= noise.bound


@pytest.mark.parametrize("rate", [1 << 16, 1 << 15, 9000, 700])
@pytest.mark.parametrize("g", [-1, 1])
def test_the_update_s_mean_is_minus_g_z_times_the_rate(rate, g):
    noise = SparseNoise(15, 0.5)
    theta = torch.zeros(SPARSE_GROUP * 400, dtype=torch.int8)
    sweeps.sparse_update_([theta], noise, seed=0, step=0, g=g, rate=rate, restore=False)
    z, _ = draw(noise, 0, 0, 0, 0, 0, 400)
    for m in (1, 4, 15):
        moved = (theta.long() * -g * z.sign())[z.abs() == m].double()
        spread = moved.std().item() / len(moved) ** 0.5
        assert moved.mean().item() == pytest.approx(m * rate / 65536, abs=4 * spread + 1e-3)
    assert not theta[z == 0].any()


def test_tensors_steps_and_seeds_have_noise_of_their_own():
    noise, drawn = SparseNoise(15, 0.0), set()
    for seed, step, tensor, stream in [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0)]:
        drawn.add(tuple(draw(noise, seed, step, tensor, stream, 0, 1)[0].tolist()))
    drawn.add(tuple(draw(noise, 0, 0, 0, 1, 0, 1)[0].tolist()))
    assert len(drawn) == 5


def test_the_size_of_the_scratch_changes_no_bit(monkeypatch):
    noise = SparseNoise(7, 0.3)
    whole, pieces = weights(noise, 5000), weights(noise, 5000)
    sweeps.sparse_shift_(whole, noise, seed=1, step=2, times=1)
    monkeypatch.setattr(reference, "SPARSE_SCRATCH_BYTES", 16 * 1024)
    with kernels.using("reference"):
        sweeps.sparse_shift_(pieces, noise, seed=1, step=2, times=1)
    assert torch.equal(whole[0], pieces[0])


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: SparseNoise(0, 0.5), "r_max"),
        (lambda: SparseNoise(64, 0.5), "r_max"),
        (lambda: SparseNoise(3, 1.0), "p_zero"),
        (lambda: SparseNoise(3, float("nan")), "p_zero"),
        (lambda: SparseNoise(63, 0.999), "a chance"),
        (
            lambda: sweeps.sparse_update_([], SparseNoise(3, 0.5), seed=0, step=0, g=2, rate=1),
            "sign of",
        ),
        (
            lambda: sweeps.sparse_update_(
                [], SparseNoise(3, 0.5), seed=0, step=0, g=1, rate=1 << 17
            ),
            "rate",
        ),
        (
            lambda: sweeps.sparse_shift_(
                [torch.ones(3)], SparseNoise(3, 0.5), seed=0, step=0, times=1
            ),
            "int8",
        ),
    ],
)
def test_bad_arguments_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
