"""Each function of the C runtime against the Python reference, on random and extreme values."""

import ctypes
import itertools

import numpy as np
import pytest
import torch

from bench.mcu.native import runtime
from ezo import kernels
from ezo import noise as words
from ezo.int8 import Int8Tensor, SparseNoise, loss, perturb
from ezo.int8.layers import Conv2d, Linear
from ezo.int8.maps import MaxPool2d
from ezo.int8.ops import aligned
from ezo.int8.passes import ERROR_STREAM
from ezo.int8.rounding import bit_width, shift

SEEDS = (0, 7, (1 << 64) - 1)
_u32, _i32, _i64 = ctypes.c_uint32, ctypes.c_int32, ctypes.c_int64


class Layer(ctypes.Structure):
    _fields_ = [
        ("kind", ctypes.c_void_p),
        *((name, _u32) for name in ("weight", "bias", "weights", "biases", "in_", "out")),
        *((name, _u32) for name in ("in_at", "in_step", "out_at", "out_step", "err_at")),
        *((name, ctypes.c_uint16) for name in ("channels", "height", "width")),
        *((name, ctypes.c_uint16) for name in ("outputs", "kernel", "padding")),
        ("level", ctypes.c_int16),
        *((name, ctypes.c_int8) for name in ("weight_e", "bias_e")),
        *((name, ctypes.c_uint8) for name in ("relu", "pool", "windowed")),
    ]


class Work(ctypes.Structure):
    _fields_ = [
        ("layer", ctypes.POINTER(Layer)),
        *((name, ctypes.c_void_p) for name in ("weight", "bias")),
        *((name, _i32) for name in ("e", "shift", "form")),
        ("low", ctypes.c_void_p),
        ("low_at", _u32),
    ]


class Place(ctypes.Structure):
    _fields_ = [("seed", ctypes.c_uint64), ("step", _u32), ("stream", _u32)]


class Noise(ctypes.Structure):
    _fields_ = [("threshold", _u32), ("multiplier", _u32), ("bound", _i32)]


class Kind(ctypes.Structure):
    _fields_ = [
        (name, ctypes.CFUNCTYPE(_u32, *[ctypes.c_void_p] * n))
        for name, n in (("forward", 4), ("error", 4), ("descend", 9))
    ]


@pytest.fixture(scope="module", params=["-DEZO_DSP=0", "-DEZO_DSP_IN_C"])
def c(request, tmp_path_factory):
    return runtime(tmp_path_factory.mktemp("c") / "runtime.so", request.param)


@pytest.fixture(autouse=True)
def reference():
    """Compared with the definition in plain torch, not with the compiled kernels."""
    with kernels.using("reference"):
        yield


def _at(array):
    return array.ctypes.data_as(ctypes.c_void_p)


def _int8(*shape, seed=0, extreme=False):
    generator = np.random.default_rng(seed)
    if extreme:
        return generator.choice(np.array([-127, 127], np.int8), shape)
    return generator.integers(-127, 128, shape, np.int8)


@pytest.mark.parametrize("seed", SEEDS)
def test_words(c, seed):
    c.ezo_word.restype = _u32
    place = Place(seed, 9, ERROR_STREAM)
    expected = words.words(seed, 9, 0, ERROR_STREAM, 0, 3, "cpu").flatten().tolist()
    got = [c.ezo_word(ctypes.byref(place), _u32(i)) for i in range(len(expected))]
    assert got == expected


@pytest.mark.parametrize("r_max", [1, 15, 63])
@pytest.mark.parametrize("n", [1, 64, 65, 300, 511, 512, 1300])
def test_noise_shifts(c, r_max, n):
    for seed, p_zero, times in itertools.product(SEEDS, (0.0, 0.5), (1, -1, 2, -2)):
        how = SparseNoise(r_max, p_zero)
        if abs(times) == 2:
            theta = np.zeros(n, np.int8)
        else:
            theta = np.clip(_int8(n, seed=n), -how.bound, how.bound).astype(np.int8)
        expected = torch.from_numpy(theta.copy())
        perturb.shift_([expected], how, (seed, 3, 2), times, first_tensor=5)
        place, noise = Place(seed, 3, 2), Noise(how.threshold, how.multiplier, how.bound)
        c.ezo_shift(_at(theta), _u32(n), ctypes.byref(place), _u32(5), ctypes.byref(noise),
                    _i32(times))  # fmt: skip
        np.testing.assert_array_equal(theta, expected.numpy())


