"""What an installed wheel must do, run outside the source: kernels compiled, same bits as torch's.

python tests/wheel.py
"""

import sys
from pathlib import Path

import torch

import ezo
from ezo import kernels


def trained(backend: str) -> torch.Tensor:
    """The weights of a small network after three steps on one backend, as bits."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16, 7, generator=generator)
    model = torch.nn.Sequential(torch.nn.Linear(7, 33), torch.nn.Linear(33, 3))
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
    with kernels.using(backend):
        optimizer = ezo.ElasticZO(model, bp=0, lr=1e-3, eps=1e-3, seed=1)
        for _ in range(3):
            optimizer.step(lambda: model(x).square().mean())
    return torch.cat([weight.detach().flatten() for weight in model.parameters()]).view(torch.int32)


def main() -> int:
    """0 where all holds; an error says what doesn't."""
    found = Path(ezo.__file__).resolve().parent
    if found == Path(__file__).resolve().parents[1] / "ezo":
        raise SystemExit(f"expected an installed ezo, got the source in {found}; run it elsewhere")
    if not torch.equal(trained("compiled"), trained("reference")):
        raise SystemExit("expected the same bits of compiled kernels and the reference, got others")
    print(f"ezo from {found}: compiled kernels, same bits as the reference")
    return 0


if __name__ == "__main__":
    sys.exit(main())
