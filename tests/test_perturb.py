"""Sweeps: compiled against reference bit by bit, exact restoring, replay, bounded scratch."""

import doctest
import functools
import importlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from ezo import kernels, noise, perturb
from tests import sweeps
from tests.backends import ISAS, on

SIZES = (300001, 0, 1, 5, 255, 256, 257, 1000)
PLACE = {"seed": 0xFEDCBA9876543210, "step": 12, "stream": 3}
EPS, RATE, DECAY = 1e-3, 3.7e-4, 1e-2
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

needs_kernels = pytest.mark.skipif(not ISAS, reason="ezo's compiled kernels are missing")


def weights(*shape, dtype=torch.float32, scale=0.5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator) * scale).to(dtype)


def bits(x):
    """Tells -0.0 from 0.0 and compares NaN, unlike torch.equal on floating point."""
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    return x.contiguous().view(integer)


def assert_same_bits(a, b):
    assert a.dtype == b.dtype and a.shape == b.shape
    assert torch.equal(bits(a), bits(b)), f"{int((bits(a) != bits(b)).sum())} elements differ"


# --- compiled against reference ------------------------------------------------------------------

SWEEPS = {  # name: (function of perturb, its arguments)
    "fill": (sweeps.fill_, {}),
    "shift": (sweeps.shift_, {"eps": EPS, "times": -2.0}),
    "update": (sweeps.update_, {"eps": EPS, "rate": RATE, "decay": DECAY}),
    "replayed update": (
        sweeps.update_,
        {"eps": EPS, "rate": RATE, "decay": DECAY, "restore": False},
    ),
}


