"""elastic-2 on digits in int8 with several perturbations a step in place of one."""

from ezo.train import Run
from reproduce.experiments._runs import QUERIES, SEEDS, training, with_queries

KIND = "queries"


def runs() -> list[Run]:
    """Forty epochs, three seeds."""
    one = training("lenet5", "digits", ("elastic-2",), seeds=SEEDS, epochs=40, precision="int8")
    return [with_queries(run, QUERIES) for run in one]
