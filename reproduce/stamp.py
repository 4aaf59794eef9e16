"""Which code made a run: a digest of the sources that can change its rows."""

import functools
import hashlib
from pathlib import Path

from ezo.files import write_text
from ezo.rows import Row

ROOT = Path(__file__).resolve().parent.parent / "ezo"
SUFFIXES = (".py", ".cpp", ".hpp")  # not tuned.json: a run's name covers its values
APART = ("cli.py", "conformance.py", "plan/")  # no training run reads them
FILE = "source"  # in a run's folder: the digests of what trained it, a line each
UNKNOWN = "unknown"


def digest(root: Path = ROOT) -> str:
    """Of the sources below ``root``, as twelve hexadecimal digits."""
    sha = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.suffix in SUFFIXES and not name.startswith(APART):
            sha.update(name.encode() + b"\0" + path.read_bytes())
    return sha.hexdigest()[:12]


here = functools.cache(digest)


def note(folder: Path, begun: bool) -> None:
    """Before a run is trained in its folder: what trains it, after what did where it was begun."""
    made = (of(folder) or UNKNOWN).split("+") if begun else []
    lines = dict.fromkeys([*made, here()])
    write_text(folder / FILE, "".join(f"{line}\n" for line in lines))


def of(folder: Path) -> str:
    """What trained the run in a folder; several, joined by +, where the code changed on the way."""
    path = folder / FILE
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    return "+".join(text.split())


def ended(part: list[Row]) -> bool:
    """Whether a run came to its end, or a measurement gave a number or said why there is none."""
    if not part:
        return False
    last = part[-1]
    return (
        last.metric in ("finished", "diverged")
        if last.seed is not None
        else last.metric != "failed"
    )
