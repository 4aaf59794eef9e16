"""elastic-2 on MNIST with several perturbations a step in place of one."""

from ezo.train import Run
from reproduce.experiments._runs import QUERIES, SEEDS, training, with_queries

KIND = "queries"


def runs() -> list[Run]:
    """Twenty epochs, three seeds, in fp32."""
    one = training("lenet5", "mnist", ("elastic-2",), seeds=SEEDS, epochs=20)
    return [with_queries(run, QUERIES) for run in one]
