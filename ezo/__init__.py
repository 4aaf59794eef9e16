"""ElasticZO: train the first layers with two forward passes, the last by backpropagation.

Sugiura and Matsutani, "ElasticZO: A Memory-Efficient On-Device Learning with Combined Zeroth- and
First-Order Optimization", arXiv 2501.04287.
"""

from ezo.estimate import Estimate
from ezo.nodes import Feedback, Nodes
from ezo.optim import ElasticZO
from ezo.ranks import Ranks
from ezo.split import layers, split
from ezo.stream import stream

__all__ = ["ElasticZO", "Estimate", "Feedback", "Nodes", "Ranks", "layers", "split", "stream"]