@pytest.fixture
def threads():
    """Sets torch's number of threads, for a test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def laid(x, layout):
    """The same numbers, in memory of their own and of another order."""
    return {
        "contiguous": lambda: x.clone(),
        "channels_last": lambda: x.contiguous(memory_format=torch.channels_last),
        "transposed": lambda: x.transpose(0, 3).contiguous().transpose(0, 3),
        "strided": lambda: x.repeat_interleave(2, dim=1)[:, ::2],
        "offset": lambda: torch.cat([x, x], dim=3)[..., x.shape[3] :],
    }[layout]()


@functools.cache
def swept_by_reference(sweep, kind, dtype):
    function, arguments = SWEEPS[sweep]
    tensors = [weights(n, seed=n, dtype=dtype) for n in SIZES]
    function(tensors, noise=kind, reference=True, first_tensor=4, **PLACE, **arguments)
    return tensors


@needs_kernels
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", noise.NOISES)
@pytest.mark.parametrize("sweep", SWEEPS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_compiled_sweeps_equal_the_reference(sweep, kind, isa, dtype, threads):
    expected = swept_by_reference(sweep, kind, dtype)
    function, arguments = SWEEPS[sweep]
    for n in (1, 2):
        threads(n)
        tensors = [weights(n, seed=n, dtype=dtype) for n in SIZES]
        with on(isa):
            function(tensors, noise=kind, first_tensor=4, **PLACE, **arguments)
        for found, wanted in zip(tensors, expected, strict=True):
            assert_same_bits(found, wanted)


@needs_kernels
@pytest.mark.parametrize("layout", ["channels_last", "transposed", "strided", "offset"])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("sweep", SWEEPS)
def test_compiled_sweeps_take_any_strides(sweep, dtype, layout):
    function, arguments = SWEEPS[sweep]
    plain = weights(7, 5, 33, 6, dtype=dtype)
    theta = laid(plain, layout)
    memory = theta.untyped_storage().nbytes()
    with LiveBytes(theta) as counted:
        function([theta], **PLACE, **arguments)
    assert counted.peak == 0 and not theta.is_contiguous()  # no kernel makes a tensor
    function([plain], reference=True, **PLACE, **arguments)
    assert_same_bits(theta, plain)
    assert theta.untyped_storage().nbytes() == memory


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_compiled_16_bits_round_as_torch_does(dtype):
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    every = every[every.isfinite()]
    for eps in (0.0, 1e-8, 3e-5, 1.0, 5e4):  # subnormal numbers, halves, overflow
        found, wanted = every.clone(), every.clone()
        sweeps.shift_([found], eps=eps, noise="uniform", **PLACE)
        sweeps.shift_([wanted], eps=eps, noise="uniform", reference=True, **PLACE)
        assert_same_bits(found, wanted)


@needs_kernels
@pytest.mark.parametrize("n", SIZES)
def test_the_default_path_equals_the_reference_and_touches_nothing_beside(n):
    guarded = weights(n + 2)
    before = guarded.clone()
    x = guarded[1 : n + 1]
    sweeps.shift_([x], eps=EPS, **PLACE)
    wanted = before[1 : n + 1].clone()
    sweeps.shift_([wanted], eps=EPS, reference=True, **PLACE)
    assert_same_bits(x.clone(), wanted)
    assert guarded[0] == before[0] and guarded[-1] == before[-1]


@needs_kernels
def test_unknown_instruction_set_is_refused():
    with pytest.raises(ValueError, match="no kernels for instruction set 'mmx'.* portable"):
        kernels.using("compiled", isa="mmx")


@needs_kernels
def test_compiled_sweeps_count_as_in_place_changes_for_autograd():
    x = torch.ones(4, requires_grad=True)
    loss = (x * x).sum()
    sweeps.shift_([x], eps=EPS, **PLACE)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# --- what the sweeps compute ---------------------------------------------------------------------


def snapped(x):
    return np.rint(x * np.float32(2**22)) * np.float32(2**-22)


@pytest.mark.parametrize("kind", noise.NOISES)
@pytest.mark.parametrize("reference", [False, True])
def test_sweeps_compute_their_equations(kind, reference):
    theta, z = weights(999), torch.empty(999)
    how = {"noise": kind, "reference": reference, **PLACE}
    sweeps.fill_([z], **how)
    old, e = snapped(theta.numpy().copy()), snapped(np.float32(EPS) * z.numpy())
    sweeps.shift_([theta], eps=EPS, **how)
    np.testing.assert_array_equal(theta.numpy(), old + e)
    sweeps.shift_([theta], eps=EPS, times=-2, **how)
    np.testing.assert_array_equal(theta.numpy(), old - e)
    sweeps.update_([theta], eps=EPS, rate=RATE, decay=DECAY, **how)
    exact = old.astype(float) - RATE * z.numpy().astype(float) - DECAY * old.astype(float)
    np.testing.assert_allclose(theta.numpy(), exact, rtol=0, atol=2.0**-22)  # two half grids


def test_noise_of_tensors_is_numbered_from_first_tensor():
    a, b = torch.empty(300), torch.empty(300)
    sweeps.fill_([a, b], first_tensor=7, **PLACE)
    assert_same_bits(a, noise.draw("gaussian", **PLACE, tensor=7, first=0, last=2)[:300])
    assert_same_bits(b, noise.draw("gaussian", **PLACE, tensor=8, first=0, last=2)[:300])


def test_numbers_do_not_depend_on_which_tensors_the_kernels_take():
    every = [weights(40), weights(8, 5).t(), weights(40, dtype=torch.float64), weights(40)]
    sweeps.fill_(every, **PLACE)
    for t, x in enumerate(every):
        z = noise.draw("gaussian", **PLACE, tensor=t, first=0, last=1)[:40]
        assert torch.equal(x.contiguous().flatten(), z.to(x.dtype))


@pytest.mark.parametrize("reference", [False, True])
def test_updates_below_the_grid_are_not_lost(reference):
    rate, steps = 2.0**-22 / 10, 200
    theta, along, size = torch.zeros(1000), 0.0, 0.0
    for step in range(steps):
        z, old = torch.empty(1000), theta.clone()
        how = {"seed": 1, "step": step, "reference": reference}
        sweeps.fill_([z], **how)
        sweeps.update_([theta], eps=EPS, rate=rate, restore=False, **how)
        along -= ((theta - old).double() @ z.double()).item()
        size += (z.double() @ z.double()).item()
    # A step is off by less than a grid, at random: the slope by at most that over sqrt(n).
    assert along / size == pytest.approx(rate, abs=4 * 2.0**-22 / (1000 * steps) ** 0.5)


# --- exactness -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", noise.NOISES)
@pytest.mark.parametrize("reference", [False, True])
def test_restoring_is_exact(dtype, kind, reference):
    theta = weights(5000, dtype=dtype).clamp(-3.9, 3.9)
    before = theta.clone()
    how = {"eps": EPS, "noise": kind, "reference": reference, **PLACE}
    sweeps.shift_([theta], **how)
    sweeps.shift_([theta], times=-1, **how)
    once = theta.clone()
    assert (once - before).abs().max() <= perturb.GRID[dtype] / 2
    for step in range(10):
        how["step"] = step
        for times in (1, -2, 1):
            sweeps.shift_([theta], times=times, **how)
        assert torch.equal(theta, once)
        sweeps.shift_([theta], times=-1, **how)
        assert not torch.equal(theta, once)
        sweeps.update_([theta], rate=0.0, **how)
    assert torch.equal(theta, once)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", noise.NOISES)
@pytest.mark.parametrize("reference", [False, True])
def test_a_replayed_update_gives_the_live_bits(dtype, kind, reference):
    live = weights(5000, dtype=dtype)
    replayed = live.clone()
    for step in range(5):
        how = {"seed": 3, "step": step, "eps": EPS, "noise": kind, "reference": reference}
        sweeps.shift_([live], **how)
        sweeps.shift_([live], times=-2, **how)
        sweeps.update_([live], rate=RATE, decay=DECAY, **how)
        sweeps.update_([replayed], rate=RATE, decay=DECAY, restore=False, **how)
    assert torch.equal(live, replayed)
    assert not torch.equal(live, weights(5000, dtype=dtype))


@pytest.mark.parametrize("scale", [5.0, 100.0, 1e4, 1e20])
@pytest.mark.parametrize("reference", [False, True])
def test_large_weights_round_like_any_arithmetic(scale, reference):
    theta = torch.linspace(1, 2, 1000) * scale
    before = theta.clone()
    ulp = (torch.nextafter(2 * before, torch.tensor(torch.inf)) - 2 * before).max()
    for step in range(20):
        how = {"seed": 3, "step": step, "eps": EPS, "reference": reference}
        sweeps.shift_([theta], **how)
        sweeps.shift_([theta], times=-2, **how)
        sweeps.update_([theta], rate=0.0, **how)
    assert (theta - before).abs().max() <= 20 * 4 * ulp / 2  # four additions a step


@pytest.mark.parametrize("dtype", FLOATS)
def test_weight_decay_shrinks_weights_by_its_share(dtype):
    theta = weights(2000, dtype=dtype)
    before = theta.double().clone()
    sweeps.update_([theta], eps=EPS, rate=0.0, decay=0.25, restore=False, **PLACE)
    error = (theta.double() - 0.75 * before).abs()
    tolerance = max(torch.finfo(dtype).eps, 1.5 * perturb.GRID.get(dtype, 0.0))  # three halves
    assert (error <= tolerance * (1 + before.abs())).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sweeps_in_16_bits_round_once_each(dtype):
    theta = weights(1000, dtype=dtype)
    expected, z = theta.clone(), torch.empty(1000)
    sweeps.fill_([z], **PLACE)
    for times in (1.0, -2.0):
        sweeps.shift_([theta], eps=0.01, times=times, **PLACE)
        expected = (expected.float() + times * (z * 0.01)).to(dtype)
    assert_same_bits(theta, expected)


# --- layouts and chunks --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kind", noise.NOISES)
def test_bits_do_not_depend_on_the_chunks(dtype, kind):
    how = {"eps": EPS, "noise": kind, "reference": True, **PLACE}
    found = []
    for scratch_bytes in (1, 20_000, perturb.SCRATCH_BYTES, 10**7):
        theta = weights(5, 401, dtype=dtype)
        sweeps.shift_([theta], scratch_bytes=scratch_bytes, **how)
        sweeps.update_([theta], rate=RATE, decay=DECAY, scratch_bytes=scratch_bytes, **how)
        found.append(theta)
    for other in found[1:]:
        assert_same_bits(found[0], other)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("layout", ["channels_last", "transposed", "strided", "offset"])
def test_bits_do_not_depend_on_the_layout(dtype, layout):
    base = weights(6, 7, 3, 5, dtype=dtype)
    theta = laid(base, layout)
    assert not theta.is_contiguous() and torch.equal(theta, base)
    sweeps.shift_([theta, base], eps=EPS, **PLACE)
    other = weights(6, 7, 3, 5, dtype=dtype)
    sweeps.shift_([other], eps=EPS, **PLACE)
    assert_same_bits(theta, other)
    for x in (theta, other):
        sweeps.update_([x], eps=EPS, rate=RATE, decay=DECAY, **PLACE)
    assert_same_bits(theta, other)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    shape=st.lists(st.integers(0, 9), max_size=4),
    order=st.randoms(use_true_random=False),
    dtype=st.sampled_from(FLOATS),
    kind=st.sampled_from(noise.NOISES),
    scratch_bytes=st.integers(1, 40_000),
)
def test_any_shape_and_order_of_strides(shape, order, dtype, kind, scratch_bytes):
    plain = weights(*shape, dtype=dtype)
    axes = order.sample(range(len(shape)), len(shape))
    back = [axes.index(i) for i in range(len(shape))]
    theta = plain.permute(axes).contiguous().permute(back)  # the same numbers, other strides
    how = {"noise": kind, "eps": EPS, **PLACE}
    sweeps.shift_([theta], scratch_bytes=scratch_bytes, reference=True, **how)
    sweeps.shift_([plain], **how)
    assert_same_bits(theta, plain)


# --- scratch -------------------------------------------------------------------------------------


class LiveBytes(TorchDispatchMode):
    """Peak of the bytes in storages that operations made under this mode, and that still live."""

    def __init__(self, *known):
        super().__init__()
        self.known = {x.untyped_storage()._cdata for x in known}
        self.live, self.peak, self.operations = {}, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.operations += 1
        self.live = {k: v for k, v in self.live.items() if not v[0].expired()}
        for x in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(x, torch.Tensor) and x.untyped_storage()._cdata not in self.known:
                storage = x.untyped_storage()
                self.live[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.peak = max(self.peak, sum(size for _, size in self.live.values()))
        return result


def test_live_bytes_counts_what_lives():
    with LiveBytes() as counted:
        for _ in range(3):
            x = torch.ones(1000)  # 4,000 bytes, while the last x still lives
            x = (x + 1).view(10, 100)
    assert x.numel() == 1000 and counted.operations == 9
    assert counted.peak == 8000


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kind", noise.NOISES)
@pytest.mark.parametrize("layout", ["contiguous", "permuted"])
def test_the_reference_keeps_to_its_scratch(dtype, kind, layout):
    theta = weights(8, 5, 25, 10, dtype=dtype)
    if layout == "permuted":
        theta = theta.permute(3, 1, 0, 2)
    for sweep in ("shift", "update", "replayed update"):
        function, arguments = SWEEPS[sweep]
        with LiveBytes(theta) as counted:
            function([theta], noise=kind, reference=True, **PLACE, **arguments)
        assert counted.operations > 50
        assert 16_000 < counted.peak <= perturb.SCRATCH_BYTES, sweep


def test_more_scratch_takes_fewer_operations():
    operations = []
    for scratch_bytes in (10**4, 10**5, 10**6):
        theta = weights(20_000)
        with LiveBytes(theta) as counted:
            sweeps.shift_([theta], eps=EPS, scratch_bytes=scratch_bytes, reference=True, **PLACE)
        assert counted.peak <= scratch_bytes
        operations.append(counted.operations)
    assert operations[0] > 3 * operations[1] > 9 * operations[2] / 2


# --- fallback, errors ----------------------------------------------------------------------------


MISSING = """
import sys, warnings, torch
sys.modules["ezo._kernels"] = None  # as where nothing was compiled
from ezo import ElasticZO, kernels, perturb
from ezo.int8 import ElasticZO as Integers, from_float
from ezo.perturb import Sweeper
from ezo.kernels import triton
if sys.argv[2] == "cuda":  # of torch, whether there is a card or not
    triton.RANK = 20
