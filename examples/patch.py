"""A fine-tuned transformer as a patch of kilobytes beside its base.

``python examples/patch.py``: a small decoder-only transformer learns to continue text, byte by
byte, by backpropagation; that is the base. Full ZO then fine-tunes it on another text, and keeps a
journal. The base and the journal give the fine-tuned weights again, bit by bit, without the text.
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

import ezo
from ezo import checkpoint
from ezo.journal import Journal, replay

CONTEXT, BATCH = 64, 16


class Transformer(nn.Module):
    """Bytes (N, T) to logits of the next byte (N, T, 256)."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(256, width), nn.Embedding(CONTEXT, width)
        block = nn.TransformerEncoderLayer(
            width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 256)

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        h = self.embed(x) + self.place.weight[: x.shape[1]]
        return self.head(self.blocks(h, mask=mask, is_causal=True))


def text_of(*modules: str) -> Tensor:
    """The sources of modules that come with torch, as bytes."""
    root = Path(torch.__file__).parent
    return torch.frombuffer(
        bytearray(b"".join((root / name).read_bytes() for name in modules)), dtype=torch.uint8
    ).long()


def batch(text: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    first = torch.randint(len(text) - CONTEXT - 1, (BATCH, 1), generator=generator)
    at = first + torch.arange(CONTEXT + 1)
    return text[at][:, :-1], text[at][:, 1:]


def loss_of(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())


def pretrain(model: nn.Module, steps: int) -> None:
    text, generator = text_of("nn/modules/linear.py"), torch.Generator().manual_seed(0)
    adam = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(steps):
        adam.zero_grad()
        loss_of(model, *batch(text, generator)).backward()
        adam.step()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=128, help="of the transformer")
    parser.add_argument("--layers", type=int, default=4, help="of the transformer")
    parser.add_argument("--base-steps", type=int, default=100, help="steps of backpropagation")
    parser.add_argument("--steps", type=int, default=200, help="steps of full ZO")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Transformer(given.width, given.layers)
    pretrain(model, given.base_steps)
    base = {name: t.clone() for name, t in model.state_dict().items()}
    text, generator = text_of("optim/sgd.py"), torch.Generator().manual_seed(1)
    held = [batch(text, generator) for _ in range(4)]

    def mean_loss() -> float:
        with torch.no_grad():
            return sum(loss_of(model, *of).item() for of in held) / len(held)

    before = mean_loss()
    optimizer = ezo.ElasticZO(model, bp=0, lr=2e-5, eps=1e-3, clip=20.0)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "patch.ezoj"
        started = time.perf_counter()
        with Journal(path, model, optimizer, about={"text": "optim/sgd.py"}):
            for _ in range(given.steps):
                of = batch(text, generator)
                optimizer.step(lambda of=of: loss_of(model, *of))  # type: ignore[misc]
        trained = time.perf_counter() - started
        started = time.perf_counter()
        found = replay(path, base)
        replayed = time.perf_counter() - started
        same = checkpoint.digest(found.tensors) == checkpoint.digest(model.state_dict())
        print(f"base           {sum(t.nbytes for t in base.values()):>12,} bytes")
        print(f"patch          {path.stat().st_size:>12,} bytes, {given.steps:,} steps")
        print(f"loss           {before:.3f} -> {mean_loss():.3f} nat a byte")
        print(f"same weights   {same}")
        print(f"replay         {replayed / trained:.2f} of the time of the fine-tuning")


if __name__ == "__main__":
    main()
