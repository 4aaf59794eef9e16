"""Learned feedback: from the error at the model's output to each layer's, by what noise shows.

Node perturbation (`ezo.nodes`) finds each example's error anew in every step. This learns the way
there, a matrix F_l (U, C) for each layer, and steps along what it says:

    eps_i  = the loss's gradient at the model's outputs, (C,): for cross-entropy softmax - one-hot
    hat_il = on_il (F_l eps_i);     the last layer's, where it is perturbed, is eps_i itself
    res_i  = d_i - sigma sum_l n_il' hat_il
    est_il = on_il n_il res_i / sigma
    F_l   <- F_l + eta mean_i est_il eps_i'
    e_il   = hat_il + mix est_il

and W, b learn from e as in `ezo.nodes`. F starts at 0 and follows the least squares of the error on
eps, as the noise shows it; with ``mix=0`` the step is biased as far as that is not linear, and has
far less noise. Nothing is carried back through a layer: autograd meets the loss alone. Close to
feedback alignment with learned weights (Akrout et al. 2019; Lansdell et al. 2020).

Index letters: as in `ezo.nodes`; C output of the model.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ezo import check
from ezo.nodes.layers import Layer, Nodes
from ezo.nodes.perturbation import NodePerturbation, NodeUpdate, learn_layer
from ezo.passes import Passes
from ezo.step import Difference, Losses
from ezo.stream import is_end_of


@dataclass(frozen=True)
class Feedback(Nodes):
    """`Nodes` that learn the way from the model's error to their own.

    Attributes:
        eta: learning rate of the feedback. Stable below about 2 N / U, U the units of all layers
            with nodes in a batch of N examples (least mean squares, |eps| near 1).
        mix: share of what the noise shows of an example in the update, beside the feedback's.
    """

    lr: float = 0.01
    eta: float = 0.1
    mix: float = 0.0


def feedback_of(
    nodes: bool | Nodes | Sequence[Nodes], queries: int, layers: list[list[Layer]]
) -> Feedback | None:
    """What nodes learn the way from the model's error by, or None."""
    if not (isinstance(nodes, Feedback) and layers):
        return None
    check.integer("queries, with feedback,", queries, 1, 1)
    check.expect("eta", nodes.eta, check.finite(nodes.eta), "a finite number")
    check.expect("mix", nodes.mix, check.finite(nodes.mix), "a finite number")
    return nodes


