"""Fine-tuning of elastic-1 from MNIST with eight perturbations a step."""

from dataclasses import replace

from ezo.train import Run
from reproduce.experiments._runs import MANY_QUERIES, MORE_SEEDS, SEEDS, with_queries
from reproduce.experiments.fine_tuning import PRECISIONS, PRIMARY, tuned

KIND = "fine-tuning-queries"
FASTER = 2  # fp32's rate, over what the root of the queries makes it


def runs() -> list[Run]:
    """Three seeds; on `PRIMARY` five."""
    found = []
    for precision in PRECISIONS:
        every = tuned("mnist", SEEDS, precision)
        every += [run for run in tuned("mnist", MORE_SEEDS, precision) if run.data == PRIMARY]
        for run in every:
            if run.method == "elastic-1":
                more = with_queries(run, MANY_QUERIES)
                if precision == "fp32":
                    more = replace(more, hyper=replace(more.hyper, lr=FASTER * more.hyper.lr))
                found.append(more)
    return found
