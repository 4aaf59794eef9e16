"""Amounts of memory, as a caller writes them."""

import re

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_BY_LOWER = {unit.lower(): amount for unit, amount in UNITS.items()}


def limit_of(budget: int | str | None) -> int | None:
    """A budget in bytes; None for none.

    Raises:
        ValueError: it is no amount of memory, or below a byte.
    """
    limit = parse_bytes(budget) if isinstance(budget, str) else budget
    if limit is not None and limit < 1:
        raise ValueError(f"expected a budget of 1 byte or more, got {budget}")
    return limit


def parse_bytes(text: str) -> int:
    """An amount of memory in bytes. A unit may be in lower case as a whole.

    >>> parse_bytes("300KB"), parse_bytes("1.5 MiB")
    (300000, 1572864)
    >>> parse_bytes("3mb") == parse_bytes("3MB")
    True

    Raises:
        ValueError: the text is none.
    """
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,15})?) ?((?:[KMG]i?)?B|(?:[kmg]i?)?b)", text.strip())
    if found is None:
        raise ValueError(
            f"expected an amount of memory, a number with one of {', '.join(UNITS)}, got '{text}'; "
            "write for example 300KB"
        )
    return int(float(found[1]) * _BY_LOWER[found[2].lower()])
