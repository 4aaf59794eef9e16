"""Running a closure of torch's several times in a step, as if it had been run once."""

import contextlib
import math
from collections.abc import Callable
from types import GeneratorType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ezo.buffers import Buffers
from ezo.phases import phase
from ezo.ranks import Exchange
from ezo.step import Visit

_nothing = contextlib.nullcontext()
_BACKWARD_WAS_RUN = "backward through the graph a second time", "does not require grad"


def here(x: Tensor) -> bool:
    """Whether to read a number costs no wait for a device."""
    return x.is_cpu


class PassLoss(NamedTuple):
    """The loss of a pass: the mean, and each example's, (N,), where the closure gave them.

    The mean is a float, or where the loss lies on a device float64 there, ().
    """

    mean: Any
    examples: Tensor | None


class Passes:
    """Runs a step's passes; on leaving, the model is as it was.

    Within, the ZO parameters don't require gradients, every pass draws the same random numbers and
    begins with the same buffers, of which those of the first pass stay (`ezo.buffers`). With no
    ZO parameter there is one pass. Each gradient of the BP parameters is taken with ``weight``.

    The closure returns the loss: a scalar, or each example's, (N,), whose mean is taken here; or
    yields that of each micro-batch, which is backpropagated before the next is asked for. Scalars
    that are yielded add up, and vectors are one vector of all examples.

    A loss on a device stays there: where the step ``decides`` by it whether to go on, that is the
    one time that it waits for the device; else never. A ``captured`` step draws no random numbers.

    Attributes:
        dtype, device: of the first pass's loss.
        first: the index in the batch of the current micro-batch's first example, as far as the
            closure yields vectors.
        share: of an example's loss in the gradient of the last pass's backward.
    """

    dtype: torch.dtype
    device: torch.device

    def __init__(
        self,
        closure: Callable[[], Any],
        model: nn.Module,
        buffers: Buffers,
        zo: list[nn.Parameter],
        bp: list[nn.Parameter],
        weight: float,
        exchange: Exchange | None = None,
        *,
        decides: bool = True,
        captured: bool = False,
    ) -> None:
        self._decides, self._captured = decides, captured
        self._closure, self._bp, self._weight = closure, bp, weight
        self._exchange = exchange
        self._random_state = _RandomState(model) if zo and not captured else None
        self._zo = zo
        self._required = [p for p in zo if p.requires_grad]
        self._buffers = buffers
        self._ran = self._finite = False
        self.first = 0
        self.share = weight

    def __enter__(self) -> "Passes":
        for p in self._required:
            p.requires_grad_(False)
        self._buffers.begin()
        return self

    def __exit__(self, *_: object) -> None:
        if self._zo:
            torch.autograd.graph.increment_version(self._zo)
        for p in self._required:
            p.requires_grad_(True)
        self._buffers.end(self._finite)

    def loss(self, visit: Visit) -> PassLoss:
        """The closure's loss; where ``visit.bp``, its gradient is added to the BP parameters'."""
        if self._ran and self._random_state is not None:
            self._random_state.restore()
        if self._ran:
            self._buffers.again()
        self.first = 0
        try:
            given = self._run(self._closure, visit.bp)
            if isinstance(given, GeneratorType):
                found = self._micro_batches(given, visit.bp)
            else:
                value, examples = self._checked(given, visit.bp)
                if examples is not None:
                    self.share = self._weight / max(len(examples), 1)
                    with torch.enable_grad() if visit.bp else _nothing:
                        value = value.mean()
                if visit.bp:
                    self._backward(value)
                found = PassLoss(self.read(value), examples)
        except RuntimeError as error:
            if any(words in str(error) for words in _BACKWARD_WAS_RUN):
                raise RuntimeError(
                    "the closure must compute the loss from the model, return it, and leave "
                    "backward() to step(). Where it needs a gradient itself, of the inputs for "
                    "one, it takes that within torch.enable_grad(): ZO passes record none, and ZO "
                    "weights have none"
                ) from error
            raise
        self._ran = True
        return found

    def together(self, taken: list[tuple[Visit, PassLoss]]) -> list[tuple[Visit, PassLoss]]:
        """Of all ranks' passes: the mean over the ranks, or the passes that each of them made."""
        if self._exchange is None:
            return taken
        visits = [visit for visit, _ in taken]
        of = taken[0][1].examples
        losses = [float(loss.mean) for _, loss in taken]
        means = self._exchange.together(visits, losses, 0 if of is None else len(of))
        return [(visit, PassLoss(mean, None)) for visit, mean in means]

    def finite(self, losses: list[PassLoss]) -> Any:
        """Whether every loss is; a tensor of that where the step does not decide by it."""
        means = [loss.mean for loss in losses]
        if any(isinstance(mean, Tensor) for mean in means):
            found = torch.stack([torch.as_tensor(mean) for mean in means]).isfinite().all()
            self._finite = True
            if not self._decides:
                return found
            self._finite = self.wait(found)
        else:
            self._finite = all(map(math.isfinite, means))
        return self._finite

    def wait(self, flag: Tensor) -> bool:
        """What a device found: the one place where a step waits for it."""
        return bool(flag.item())

    def read(self, loss: Tensor) -> Any:
        """The number in a tensor, float64, where it lies; of the CPU's a float."""
        return loss.item() if here(loss) else loss.detach().to(torch.float64).reshape(())

    def _run(self, function: Callable[[], Any], bp: bool) -> Any:
        gradients = [p.grad for p in self._bp]
        with phase("forward"):
            if bp:
                with torch.enable_grad():
                    given = function()
            else:
                given = function()
        for p, gradient in zip(self._bp, gradients, strict=True):
            p.grad = gradient  # the closure may have cleared what an earlier pass left
        return given

    def _checked(self, loss: Any, bp: bool) -> tuple[Tensor, Tensor | None]:
        """The loss, and once more, detached, where it is a vector."""
        if not isinstance(loss, Tensor):
            if bp:
                field = isinstance(getattr(loss, "loss", None), Tensor)
                raise ValueError(
                    "expected the closure to return the loss as a tensor, which BP takes the "
                    f"gradient of, got {type(loss).__name__}; return "
                    f"{'its field loss' if field else 'the loss itself, and not loss.item()'}"
                )
            loss = self._number(loss)
        elif bp and not loss.requires_grad:
            raise ValueError(
                "expected a loss that depends on the BP part, got one that needs no gradient; "
                "leave out detach(), no_grad() and .data, or give a bp with layers that the loss "
                "uses"
            )
        dimensions = loss.dim()
        if dimensions > 1 and loss.numel() != 1:
            raise ValueError(
                "expected the closure to return a scalar loss or each example's, (N,), got shape "
                f"{tuple(loss.shape)}; reduce it, for example with mean()"
            )
        if not self._ran:
            self.dtype, self.device = loss.dtype, loss.device
        return loss, loss.detach() if dimensions == 1 else None

    def _number(self, loss: Any) -> Tensor:
        """What full ZO takes, which asks for nothing but a number."""
        try:
            return torch.as_tensor(loss)
        except (TypeError, ValueError, RuntimeError) as error:
            field = isinstance(getattr(loss, "loss", None), Tensor)
            raise ValueError(
                "expected the closure to return the loss, a tensor or a number, got "
                f"{type(loss).__name__}; return {'its field loss' if field else 'the loss itself'}"
            ) from error

    def _backward(self, value: Tensor) -> None:
        with phase("backward"):
            value.backward(torch.full_like(value, self._weight))

    def _micro_batches(self, parts: Any, bp: bool) -> PassLoss:
        earlier = [p.grad for p in self._bp]  # of other passes
        for p in self._bp if bp else ():
            p.grad = None
        total: Any = 0.0
        count, end = 0, object()
        vectors: list[Tensor] = []
        while (given := self._run(lambda: next(parts, end), bp)) is not end:
            value, examples = self._checked(given, bp)
            if count and (examples is not None) != bool(vectors):
                raise ValueError(
                    "expected the closure to yield scalars or vectors, got both; yield each "
                    "micro-batch's losses in one form"
                )
            if examples is not None:
                vectors.append(examples)
                with torch.enable_grad() if bp else _nothing:
                    value = value.sum()
            if bp:
                self._backward(value)
            total += self.read(value)
            count += 1
            self.first += 0 if examples is None else len(examples)
            del given, value
        if not count:
            raise ValueError(
                "expected the closure to yield the loss of each micro-batch, got none; yield one "
                "at least, or return the loss"
            )
        n = self.first if vectors else 1
        for p, old in zip(self._bp, earlier, strict=True) if bp else ():
            if vectors and p.grad is not None:
                p.grad.div_(n)
            if old is not None:
                p.grad = old if p.grad is None else old.add_(p.grad)
        return PassLoss(total / n, torch.cat(vectors) if vectors else None)


def drawn(model: nn.Module) -> list[bytes]:
    """The states of torch's generators, which change as a pass of the model draws from them."""
    state = _RandomState(model)
    return [x.numpy().tobytes() for x in (state.cpu, *(of for _, of in state.cuda))]


class _RandomState:
    """The state of torch's generators that a forward pass of the model may draw from."""

    def __init__(self, model: nn.Module) -> None:
        self.cpu = torch.default_generator.get_state()
        devices = set()
        if torch.cuda.is_initialized():
            devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
        self.cuda = [(device, torch.cuda.get_rng_state(device)) for device in devices]

    def restore(self) -> None:
        torch.default_generator.set_state(self.cpu)
        for device, state in self.cuda:
            torch.cuda.set_rng_state(state, device)
