"""Fine-tune a language model without backpropagation: accuracy against bytes and passes.

    python -m examples.language                                         small, on the CPU
    python -m examples.language --device cuda --shape 1.3b --measure    a step's time and memory

A decoder of OPT's form, made from a configuration, reads sentences of eight words and answers
``good`` or ``bad``. What a word means is its task: it is trained by backpropagation until it knows
the words, and then a quarter of them change their meaning. It is fine-tuned to that by several
ways: zeroth order throughout, the last block by backpropagation, noise on the outputs of layers,
and zeroth order on adapters of low rank (LoRA) alone.
"""

import argparse
import contextlib
import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import ezo
from ezo.data._vision import import_torchvision

WORDS, LENGTH, GOOD, BAD, ASK = 64, 8, 0, 1, 2  # tokens: two answers, a question mark, the words
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Shape:
    """Of a decoder: sizes, vocabulary, and the batch and tokens that it is measured with."""

    hidden: int
    layers: int
    heads: int
    vocabulary: int
    batch: int
    tokens: int


SHAPES = {
    "tiny": Shape(32, 2, 2, 3 + WORDS, 8, 16),
    "1.3b": Shape(2048, 24, 32, 50272, 8, 512),
    "13b": Shape(5120, 40, 40, 50272, 4, 512),
}


