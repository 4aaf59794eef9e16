"""The rules of judging, in one file: margins, primary comparisons, seeds, data.

The report prints when `PRIMARY` and `MARGINS` were first written, and when each was last changed.
Rows of the same runs were known then, so nothing here was chosen blindly; a run that was made again
since is no new evidence of what it had shown before.

1. A verdict comes from an interval and a bound. The claim is *reproduced* where the whole interval
   meets the bound less the margin of `MARGINS`, *contradicted* where none of it does, *exceeded*
   where all of it is better than the printed range, and *undecided* otherwise.
2. Each claim of the paper's abstract that says what would meet it has one primary comparison
   (`PRIMARY`): of accuracy elastic-2's, of INT8's memory and time full-zo's, beside which
   elastic-2's stands. Every other comparison is exploratory, and the report prints how many of
   those over seeds chance alone would call reproduced (`expected_by_chance`). That ElasticZO is "a
   better trade-off" is not judged, since the abstract does not say by what measure.
3. What a primary comparison of accuracy is made of, and its frozen control, has `SEEDS` seeds; so
   have the other runs of LeNet-5 from fresh weights by the six methods of the paper's tables, in
   fp32 and int8, and INT8 in the paper's form. Every other experiment has `LEAST_SEEDS`, for the
   time that it takes, or more where its file says so. With fewer nothing is decided.
4. Methods, data and precisions are compared at one search budget. Where the trials behind two sides
   differ in number (`reproduce.budgets`), the comparison is an indication and no verdict.
5. Nothing is compared with a method that has not learnt: full-zo within `NEAR_CHANCE` points of
   guessing is no baseline.
6. There are verdicts of accuracy on the paper's data alone (`PAPER_DATA`); on clouds of points that
   a program makes all is an indication, also of claims of our own.
"""

import statistics
from collections.abc import Iterable
from typing import NamedTuple

from ezo.rows import Row
from reproduce.select import value

SEEDS = 5
LEAST_SEEDS = 3
CONFIDENCE = 0.95  # of a two-sided interval
NEAR_CHANCE = 5.0  # points
PAPER_DATA = ("mnist", "fashion-mnist", "modelnet40")
CHANCE = {"shapes": 6.25, "modelnet40": 2.5}  # %, of data by the beginning of its name
OTHER_CHANCE = 10.0  # %, of ten classes


class Margin(NamedTuple):
    """How far from a claim's bound a value may lie and still meet it.

    Attributes:
        size: in the claim's unit.
        reason: why so much.
    """

    size: float
    reason: str


EXACT = "none: the quantity is the same on every run"
SAID = "none: the paper says that there is an effect, and gives no size; so any above none meets it"
TARGET = "none: the bound is a target of our own, set before the runs"
MARGINS = {
    "ablation": Margin(0.0, "none: the question is whether there is an effect at all"),
    "convergence": Margin(0.0, SAID),
    "fine-tune": Margin(
        -1.0,
        "one point more than none, since any training at all lies above 0; one point is what we "
        "call a difference of accuracy throughout",
    ),
    "fine-tune-recovery": Margin(0.0, TARGET),
    "gain": Margin(0.0, "none: the printed range has a lower end"),
    "gap": Margin(0.0, SAID),
    "inference-memory": Margin(0.0, EXACT + ". 2 % is our reading of 'almost'"),
    "int8-accuracy": Margin(
        1.0,
        "one point, fixed for every method and data set: about a fifth of the least gain that the "
        "paper prints, so that a loss within it can't undo what ElasticZO adds",
    ),
    "int8-memory": Margin(0.0, EXACT),
    "int8-only": Margin(0.0, EXACT + ", and one is too many"),
    "int8-time": Margin(0.0, "none: the printed range has a lower end"),
    "near-bp": Margin(0.0, TARGET),
    "node-gain": Margin(0.0, "none: the question is whether there is an effect at all"),
    "node-memory": Margin(0.0, EXACT + ". 2 % as for inference-memory"),
    "node-reach": Margin(0.0, TARGET),
    "node-share": Margin(0.0, "none: the question is whether there is an effect at all"),
    "noises": Margin(
        0.5, "half of what we call a difference of accuracy throughout, set before the runs"
    ),
    "overhead": Margin(0.0, EXACT),
    "queries": Margin(0.0, "none: the question is whether there is an effect at all"),
}


