"""Progress on standard error: a bar on a terminal, and elsewhere a line now and then."""

import sys
from typing import Any

from tqdm import tqdm

SECONDS = 30.0  # between lines, where there is no terminal


class Progress(tqdm):
    """``tqdm``, whose bar is lines that stay where nothing can be written over."""

    def __init__(self, *words: Any, **settings: Any) -> None:
        self.terminal = sys.stderr.isatty()
        if not self.terminal:
            text = "{desc}: {n_fmt} of {total_fmt} {unit}, {elapsed} so far{postfix}"
            settings |= {"bar_format": text, "mininterval": SECONDS, "miniters": 1}
        super().__init__(*words, **settings)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Show how far it is."""
        if self.terminal:
            super().display(msg, pos)
        else:
            print(str(self), file=sys.stderr, flush=True)
