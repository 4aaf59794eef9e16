"""PointNet without batch norm on clouds that stand upright, ZO by weights and by nodes."""

from ezo.train import Run
from reproduce.experiments._runs import SEEDS, training

KIND = "training"
MODEL, DATA = "pointnet-centred", "shapes-upright-64"
METHODS = (
    *("full-zo-node", "tail-only-1", "elastic-node-1", "full-zo", "elastic-1"),
    *("tail-only-2", "elastic-node-2", "elastic-2"),
    *("full-zo-feedback", "elastic-feedback-1", "full-bp"),
)


def runs() -> list[Run]:
    """240 epochs of 125 steps, three seeds, in fp32: 60,000 passes of 32 clouds with ZO."""
    return training(MODEL, DATA, METHODS, seeds=SEEDS, epochs=240)
