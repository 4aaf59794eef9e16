"""Work that engines' tests send to workers, which import it by this name."""

import os
import signal
from pathlib import Path


def squared(x: int) -> int:
    if x == 3:
        raise ValueError("three")
    return x * x


def dies(folder: Path, x: int) -> int:
    """Kills its worker the first time; 9 always does."""
    path = folder / str(x)
    tries = int(path.read_text()) if path.exists() else 0
    path.write_text(str(tries + 1))
    if x == 9 or (x == 2 and not tries):
        os.kill(os.getpid(), signal.SIGKILL)
    return x
