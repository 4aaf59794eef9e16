"""PointNet with batch norm on shapes, which stand in for ModelNet40."""

from ezo.train import Run
from reproduce.experiments._runs import METHODS, SEEDS, training

KIND = "training"


def runs() -> list[Run]:
    """Fifteen epochs, three seeds, in fp32."""
    return training("pointnet-bn", "shapes-256", METHODS, seeds=SEEDS, epochs=15)