def decoder(shape: Shape, device: str, dtype: torch.dtype) -> nn.Module:
    """A Hugging Face decoder with random weights, made where it stays; nothing is downloaded."""
    with contextlib.suppress(ModuleNotFoundError):  # transformers wants it whole, if it is there
        import_torchvision()
    from transformers import OPTConfig, OPTForCausalLM

    config = OPTConfig(
        hidden_size=shape.hidden,
        word_embed_proj_dim=shape.hidden,
        ffn_dim=4 * shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        vocab_size=shape.vocabulary,
        max_position_embeddings=max(2 * shape.tokens, 64),
        dropout=0.0,
        attention_dropout=0.0,
        pad_token_id=None,
        use_cache=False,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            model = OPTForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    model = model.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() > 1:
                p.normal_(0, 0.02, generator=generator)
            else:
                p.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
    model.tie_weights()
    found: nn.Module = model.eval()  # no dropout, so nothing else changes
    return found


class LoRA(nn.Module):
    """W x + B A x (Hu et al. 2021), of rank r: W stays, B begins at 0."""

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        self.linear, like = linear, linear.weight
        generator = torch.Generator().manual_seed(linear.in_features)
        a = torch.randn(rank, linear.in_features, generator=generator) / linear.in_features**0.5
        self.a = nn.Parameter(a.to(like))
        self.b = nn.Parameter(torch.zeros(linear.out_features, rank).to(like))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + x @ self.a.t() @ self.b.t()


def add_lora(model: Any, rank: int = 8) -> list[nn.Parameter]:
    """Adapters at the attention's queries and values, alone to train; the rest is frozen."""
    model.requires_grad_(False)
    for layer in model.model.decoder.layers:
        for name in ("q_proj", "v_proj"):
            setattr(layer.self_attn, name, LoRA(getattr(layer.self_attn, name), rank))
    return [p for p in model.parameters() if p.requires_grad]


def meanings(shifted: bool) -> Tensor:
    """Each word's, 1 or -1; a quarter of them otherwise once the task has shifted."""
    of = torch.ones(WORDS)
    of[: WORDS // 2] = -1
    if shifted:
        of[:: WORDS // 16][:16] *= -1
    return of


def sentences(n: int, seed: int, shifted: bool, device: str) -> tuple[Tensor, Tensor]:
    """Words with a question mark at the end, (n, LENGTH + 1), and answers, (n,)."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(0, WORDS, (n, LENGTH), generator=generator)
    total = meanings(shifted)[words].sum(1) + 0.5 * meanings(shifted)[words[:, 0]]  # never 0
    x = torch.cat([words + 3, torch.full((n, 1), ASK)], dim=1)
    return x.to(device), (total < 0).long().to(device)


def losses(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Each sentence's, (N,)."""
    logits = model(input_ids=x, logits_to_keep=1).logits[:, -1, :2]
    return nn.functional.cross_entropy(logits.float(), y, reduction="none")


@torch.no_grad()
def accuracy(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    x, y = data
    logits = model(input_ids=x, logits_to_keep=1).logits[:, -1, :2]
    return 100 * (logits.argmax(1) == y).float().mean().item()


def pretrain(model: nn.Module, steps: int, batch: int, device: str) -> None:
    """By backpropagation, on the words as they were."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(steps):
        optimizer.zero_grad()
        losses(model, *sentences(batch, step, False, device)).mean().backward()
        optimizer.step()
    optimizer.zero_grad()


def optimizers(model: Any, way: str) -> Any:
    """The optimiser of a way to fine-tune."""
    blocks = model.model.decoder.layers
    if way == "bp":
        return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    if way == "lora":
        add_lora(model)
        return ezo.ElasticZO(model, 0, lr=2e-2, eps=1e-2, clip=1.0, noise="gaussian-16")
    bp = [*blocks[-1].parameters()] if way == "elastic" else 0
    return ezo.ElasticZO(
        model, bp, lr=1e-4, eps=1e-3, clip=20.0, noise="gaussian-16",
        bp_optimizer=lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    )  # fmt: skip


WAYS = ("full-zo", "elastic", "lora", "bp")


def peak_bytes(device: str, model: nn.Module, step: Callable[[], Any]) -> int:
    """The most bytes of tensors during a step."""
    step()
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated()
    from ezo.livebytes import step_peak

    return step_peak(lambda: (model, step)).peak_bytes


def fine_tune(model: nn.Module, way: str, steps: int, batch: int, device: str) -> dict[str, Any]:
    """Accuracy on the shifted task, with the passes and bytes that it took."""
    model = copy.deepcopy(model)
    optimizer = optimizers(model, way)
    at = 0

    def step() -> Any:
        nonlocal at
        x, y = sentences(batch, 1_000_000 + at, True, device)
        at += 1
        if way != "bp":
            return optimizer.step(lambda: losses(model, x, y))
        optimizer.zero_grad()
        losses(model, x, y).mean().backward()
        optimizer.step()

    most = peak_bytes(device, model, step)
    started = time.perf_counter()
    while at < steps:
        step()
    seconds = time.perf_counter() - started
    found = accuracy(model, sentences(1024, 7, True, device))
    passes = 3 * at if way == "bp" else 2 * at  # a backward pass counts as two
    return {"way": way, "accuracy": found, "passes": passes, "bytes": most, "seconds": seconds}


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--steps", type=int, default=3000, help="of fine-tuning")
    parser.add_argument("--pretrain-steps", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--measure", action="store_true", help="a step's time and bytes alone")
    given = parser.parse_args(arguments)
    model = decoder(SHAPES[given.shape], given.device, DTYPES[given.dtype])
    if given.measure:
        return measured(model, SHAPES[given.shape], given.device)
    pretrain(model, given.pretrain_steps, given.batch_size, given.device)
    for shifted in (False, True):
        known = accuracy(model, sentences(1024, 7, shifted, given.device))
        print(f"before, {'shifted' if shifted else 'trained'} task: {known:.1f} %")
    found = []
    for way in given.ways:
        found.append(fine_tune(model, way, given.steps, given.batch_size, given.device))
        row = found[-1]
        print(
            f"{way:<8} {row['accuracy']:6.1f} %  {row['passes']:>7} passes  {row['bytes']:>12,} B  "
            f"{row['seconds']:.1f} s"
        )
    return found


def measured(model: nn.Module, shape: Shape, device: str) -> list[dict[str, Any]]:
    """A pass of inference, and a step of full ZO, at a shape's own batch."""
    ids = torch.randint(3, shape.vocabulary, (shape.batch, shape.tokens), device=device)

    def loss() -> Tensor:
        found: Tensor = model(input_ids=ids, labels=ids).loss
        return found

    optimizer = ezo.ElasticZO(model, 0, lr=1e-7, eps=1e-3, noise="rademacher-1")
    found: list[dict[str, Any]] = []
    for name, step in (("forward", torch.no_grad()(loss)), ("step", lambda: optimizer.step(loss))):
        step()
        most = peak_bytes(device, model, step)
        started = time.perf_counter()
        float(step())
        found.append({"way": name, "seconds": time.perf_counter() - started, "bytes": most})
        print(f"{name:<8} {1e3 * found[-1]['seconds']:9.2f} ms  {most:>15,} B")
    return found


if __name__ == "__main__":
    main()
