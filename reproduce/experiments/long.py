"""How near full BP elastic-2 comes at many times the passes, beside full BP, in integers.

A pass takes a quarter of its time in floats there.
"""

from ezo.train import Run
from reproduce.experiments._runs import MANY_QUERIES, SEEDS, training, with_queries

KIND = "long"


def runs() -> list[Run]:
    """Fifty epochs, three seeds, int8."""
    return [
        run if run.method == "full-bp" else with_queries(run, MANY_QUERIES)
        for data in ("mnist", "fashion-mnist")
        for run in training(
            "lenet5", data, ("elastic-2", "full-bp"), seeds=SEEDS, epochs=50, precision="int8"
        )
    ]