@pytest.mark.parametrize("fine", [False, True])
@pytest.mark.parametrize("restore", [-1, 0, 1])
def test_noise_updates(c, fine, restore):
    rates = (0, 1, 300, 40_000, 1 << 16)
    for n, g, rate in itertools.product((5, 700), (-1, 0, 1), rates):
        how = SparseNoise(63, 0.3)
        theta = np.clip(_int8(n, seed=rate), -how.bound, how.bound).astype(np.int8)
        fraction = np.random.default_rng(n).integers(0, 256, n, np.uint8)
        expected, part = torch.from_numpy(theta.copy()), torch.from_numpy(fraction.copy())
        at = 11, 4, 1
        given = [part] if fine else None
        perturb.shift_([expected], how, at, -restore, first_tensor=2)
        theta = expected.numpy().copy()
        perturb.update_([expected], how, at, (g, rate, restore), given, first_tensor=2)
        place, noise = Place(11, 4, 1), Noise(how.threshold, how.multiplier, how.bound)
        c.ezo_update(_at(theta), _at(fraction) if fine else None, _u32(n), ctypes.byref(place),
                     _u32(2), ctypes.byref(noise), _i32(g * rate), _i32(restore))  # fmt: skip
        np.testing.assert_array_equal(theta, expected.numpy())
        if fine:
            np.testing.assert_array_equal(fraction, part.numpy())


def _logits(classes):
    generator = np.random.default_rng(classes)
    largest = (1 << 31) - 1
    return np.concatenate(
        [
            generator.integers(-(1 << bits), 1 << bits, (6, classes)) for bits in (0, 3, 9, 20, 31)
        ]
        + [np.full((1, classes), v) for v in (0, largest, -largest - 1)]
        + [generator.choice([-largest - 1, largest], (6, classes))]
    ).clip(-largest - 1, largest).astype(np.int32)  # fmt: skip