class FeedbackPerturbation(NodePerturbation):
    """As `NodePerturbation`, of one query.

    Args:
        model: whose output the error is taken at.
        how: eta and mix.
        feedback: F by the layers' numbers; made and changed here.
        arguments: of `NodePerturbation`.
    """

    def __init__(
        self, model: nn.Module, how: Feedback, feedback: dict[int, Tensor], *arguments: Any
    ) -> None:
        super().__init__(*arguments)
        self._model, self._how, self._feedback = model, how, feedback
        self._outputs: list[Tensor] = []  # of the model, in this pass
        self._errors: list[Tensor] = []  # eps, (N, C), of each pass that took a gradient
        self._last: int | None = None  # the layer whose output is the model's

    @contextlib.contextmanager
    def attached(self, passes: Passes) -> Iterator[None]:
        handle = self._model.register_forward_hook(self._at_output)
        try:
            with super().attached(passes):
                yield
        finally:
            handle.remove()
            self._outputs, self._errors = [], []

    def _at_output(self, module: Any, inputs: Any, output: Any) -> Tensor | None:
        if not (isinstance(output, Tensor) and output.dim() == 2):
            form = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                "expected a model with an output (N, C), whose error feedback learns from, got "
                f"{form}; give Nodes in place of Feedback"
            )
        number, seen = self._latest
        self._last, self._latest = number if is_end_of(seen, output) else None, (-1, None)
        if not torch.is_grad_enabled():
            return None
        if output.requires_grad:
            output.retain_grad()
        else:
            output = output.detach().requires_grad_()
        self._outputs.append(output)
        return output

    def move(self, query: int, start: int, end: int) -> None:
        self._collect()
        super().move(query, start, end)

    def learn(self, query: int, losses: Losses, difference: Difference) -> NodeUpdate:
        update = super().learn(query, losses, difference)
        self._collect()
        n = len(update.differences)
        if not self._errors or any(len(error) != n for error in self._errors):
            raise ValueError(
                "expected the closure to call the model once for each example, and the loss to be "
                f"of its output, got errors for {[len(error) for error in self._errors]} examples "
                f"and losses for {n}; call the model itself, or give Nodes in place of Feedback"
            )
        return update

    def _collect(self) -> None:
        """The error at the model's output in the pass that ended, if it took a gradient."""
        assert self._passes is not None
        errors = [output.grad for output in self._outputs if output.grad is not None]
        if errors:
            self._errors.append(torch.cat(errors).div_(self._passes.share))
        self._outputs = []

    def apply(self, update: NodeUpdate, start: int) -> None:
        eps = torch.stack(self._errors).mean(0)  # (N, C)
        n, eta, mix = len(eps), self._how.eta, self._how.mix
        ((sigma, clip, rate, decay),) = update.groups
        d = update.differences
        if clip is not None:
            d = d.clamp(-clip * sigma, clip * sigma)
        ones, shown = torch.ones_like(d), []
        residual = d.to(eps.dtype, copy=True)
        for layer in self._groups[0]:
            noise = torch.cat(self._of_calls(layer, update.query, ones))  # on n, (N, U)
            hat = eps if layer.number == self._last else self._hat(layer, eps)
            residual.sub_((noise * hat).sum(1), alpha=sigma)
            shown.append((layer, noise, hat))
        residual.div_(sigma)
        for layer, noise, hat in shown:
            shows = noise.mul_(residual.unsqueeze(1))  # est
            error = hat.add(shows, alpha=mix) if mix else hat
            if layer.number != self._last:
                error = error * self._on(layer)
                self._feedback[layer.number].addmm_(shows.mT, eps, alpha=eta / n)
            sizes = [len(call.x) for call in self._calls[layer.number]]
            learn_layer(
                layer, self._calls[layer.number], list((error / n).split(sizes)), rate, decay
            )

    def _hat(self, layer: Layer, eps: Tensor) -> Tensor:
        """F eps of each example, (N, U)."""
        units = len(layer.parameters[0])
        made = self._feedback.get(layer.number)
        if made is None:
            made = self._feedback[layer.number] = eps.new_zeros(units, eps.shape[1])
        return eps @ made.mT

    def _on(self, layer: Layer) -> Tensor | float:
        on = [call.on for call in self._calls[layer.number] if call.on is not None]
        return torch.cat(on) if on else 1.0

    def _of_calls(self, layer: Layer, query: int, scale: Tensor) -> list[Tensor]:
        if any(call.x.dim() > 2 for call in self._calls[layer.number]) and not layer.maximum:
            raise ValueError(
                f"expected an output (N, U) of '{layer.name}' for feedback, got one with positions;"
                " leave it out of the nodes' layers, or give Nodes in place of Feedback"
            )
        calls = self._calls[layer.number]
        return [self._error(layer, query, call, scale) for call in calls]


def loaded(state: dict[str, Any], layers: Sequence[Sequence[Layer]]) -> dict[int, Tensor]:
    """A copy of a state's feedback, by the layers' numbers.

    Raises:
        ValueError: it is of other layers.
    """
    units = {layer.number: len(layer.parameters[0]) for of in layers for layer in of}
    found = {int(number): f.clone() for number, f in state.get("feedback", {}).items()}
    for number, f in found.items():
        if number not in units or f.dim() != 2 or len(f) != units[number]:
            raise ValueError(
                f"expected feedback (U, C) of the layers with nodes, got {tuple(f.shape)} of "
                f"number {number}; make the optimiser with the same nodes"
            )
    return found