class Sentence(NamedTuple):
    """A sentence of the abstract and the one comparison that it is judged by.

    Attributes:
        claim: id of the claim.
        text: the sentence, in short.
        compared: the finding's comparison; ``{data}`` is the preset's first data set.
        beside: other comparisons that a reader should see with it, which decide nothing.
    """

    claim: str
    text: str
    compared: str
    beside: tuple[str, ...] = ()


# Examples at a time of int8-memory's primary comparison, the chunk of docs/streaming.md: a quarter
# of its batch. Bytes are exact, so whoever chooses a chunk can know them; we did, and name what
# stands against it: one example at a time, where weights are most of what is left, lies beside.
CHUNK = 8

PRIMARY = (
    Sentence(
        "gain",
        "ElasticZO is more accurate than full ZO",
        "elastic-2 minus full-zo, lenet5 on {data}, fp32",
        ("elastic-1 minus full-zo, lenet5 on {data}, fp32",),
    ),
    Sentence(
        "overhead",
        "ElasticZO needs hardly more memory than full ZO",
        "elastic-2 over full-zo, lenet5, fp32, batch 32",
        ("elastic-1 over full-zo, lenet5, fp32, batch 32",),
    ),
    Sentence(
        "gap",
        "ElasticZO shrinks the gap between full ZO and full BP",
        "elastic-2, lenet5 on {data}, fp32",
    ),
    Sentence(
        "convergence",
        "ElasticZO converges faster than full ZO",
        "elastic-2 against full-zo, lenet5 on {data}, fp32",
    ),
    Sentence(
        "fine-tune-recovery",
        "ElasticZO works for fine-tuning too",
        "elastic-2 over full-bp, lenet5 on {data}-rot30, fp32",
        ("elastic-1 over full-bp, lenet5 on {data}-rot30, fp32",),
    ),
    Sentence(
        "inference-memory",
        "Full ZO needs almost the memory of inference",
        "full-zo over inference, lenet5, fp32, batch 32",
        ("full-zo over inference, lenet5, int8, batch 32",),
    ),
    Sentence(
        "int8-only",
        "ElasticZO-INT8 computes with integers alone",
        "elastic-2, lenet5, int8, batch 32",
    ),
    Sentence(
        "int8-memory",
        "ElasticZO-INT8 needs less memory than FP32",
        f"full-zo, lenet5, fp32 over int8, both streamed, batch 32, chunk {CHUNK}",
        (
            f"full-zo, lenet5, fp32 over int8, both streamed, heap, batch 32, chunk {CHUNK}",
            "full-zo, lenet5, fp32 over int8, both streamed, batch 32, chunk 1",
            "full-zo, lenet5, fp32 over int8, both whole, batch 32",
            "full-zo, lenet5, fp32 over int8, as installed, batch 32",
        ),
    ),
    Sentence(
        "int8-time",
        "ElasticZO-INT8 takes less time than FP32",
        "full-zo, lenet5, fp32 over int8, batch 32, 1 thread",
        ("full-zo, lenet5, fp32 over int8, batch 32, 2 threads",),
    ),
    Sentence(
        "int8-accuracy",
        "ElasticZO-INT8 is as accurate as FP32",
        "elastic-2, lenet5 on {data}, int8 minus fp32",
        ("elastic-1, lenet5 on {data}, int8 minus fp32",),
    ),
)


def chance_of(data: str) -> float:
    """Test accuracy (%) of guessing."""
    return next((x for name, x in CHANCE.items() if data.startswith(name)), OTHER_CHANCE)


def no_baseline(ends: Iterable[Row]) -> str:
    """Why full-zo's runs among these are no baseline; nothing where they have learnt.

    Args:
        ends: last rows of test accuracy.
    """
    of_zo = [row for row in ends if row.method == "full-zo"]
    if not of_zo:
        return ""
    chance = chance_of(of_zo[0].data)
    mean = statistics.fmean(map(value, of_zo))
    if mean >= chance + NEAR_CHANCE:
        return ""
    return f"full-zo ends at {mean:.1f} %, where guessing gives {chance:g} %: no baseline"


def expected_by_chance(comparisons: int) -> float:
    """How many of so many comparisons without an effect an interval would put on one given side."""
    return comparisons * (1 - CONFIDENCE) / 2
