"""The autoencoder of MLPerf Tiny, for anomalies in sounds; it has no classes to tell apart."""

from torch import nn

from ezo.models._init import he

FEATURES = 640  # five frames of 128 mel bands
WIDTHS = (128, 128, 128, 128, 8, 128, 128, 128, 128)


def build(features: int = FEATURES, plain: bool = False) -> nn.Module:
    """Nine layers with batch norm and ReLU, and one that gives the input again.

    Koizumi et al. 2020, Banbury et al. 2021. ``plain`` leaves out batch norm. From (N,
    features) to (N, features); 267,928 parameters.
    """
    layers: list[nn.Module] = []
    narrow = features
    for wide in WIDTHS:
        layers += [nn.Linear(narrow, wide), *([] if plain else [nn.BatchNorm1d(wide)]), nn.ReLU()]
        narrow = wide
    return he(nn.Sequential(*layers, nn.Linear(narrow, features)))
