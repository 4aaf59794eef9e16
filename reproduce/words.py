"""Names as readers say them, and the order in which reports show them."""

import re
from collections.abc import Iterable

FORMS = ("elastic", "tail-only", "elastic-node", "elastic-feedback", "elastic-lean")  # of each k
FIRST = ("inference", "full-zo", "full-zo-node", "full-zo-feedback")
LAST = ("full-bp-checkpoint", "full-bp")
METHODS = (*FIRST, *(f"{form}-{k}" for k in range(1, 8) for form in FORMS), *LAST)
DATA = ("mnist", "fashion-mnist", "modelnet40", "shapes", "digits")
PRECISIONS = ("fp32", "int8", "int8*")
SAID = {
    "mnist": "MNIST",
    "fashion-mnist": "Fashion-MNIST",
    "modelnet40": "ModelNet40",
    "lenet5": "LeNet-5",
    "pointnet": "PointNet",
    "pointnet-bn": "PointNet-BN",
    "fp32": "FP32",
    "int8": "INT8",
    "int8*": "INT8*",
}


def said(name: str) -> str:
    """A model, a data set or a precision in words.

    >>> said("fashion-mnist-rot30"), said("shapes-256")
    ('Fashion-MNIST turned 30°', 'shapes, 256 points')
    """
    base, turned, degrees = name.partition("-rot")
    if turned:
        return f"{said(base)} turned {degrees}°"
    if points := re.fullmatch(r"([a-z-]+?|modelnet40)-(\d+)", name):
        return f"{said(points[1])}, {points[2]} points"
    return SAID.get(name, name)


def control_of(method: str) -> str:
    """The frozen control of a method, or nothing.

    >>> control_of("elastic-2"), control_of("full-zo")
    ('tail-only-2', '')
    """
    found = re.fullmatch(r"elastic-(\d+)", method)
    return f"tail-only-{found[1]}" if found else ""


def ours(method: str) -> str:
    """A method's name, marked where it is none of the paper's.

    >>> ours("elastic-2"), ours("elastic-node-2")
    ('elastic-2', 'elastic-node-2 (ours)')
    """
    new = any(part in method.split("-") for part in ("node", "feedback", "lean"))
    return f"{method} (ours)" if new else method


def of_ours(comparison: str) -> bool:
    """Whether a comparison names a method that is none of the paper's.

    >>> of_ours("elastic-2 minus full-zo, lenet5"), of_ours("elastic-lean-2 over full-zo, lenet5")
    (False, True)
    """
    return any(ours(word) != word for word in comparison.replace(",", "").split())


def method_order(methods: Iterable[str]) -> list[str]:
    """Methods in the order of reports, a frozen control after what it controls."""
    present = set(methods)
    return [m for m in METHODS if m in present] + sorted(present - set(METHODS))


def data_order(names: Iterable[str]) -> list[str]:
    """Data sets, or precisions, in the order of the paper: by base, then by angle or size."""

    def place(name: str) -> tuple[int, str]:
        known = [*PRECISIONS, *DATA]
        at = [n for n, base in enumerate(known) if name == base]
        at += [n for n, base in enumerate(known) if base in DATA and name.startswith(base)]
        return (at[0] if at else len(known)), name

    return sorted(names, key=place)
