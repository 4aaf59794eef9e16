"""Whether the examples of a batch meet in a module: they come out otherwise by halves then."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.modules.dropout import _DropoutNd
from torch.utils._pytree import tree_flatten, tree_iter

Run = Callable[[int, int], Any]  # on the examples from one up to another


def expect_apart(run: Run, examples: int, modules: dict[nn.Module, str], name: str) -> None:
    """Look at an output of some examples, together and by halves.

    Nothing is looked at where there is one example, or only shapes, or where random numbers are
    drawn, but by dropout, which drops nothing here.

    Args:
        run: leaves no trace but in random numbers and buffers, which are brought back.
        modules: that run, with their names.
        name: of what runs.

    Raises:
        ValueError: examples meet, or a buffer is written to.
    """
    tensors = [t for m in modules for t in (*m._parameters.values(), *m._buffers.values())]
    if examples < 2 or any(
        isinstance(t, FakeTensor) or (t is not None and t.is_meta) for t in tensors
    ):
        return
    parts = (0, examples), (0, examples // 2), (examples // 2, examples)
    devices = {t.device for t in tensors if t is not None and t.is_cuda}
    with _undisturbed(modules), torch.random.fork_rng(devices=devices), torch.no_grad():
        begun = _random_states(devices)
        meet = _differ(*(run(*part) for part in parts))
        if not meet or not all(map(torch.equal, begun, _random_states(devices))):
            return
        seen = []
        for part in parts:
            with _watched(modules) as outputs:
                run(*part)
            seen.append(outputs)
    pairs = zip(*seen, strict=True)
    found = next((w[0] for w, a, b in pairs if _differ(w[1], a[1], b[1])), None)
    met = f"'{modules[found]}', {type(found).__name__}" if found is not None else name
    raise ValueError(
        f"expected a module whose examples don't meet, to stream it, got {met}, whose output for "
        "an example depends on the others; leave it out of stream(), or give it to BP"
    )


@contextlib.contextmanager
def _undisturbed(modules: dict[nn.Module, str]) -> Iterator[None]:
    """Within, nothing is dropped.

    Raises:
        ValueError: a buffer was written to, and is as before.
    """
    dropping = [m for m in modules if isinstance(m, _DropoutNd) and m.training]
    buffers = [(m, of, b) for m in modules for of, b in m._buffers.items() if b is not None]
    before = [(b._version, b.clone()) for _, _, b in buffers]
    for m in dropping:
        m.training = False
    wrote = []
    try:
        yield
    finally:
        for m in dropping:
            m.training = True
        for (owner, of, b), (version, copy) in zip(buffers, before, strict=True):
            if owner._buffers.get(of) is not b or b._version != version:
                wrote.append(f"{modules[owner]}.{of}".strip("."))
                owner._buffers[of] = b.copy_(copy)
    if wrote:
        raise ValueError(
            "expected a module that writes to no buffer, to stream it, got one that writes to "
            f"{', '.join(wrote)}, once a chunk then; leave it out of stream()"
        )


def _random_states(devices: set[torch.device]) -> list[Tensor]:
    return [torch.get_rng_state(), *map(torch.cuda.get_rng_state, devices)]


@contextlib.contextmanager
def _watched(modules: dict[nn.Module, str]) -> Iterator[list[tuple[nn.Module, list[Tensor]]]]:
    """A list of what the modules without modules of their own give within, in order."""
    outputs: list[tuple[nn.Module, list[Tensor]]] = []

    def see(module: nn.Module, _: Any, output: Any) -> None:
        outputs.append((module, [t.clone() for t in tree_iter(output) if isinstance(t, Tensor)]))

    handles = [m.register_forward_hook(see) for m in modules if not m._modules]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _differ(together: Any, first: Any, second: Any) -> bool:
    """Whether an output is not that by halves, but for rounding."""
    trees = [tree_flatten(output)[0] for output in (together, first, second)]
    for whole, *halves in zip(*trees, strict=True):
        if not isinstance(whole, Tensor) or not whole.dim() or len(whole) != sum(map(len, halves)):
            continue  # has no examples
        both, tolerance = torch.cat(halves), 0.0
        if whole.is_floating_point():
            size = whole.abs().nan_to_num(0, 0).amax().item() if whole.numel() else 0.0
            tolerance = torch.finfo(whole.dtype).eps ** 0.5 * size
        near = (whole == both) | ((whole - both).abs() <= tolerance) if tolerance else whole == both
        if not bool((near | ((whole != whole) & (both != both))).all()):  # NaN is NaN
            return True
    return False