theta = [torch.ones(700), torch.ones(9, dtype=torch.float64)]
told = []
warnings.showwarning = lambda message, *_: told.append(str(message))
for _ in range(2):
    Sweeper(theta).shift((3, 4, 0), 1e-3, 1.0)
assert len(told) == 1 and "no compiled kernels" in told[0], told
Integers(from_float(torch.nn.Sequential(torch.nn.Linear(4, 3))), 1)
assert len(told) == 1
assert perturb.kernels() == ("triton" if triton.RANK else "reference")
assert kernels.names() == ["compiled", "reference", "triton"]
try:
    kernels.using("compiled")
except ValueError as error:
    assert "expected compiled kernels" in str(error)
torch.save(theta, sys.argv[1])
"""


@pytest.mark.parametrize("build", ["cpu", "cuda"])
def test_missing_kernels_warn_once_and_change_no_bit(tmp_path, build):
    if build == "cuda":
        pytest.importorskip("triton", reason="triton is not installed")
    command = [sys.executable, "-c", MISSING, tmp_path / "theta", build]
    subprocess.run(command, check=True, timeout=120)
    expected = [torch.ones(700), torch.ones(9, dtype=torch.float64)]
    for _ in range(2):
        sweeps.shift_(expected, eps=EPS, seed=3, step=4)
    for found, wanted in zip(torch.load(tmp_path / "theta"), expected, strict=True):
        assert_same_bits(found, wanted)


@needs_kernels
def test_weights_that_no_kernel_takes_are_told_once(monkeypatch):
    monkeypatch.setattr(kernels._told, "told", set())
    deep = torch.ones([1] * 13 + [2, 2]).transpose(13, 14)
    with pytest.warns(UserWarning, match=r"no kernels for 1 weights of torch.float32 on cpu"):
        sweeps.shift_([deep], eps=EPS, **PLACE)
    sweeps.shift_([deep], eps=EPS, **PLACE)  # a second warning would be an error


@needs_kernels
def test_kernels_names_the_instruction_set_in_use():
    assert perturb.kernels() == ISAS[0] != "reference"


def test_an_unknown_noise_is_named():
    theta = weights(3)
    for function, how in ((sweeps.shift_, {"eps": EPS}), (sweeps.fill_, {}),
                          (sweeps.update_, {"eps": EPS, "rate": RATE})):  # fmt: skip
        with pytest.raises(ValueError, match="uniform, gaussian-16, rademacher-1, got 'normal'"):
            function([theta], **{**PLACE, **how, "noise": "normal"})
    assert torch.equal(theta, weights(3))


@pytest.mark.parametrize("module", ["noise", "spsa", "split", "optim", "conformance"])
def test_examples_in_docstrings(module):
    found = doctest.testmod(importlib.import_module(f"ezo.{module}"))
    assert found.attempted > 0 and found.failed == 0
