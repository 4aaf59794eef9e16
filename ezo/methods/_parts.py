"""A method in words that hold for every number format."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Parts:
    """What trains each layer.

    Attributes:
        bp: number of last layers that backpropagation trains, or ``all``.
        zo: whether zeroth order trains those before; else they keep their initial weights.
    """

    bp: int | str
    zo: bool = True
