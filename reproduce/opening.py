"""What the report opens with: the scorecard, its tally, and what the frozen control has alone."""

import subprocess
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ezo.rows import Row
from reproduce import rules
from reproduce.judge import Claim, Finding, claims
from reproduce.tables import Judged, Line, estimate
from reproduce.words import control_of

ROOT = Path(__file__).resolve().parent.parent
# What else a reader must see beside a sentence: (claim, comparison); it decides nothing.
ALSO = {
    "gain": ("ablation", "elastic-2 minus tail-only-2, lenet5 on {data}, fp32"),
    "int8-memory": (
        "int8-memory",
        f"elastic-2, lenet5, fp32 over int8, both streamed, batch 32, chunk {rules.CHUNK}",
    ),
    "int8-time": ("int8-time", "elastic-2, lenet5, fp32 over int8, batch 32, 1 thread"),
    "int8-accuracy": (
        "int8-accuracy",
        "elastic-2, lenet5 on {data}, int8 minus fp32, the paper's form",
    ),
}
COMPARED_WITH_ITS_CONTROL = "elastic-2"  # the primary method of what is learnt


class Score(NamedTuple):
    """A sentence of the abstract with the finding that decides it, and what stands beside it.

    Attributes:
        line: the finding; None where it has no rows.
        frozen: the estimate with ``tail-only-k`` in the place of ``elastic-k``; ``not run`` without
            its rows, and nothing where the sentence is not of what is learnt.
    """

    sentence: rules.Sentence
    claim: Claim
    compared: str
    line: Line | None
    beside: list[Line]
    frozen: str = ""

    @property
    def verdict(self) -> str:
        return self.line.finding.verdict if self.line else "not run"


class Stamp(NamedTuple):
    """Which rules, as commits with their dates, or words where there is none.

    Attributes:
        first: when the primary comparisons were first written.
        primary, margins: when they, and the margins, were last changed.
    """

    first: str
    primary: str
    margins: str


def scorecard(judged: Iterable[Judged], data: str, rows: list[Row]) -> list[Score]:
    """One line for each of `rules.PRIMARY`.

    Args:
        judged: every claim with its findings.
        data: that the preset's primary comparisons are on.
        rows: behind them.
    """
    controls = _with_controls(rows, data)
    by_claim = {each.claim.id: each for each in judged}
    scores = []
    for sentence in rules.PRIMARY:
        claim, _, lines = by_claim[sentence.claim]
        found = {line.finding.comparison: line for line in lines}
        compared = sentence.compared.format(data=data)
        beside = [found.get(text.format(data=data)) for text in sentence.beside]
        if sentence.claim in ALSO:
            other, text = ALSO[sentence.claim]
            of_other = {x.finding.comparison: x for x in by_claim[other].lines}
            beside.insert(0, of_other.get(text.format(data=data)))
        line = found.get(compared)
        frozen = ""
        if line and COMPARED_WITH_ITS_CONTROL in compared and f" on {data}" in compared:
            same_precision = "minus fp32" not in compared
            frozen = controls.get((claim.id, compared), "not run") if same_precision else ""
        scores.append(Score(sentence, claim, compared, line, [x for x in beside if x], frozen))
    return scores


def _with_controls(rows: list[Row], data: str) -> dict[tuple[str, str], str]:
    """Estimates by claim and comparison, as if the frozen control were what it controls."""
    method = COMPARED_WITH_ITS_CONTROL
    kept = {control_of(method): method, "full-zo": "full-zo", "full-bp": "full-bp"}
    learnt = ("test_accuracy", "forward_passes", "finished")
    swapped = [
        replace(row, method=kept[row.method])
        for row in rows
        if row.metric in learnt and row.method in kept and row.data.startswith(data)
    ]
    wanted = {sentence.claim for sentence in rules.PRIMARY}
    return {
        (found.claim, found.comparison): estimate(module.CLAIM, found)
        for module in claims()
        if module.CLAIM.id in wanted
        for found in module.judge(swapped, True)
    }


def own_part(scores: list[Score]) -> str:
    """How much of the gain the frozen control has too, in words; nothing without its rows."""
    for score in scores:
        parts = [line for line in score.beside if line.finding.claim == "ablation"]
        if score.line and parts and score.frozen not in ("", "not run"):
            part = parts[0]
            return (
                f"Of the gain over full ZO, {score.line.estimate}, the frozen control, whose first "
                f"layers are never trained, has {score.frozen} by itself; the ZO steps add "
                f"{part.estimate}, {part.finding.verdict}."
            )
    return ""


def tally(scores: list[Score]) -> str:
    """How many sentences have each verdict, the most frequent first.

    >>> tally([])
    'none'
    """
    count = Counter(score.verdict for score in scores)
    return ", ".join(f"{n} {verdict}" for verdict, n in count.most_common()) or "none"


def exploratory(findings: Iterable[Finding], scores: Iterable[Score]) -> tuple[int, int, float]:
    """How many findings are exploratory, how many of them have a verdict from an interval over
    seeds, and how many of these chance alone would put on the claim's side.
    """
    of_seeds = {module.CLAIM.id for module in claims() if module.CLAIM.samples == "seeds"}
    primary = {(score.claim.id, score.compared) for score in scores}
    rest = [
        f for f in findings if (f.claim, f.comparison) not in primary and f.verdict != "not run"
    ]
    decided = ("reproduced", "exceeded", "undecided", "contradicted")
    sampled = [f for f in rest if f.verdict in decided and f.seeds > 1 and f.claim in of_seeds]
    return len(rest), len(sampled), rules.expected_by_chance(len(sampled))


def stamp(root: Path = ROOT) -> Stamp:
    """The history of the rules, as git knows it."""
    primary, margins = _changes(root, r"/^PRIMARY/,/^)/"), _changes(root, r"/^MARGINS/,/^}/")
    return Stamp(primary[-1], primary[0], margins[0])


def _changes(root: Path, lines: str) -> list[str]:
    """Commits that changed these lines of the rules, with their dates, the last one first."""
    name = "reproduce/rules.py"
    git = ["git", "-C", str(root)]
    log = ["log", "-L", f"{lines}:{name}", "-s", "--format=%h, %cs"]
    try:
        changed, told = (
            subprocess.run([*git, *words], capture_output=True, text=True, check=True).stdout
            for words in (["status", "--porcelain", "--", name], log)
        )
    except (OSError, subprocess.CalledProcessError):
        return ["unknown (no repository here)"]
    return [*(["not committed yet"] if changed else []), *told.splitlines()] or ["unknown"]