@pytest.mark.parametrize("e", [-70, -52, -40, -31, -20, -11, -10, -9, -5, 0, 9, 10, 11, 30, 60])
@pytest.mark.parametrize("classes", [1, 2, 10, 300])
def test_loss_and_its_error(c, e, classes):
    c.ezo_loss.restype = _i64
    logits = _logits(classes)
    target = torch.arange(len(logits)) % classes
    given = torch.from_numpy(logits)
    expected = loss.cross_entropy(given, e, target)
    n = logits.size
    u = words.words(3, 1, 0, ERROR_STREAM, 0, -(-n // 256), "cpu").flatten()[:n]
    errors = loss.cross_entropy_gradient(given, e, target, u.view(given.shape)).numpy()
    place, error = Place(3, 1, ERROR_STREAM), np.empty(classes, np.int8)
    for i, row in enumerate(logits):
        y = _u32(int(target[i]))
        assert c.ezo_loss(_at(row), _u32(classes), _i32(e), y) == int(expected[i])
        c.ezo_loss_error(_at(row), _u32(classes), _i32(e), y, ctypes.byref(place),
                         _u32(i * classes), _at(error))  # fmt: skip
        np.testing.assert_array_equal(error, errors[i])


def test_division(c):
    c.ezo_divide.restype = ctypes.c_uint64
    generator = np.random.default_rng(0)
    numbers = [int(generator.integers(0, 1 << 63)) >> int(s) for s in range(0, 63, 3)]
    numbers += [1, (1 << 64) - 1, 1 << 63]
    for a, b in itertools.product(numbers, numbers):
        if b:
            assert c.ezo_divide(ctypes.c_uint64(a), ctypes.c_uint64(b)) == a // b


def _run(c, layer, x, shape_out, *, relu=False, pool=1, e=0, shift_by=0, form=0):
    """A kind's forward on one example, and the magnitudes that it saw."""
    outputs = shape_out[0]
    image = x.shape if x.ndim == 3 else (x.size, 1, 1)
    weight = getattr(layer, "weight", None)
    kernel = weight.shape[2] if weight is not None and weight.dim() == 4 else 1
    row = Layer(
        in_=x.size,
        out=int(np.prod(shape_out)),
        channels=image[0],
        height=image[1],
        width=image[2],
        outputs=outputs,
        kernel=kernel,
        padding=getattr(layer, "padding", 0),
        weight_e=getattr(layer, "weight_exponent", 0),
        bias_e=getattr(layer, "bias_exponent", 0),
        relu=relu,
        pool=pool,
    )
    hold = [np.ascontiguousarray(p.detach().numpy()) for p in layer.parameters()]
    bias = _at(hold[1]) if len(hold) > 1 else None
    out = np.zeros(shape_out, np.int32 if form == 2 else np.int8)
    low = np.full(out.size // 2 + 3, 0xFF, np.uint8)
    work = Work(
        ctypes.pointer(row), _at(hold[0]) if hold else None, bias, e, shift_by, form, _at(low), 3
    )
    kind = Kind.in_dll(c, f"ezo_{type(layer).__name__}")
    scratch = np.zeros(1 << 14, np.int64)
    seen = kind.forward(ctypes.byref(work), _at(x), _at(out), _at(scratch))
    if form == 1:  # the upper 8 bits, and the lower 4 from place 3 on
        nibbles = np.stack([low & 15, low >> 4], 1).reshape(-1)[3 : 3 + out.size]
        return out.astype(np.int32) * 16 + nibbles.reshape(shape_out), seen
    return out, seen


@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize("bias_left", [None, -9, -3, 0, 5, 40])
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (3, 2), (4, 4), (13, 7), (1000, 5)])
def test_linear(c, inputs, outputs, bias_left, extreme):
    weight = Int8Tensor(torch.from_numpy(_int8(outputs, inputs, extreme=extreme)), -7)
    bias = None
    if bias_left is not None:
        bias = Int8Tensor(torch.from_numpy(_int8(outputs, seed=1)), -7 + bias_left)
    layer, x = Linear(weight, bias), _int8(inputs, seed=2, extreme=extreme)
    layer.requantized = False
    sums = layer(Int8Tensor(torch.from_numpy(x)[None], 0)).m[0]
    for relu in (False, True):
        got, seen = _run(c, layer, x, (outputs,), relu=relu, e=-7, form=2)
        expected = sums.clamp(min=0) if relu else sums
        np.testing.assert_array_equal(got, expected.numpy())
        assert seen.bit_length() == bit_width(sums)
        s = max(0, bit_width(sums) - 7)
        got, _ = _run(c, layer, x, (outputs,), relu=relu, e=-7, shift_by=s)
        np.testing.assert_array_equal(got, shift(expected, s, "nearest").numpy())


@pytest.mark.parametrize("pool", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(("channels", "outputs"), [(1, 1), (2, 3), (3, 6), (1, 8)])
def test_conv2d(c, channels, outputs, kernel, pool):
    for padding, (h, w), extreme in itertools.product(
        sorted({0, kernel // 2, kernel - 1}), [(6, 6), (7, 5), (5, 8)], (False, True)
    ):
        weight = torch.from_numpy(_int8(outputs, channels, kernel, kernel, extreme=extreme))
        bias = Int8Tensor(torch.from_numpy(_int8(outputs, seed=1)), -4) if kernel > 1 else None
        layer = Conv2d(Int8Tensor(weight, -6), bias, padding)
        layer.requantized = False
        x = _int8(channels, h, w, seed=3, extreme=extreme)
        sums = layer(Int8Tensor(torch.from_numpy(x)[None], -1)).m
        expected = MaxPool2d(pool)(Int8Tensor(sums, 0)).m[0] if pool > 1 else sums[0]
        got, seen = _run(c, layer, x, tuple(expected.shape), pool=pool, e=-7, form=2)
        np.testing.assert_array_equal(got, expected.numpy())
        assert seen.bit_length() == bit_width(sums)


@pytest.mark.parametrize("size", [2, 3])
def test_max_pool2d(c, size):
    x = _int8(3, 7, 8)
    expected = MaxPool2d(size)(Int8Tensor(torch.from_numpy(x)[None], 0)).m[0].numpy()
    got, seen = _run(c, MaxPool2d(size), x, expected.shape, pool=size)
    np.testing.assert_array_equal(got, expected)
    assert seen == 0


def test_a_window_keeps_what_any_of_its_shifts_needs(c):
    layer = Linear(Int8Tensor(torch.from_numpy(_int8(500, 40)), 0), None)
    layer.requantized = False
    x = _int8(40, seed=1)
    sums = layer(Int8Tensor(torch.from_numpy(x)[None], 0)).m[0]
    for first in (0, 3):
        window, _ = _run(c, layer, x, (500,), shift_by=first, form=1)
        for s in range(first + (first > 0), first + 5):
            if bit_width(sums) - 7 > s:
                continue  # a larger shift than this one would be chosen
            expected = shift(sums, s, "nearest").numpy()
            got = shift(torch.from_numpy(window), s - first, "nearest").numpy()
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("fine", [False, True])
@pytest.mark.parametrize("mu", [-20, -3, 0, 3, 6])
def test_descent(c, mu, fine):
    for bits, scale in itertools.product((0, 1, 8, 16, 24, 30), (1, -1)):
        n, generator = 400, np.random.default_rng(bits)
        gradient = generator.integers(-(1 << bits), (1 << bits) + 1, n).astype(np.int32)
        gradient[0] = scale * ((1 << bits) - 1)
        weight = _int8(n, seed=bits, extreme=bits == 8)
        fraction = generator.integers(0, 256, n, np.uint8)
        expected, part = torch.from_numpy(weight.copy()), torch.from_numpy(fraction.copy())
        kernels.bp_update(expected, part if fine else None, torch.from_numpy(gradient), mu)
        s = bit_width(torch.from_numpy(gradient)) - mu - (8 if fine else 0)
        for i in range(n):
            c.ezo_descend_one(
                ctypes.c_void_p(weight.ctypes.data + i),
                ctypes.c_void_p(fraction.ctypes.data + i) if fine else None,
                _i32(int(gradient[i])),
                _i32(s),
            )
        np.testing.assert_array_equal(weight, expected.numpy())
        if fine:
            np.testing.assert_array_equal(fraction, part.numpy())


def test_a_bias_at_the_sums_exponent(c):
    layer = Linear(
        Int8Tensor(torch.zeros((255, 1), dtype=torch.int8), 0),
        Int8Tensor(torch.arange(-127, 128).to(torch.int8), 0),
    )
    layer.requantized = False
    for left in range(-45, 45):
        got, _ = _run(c, layer, np.zeros(1, np.int8), (255,), e=-left, form=2)
        np.testing.assert_array_equal(got, aligned(layer.bias, left).numpy())
