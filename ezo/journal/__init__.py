"""A training run as its seeds and its scalars: a file of kilobytes that makes the weights again.

`Journal` keeps what each step of an ``ElasticZO`` applied; `replay` repeats it from the initial
weights, to the same bits, without data and without a forward pass. The format is in
`ezo.journal.records` and `ezo.journal.chunk`.
"""

from ezo.journal.replay import Replayed, replay
from ezo.journal.writer import Journal

__all__ = ["Journal", "Replayed", "replay"]
