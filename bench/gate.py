"""Is this tree worse than another commit? Bytes, bits and step time of both, side by side.

Each side is built by pip into a folder of its own, compiled extension included, and measured by one
instrument: the `bench` that runs the gate. For every cell (a method's step on a model):

    bytes   peak tensor bytes of a step; exact, so more than ``--bytes-tolerance`` fails
    digest  SHA-256 of losses and weights after some steps from one seed; another one fails, unless
            ``--allow-digest-change``
    time    step time, head over base: fails only where the whole interval of the ratio lies above
            the tolerance, and again in a rerun in fresh processes

Time is taken in pairs of fresh processes. A pair measures in rounds A B B A, B A A B, ..., and a
visit keeps its fastest step. A round's sample is the difference of the sides' mean log seconds; the
statistic is the mean over pairs of the median over rounds, with a bootstrap interval over pairs and
rounds within them. More pairs are measured while the interval holds the tolerance.
"""

import argparse
import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import bench
from bench.isolate import KEPT_MEMORY
from bench.probe import CLOCKS, DIGEST_STEPS, PLANTS
from bench.workload import Workload
from ezo.rows import Row, provenance

OK, REGRESSED, NOT_MEASURED = 0, 1, 2  # exit status
CELLS = (
    *(Workload("lenet5", m) for m in ("inference", "full-zo", "elastic-1", "full-bp")),
    *(Workload("pointnet", m, batch_size=2) for m in ("full-zo", "elastic-1")),
)
ROUNDS = 4  # of a pair
VISIT_SECONDS, VISIT_STEPS = 0.1, 3  # a visit takes at least both
PAIRS, MOST_PAIRS = 4, 24
CONFIDENCE = 0.99
SUSPICIOUS = 0.7  # a ratio below is a step that perhaps no longer does its work
RESAMPLES = 4000


class NotMeasured(Exception):
    """The gate can't tell."""


@dataclass(frozen=True)
class Side:
    """A version, built.

    Attributes:
        label: ``base`` or ``head``.
        commit, dirty: of its source.
        site: the folder that pip installed it into.
        kernels: its instruction set, or ``reference`` where nothing was compiled.
    """

    label: str
    commit: str
    dirty: bool
    site: Path
    kernels: str = ""


@dataclass(frozen=True)
class Interval:
    """A ratio and its bootstrap interval."""

    ratio: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.ratio:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True)
class Finding:
    """A cell's comparison in one respect.

    Attributes:
        cell, metric: what was compared.
        base, head: the two values; None where there is none.
        verdict: ``same``, ``fewer bytes``, ``regressed``, ``changed``, ``missing``, ``new``,
            ``suspicious`` or ``not measured``.
        status: what it makes of the exit status.
        note: what a reader must know.
        interval: of head over base, for a time.
        samples: for a time, by pair and round.
    """

    cell: Workload
    metric: str
    base: float | str | None
    head: float | str | None
    verdict: str
    status: int = OK
    note: str = ""
    interval: Interval | None = None
    samples: Sequence[Sequence["Sample"]] = ()


@dataclass
class Settings:
    """What the gate allows, and how long it measures."""

    tolerance: float = 0.05
    bytes_tolerance: int = 0
    allow_digest_change: bool = False
    allow_new: bool = False
    pairs: int = PAIRS
    most_pairs: int = MOST_PAIRS
    clock: str = "wall"
    plant: str = ""
    only: tuple[str, ...] = ("exact", "time")


def cases(models: Iterable[str], methods: Iterable[str] | None, batch_size: int) -> list[Workload]:
    """The cells of a grid, in place of `CELLS`."""
    methods = tuple(methods or ("inference", "full-zo", "elastic-1", "full-bp"))
    return [Workload(model, method, batch_size) for model in models for method in methods]


# The two versions


def build_sides(base: str, work: Path) -> dict[str, Side]:
    """Both versions of the repository that holds the working folder, built under ``work``.

    Raises:
        NotMeasured: no such commit, or a build failed.
    """
    root = Path(_git(Path.cwd(), "rev-parse", "--show-toplevel"))
    try:
        commit = _git(root, "rev-parse", "--verify", "--quiet", f"{base}^{{commit}}")
    except NotMeasured as error:
        raise NotMeasured(
            f"expected --base to be a commit that git has here, got '{base}'; fetch it (in GitHub "
            "Actions: fetch-depth: 0)"
        ) from error
    _export_commit(root, commit, work / "base")
    _export_tree(root, work / "head")
    changed = _git(root, "status", "--porcelain") != ""
    instrument = work / "instrument" / "bench"
    shutil.copytree(Path(bench.__path__[0]), instrument, ignore=shutil.ignore_patterns("*.pyc"))
    sides = [
        Side("base", commit, False, work / "site-base"),
        Side("head", _git(root, "rev-parse", "HEAD"), changed, work / "site-head"),
    ]
    built = {}
    for side in sides:
        build(work / side.label, side.site)
        with Process(side, instrument.parent) as process:
            built[side.label] = dataclasses.replace(side, kernels=process.ask("about")["kernels"])
    return built


def build(source: Path, site: Path) -> None:
    """Install a source tree, its compiled extension too, into a folder, without dependencies."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-cache-dir"]
    done = subprocess.run(
        [*command, "--disable-pip-version-check", "--target", str(site), str(source)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise NotMeasured(f"{source.name} could not be built: {done.stderr.strip()[-2000:]}")


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True)
    if done.returncode:
        raise NotMeasured(f"git {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout.strip()


def _export_commit(root: Path, commit: str, to: Path) -> None:
    archive = subprocess.Popen(["git", "archive", commit], cwd=root, stdout=subprocess.PIPE)
    with archive, tarfile.open(fileobj=archive.stdout, mode="r|") as tar:
        tar.extractall(to, filter="data")


def _export_tree(root: Path, to: Path) -> None:
    """The working tree: tracked files as they are, and new ones that git does not ignore."""
    listed = _git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, listed.split("\0")):
        if (root / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, to / name)


class Process:
    """A `bench.probe` that imports one side's `ezo`, and everything else from where we do."""

    def __init__(self, side: Side, instrument: Path) -> None:
        self.side = side
        path = [str(side.site), str(instrument), *filter(None, sys.path)]
        # -S: without it an editable install's hook would come before the side's own folder.
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-m", "bench.probe"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=instrument,
            env={**os.environ, **KEPT_MEMORY, "PYTHONPATH": os.pathsep.join(path)},
        )

    def __enter__(self) -> "Process":
        try:
            found = Path(self.ask("about")["ezo"])
        except BaseException:
            self.close()
            raise
        if self.side.site.resolve() not in found.resolve().parents:
            self.close()
            raise NotMeasured(f"{self.side.label} imported {found}, not its own build")
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()

    def ask(self, do: str, **command: Any) -> dict[str, Any]:
        """The answer to a command.

        Raises:
            NotMeasured: it failed there, or the process died.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **command}) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise NotMeasured(f"the process ended with status {self._process.wait()}")
        found: dict[str, Any] = json.loads(answer)
        if "error" in found:
            raise NotMeasured(found["error"])
        return found


# Comparing


class Gate:
    """Compares two built sides, cell by cell."""

    def __init__(self, sides: dict[str, Side], work: Path, settings: Settings) -> None:
        self.sides, self.settings = sides, settings
        self.instrument = work / "instrument"

    def compare(self, cells: Sequence[Workload]) -> list[Finding]:
        """Every cell in every respect."""
        found: list[Finding] = []
        if "exact" in self.settings.only:
            # Two at a time: neither bytes nor bits depend on neighbours.
            with ThreadPoolExecutor(max_workers=2) as pool:
                every = tqdm(
                    pool.map(self._exact, cells),
                    desc="bytes and digests",
                    unit="cell",
                    total=len(cells),
                    disable=None,  # shown on a terminal alone
                )
                for few in every:
                    found += few
        if "time" in self.settings.only:
            missing = {f.cell for f in found if f.metric == "cell"}
            found += self._times([cell for cell in cells if cell not in missing])
        return found

    def _exact(self, cell: Workload) -> list[Finding]:
        answers: dict[str, dict[str, Any]] = {}
        errors: dict[str, str] = {}
        for label in ("base", "head"):
            try:
                with self._process(label) as process:
                    answers[label] = process.ask("exact", **self._command(label, cell))
            except NotMeasured as error:
                errors[label] = str(error)
        if errors:
            return [self._unmeasured(cell, errors)]
        base, head = answers["base"], answers["head"]
        return [
            compare_bytes(
                cell,
                base["peak_tensor_bytes"],
                head["peak_tensor_bytes"],
                self.settings.bytes_tolerance,
            ),
            compare_digests(
                cell, base["digest"], head["digest"], self.settings.allow_digest_change
            ),
        ]

    def _unmeasured(self, cell: Workload, errors: dict[str, str]) -> Finding:
        note = "; ".join(f"{label}: {error}" for label, error in errors.items())
        if len(errors) == 2:
            return Finding(cell, "cell", None, None, "not measured", NOT_MEASURED, note)
        if "head" in errors:
            return Finding(cell, "cell", "measured", None, "missing", REGRESSED, note)
        status = OK if self.settings.allow_new else REGRESSED
        return Finding(cell, "cell", None, "measured", "new", status, note)

    def _times(self, cells: Sequence[Workload]) -> list[Finding]:
        settings = self.settings
        samples, failed = self._sample(cells, settings.pairs, settings.most_pairs, "time")
        found = [self._unmeasured(cell, errors) for cell, errors in failed.items()]
        first = {cell: judge_time(cell, s, settings.tolerance) for cell, s in samples.items()}
        slower = [cell for cell, finding in first.items() if finding.status == REGRESSED]
        if slower:
            pairs = max(settings.pairs, max(len(samples[cell]) for cell in slower))
            again, failed = self._sample(slower, pairs, pairs, "time, again")
            found += [self._unmeasured(cell, errors) for cell, errors in failed.items()]
            for cell, s in again.items():
                first[cell] = confirm(first[cell], judge_time(cell, s, settings.tolerance))
        return [*found, *first.values()]

    def _sample(
        self, cells: Sequence[Workload], pairs: int, most_pairs: int, name: str
    ) -> tuple[dict[Workload, list[list["Sample"]]], dict[Workload, dict[str, str]]]:
        """Samples of each cell by pair and round; more pairs where the interval can't tell yet."""
        samples: dict[Workload, list[list[Sample]]] = {cell: [] for cell in cells}
        failed: dict[Workload, dict[str, str]] = {}
        undecided = list(cells)
        most = most_pairs * len(cells)
        with tqdm(total=most, desc=name, unit="cell", disable=None) as bar:
            for pair in range(most_pairs):
                if not undecided:
                    break
                with ExitStack() as both:
                    order = ("base", "head") if pair % 2 == 0 else ("head", "base")
                    processes = {label: self._process(label) for label in order}
                    for process in processes.values():  # both are starting
                        both.callback(process.close)
                    for process in processes.values():
                        both.enter_context(process)
                    for cell in undecided:
                        try:
                            samples[cell].append(self._rounds(cell, processes))
                        except _Failed as error:
                            failed[cell] = error.errors
                        bar.update()
                undecided = [
                    cell
                    for cell in undecided
                    if cell not in failed
                    and (pair + 1 < pairs or undecided_yet(samples[cell], self.settings.tolerance))
                ]
        return {c: s for c, s in samples.items() if c not in failed}, failed

    def _rounds(self, cell: Workload, processes: dict[str, Process]) -> list["Sample"]:
        seconds: dict[str, float] = {}
        errors: dict[str, str] = {}
        for label, process in processes.items():
            try:
                seconds[label] = process.ask("prepare", **self._command(label, cell))["seconds"]
            except NotMeasured as error:
                errors[label] = str(error)
        if errors:
            raise _Failed(errors)
        steps = max(VISIT_STEPS, round(VISIT_SECONDS / max(seconds.values())))
        clock = self.settings.clock
        rounds = []
        for n in range(ROUNDS):
            a, b = ("base", "head") if n % 2 == 0 else ("head", "base")
            taken: dict[str, list[float]] = {"base": [], "head": []}
            for label in (a, b, b, a):
                try:
                    taken[label].append(
                        processes[label].ask("time", steps=steps, clock=clock)["seconds"]
                    )
                except NotMeasured as error:
                    raise _Failed({label: str(error)}) from error
            rounds.append(Sample(tuple(taken["base"]), tuple(taken["head"])))
        return rounds

    def _process(self, label: str) -> Process:
        return Process(self.sides[label], self.instrument)

    def _command(self, label: str, cell: Workload) -> dict[str, Any]:
        plant = self.settings.plant if label == "head" else ""
        return {"cell": dataclasses.asdict(cell), "plant": plant}


class _Failed(Exception):
    def __init__(self, errors: dict[str, str]) -> None:
        super().__init__(errors)
        self.errors = errors


@dataclass(frozen=True)
class Sample:
    """A round: the seconds of a step at each visit."""

    base: tuple[float, ...]
    head: tuple[float, ...]

    @property
    def log_ratio(self) -> float:
        """Of head over base."""
        return sum(map(math.log, self.head)) / len(self.head) - sum(map(math.log, self.base)) / len(
            self.base
        )


def compare_bytes(cell: Workload, base: int, head: int, tolerance: int) -> Finding:
    """Peak tensor bytes: no more than the base's and the tolerance."""
    more = head - base
    if more > tolerance:
        note = f"{more:+,} B; {tolerance:,} B allowed"
        return Finding(cell, "peak_tensor_bytes", base, head, "regressed", REGRESSED, note)
    verdict = "same" if more == 0 else "fewer bytes" if more < 0 else "within tolerance"
    note = f"{more:+,} B" if more else ""
    return Finding(cell, "peak_tensor_bytes", base, head, verdict, OK, note)


def compare_digests(cell: Workload, base: str, head: str, allowed: bool) -> Finding:
    """The same seed must give the same bits."""
    if base == head:
        return Finding(cell, "digest", base, head, "same")
    note = f"other losses or weights after {DIGEST_STEPS} steps"
    return Finding(cell, "digest", base, head, "changed", OK if allowed else REGRESSED, note)


def ratio(samples: Sequence[Sequence[Sample]]) -> Interval:
    """Head over base, with its interval, from samples by pair and round."""
    logs = np.array([[sample.log_ratio for sample in rounds] for rounds in samples])
    pairs, rounds = logs.shape
    generator = np.random.default_rng(0)
    p = generator.integers(0, pairs, (RESAMPLES, pairs, 1))
    r = generator.integers(0, rounds, (RESAMPLES, pairs, rounds))
    means = np.median(logs[p, r], axis=2).mean(axis=1)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(*(math.exp(x) for x in (np.median(logs, axis=1).mean(), low, high)))


def undecided_yet(samples: Sequence[Sequence[Sample]], tolerance: float) -> bool:
    """Whether the interval of the ratio holds the tolerance."""
    found = ratio(samples)
    return found.low <= 1 + tolerance <= found.high


def judge_time(cell: Workload, samples: Sequence[Sequence[Sample]], tolerance: float) -> Finding:
    """What the interval of the ratio says of the tolerance."""
    found = ratio(samples)
    base, head = (
        math.exp(np.mean([np.log(getattr(s, label)).mean() for pair in samples for s in pair]))
        for label in ("base", "head")
    )
    limit = 1 + tolerance

    def finding(verdict: str, status: int = OK, note: str = "") -> Finding:
        return Finding(cell, "step_seconds", base, head, verdict, status, note, found, samples)

    if found.low > limit:
        return finding("regressed", REGRESSED)
    if found.high < SUSPICIOUS:
        return finding("suspicious", OK, "is the work still done? see the digest, and the code")
    if found.low <= limit < found.high:
        if found.high / found.low > limit**2:
            note = f"too noisy to tell {tolerance:.0%}; try --clock cpu, or more --pairs"
            return finding("not measured", NOT_MEASURED, note)
        return finding("same", OK, "close to the tolerance")
    return finding("same")


def confirm(first: Finding, again: Finding) -> Finding:
    """A slowdown counts when the rerun agrees."""
    if again.status == REGRESSED:
        return dataclasses.replace(again, note=f"first {first.interval}, the rerun agrees")
    return dataclasses.replace(
        again,
        note=f"first {first.interval}, which the rerun does not confirm; {again.note}".rstrip("; "),
    )


# Reporting


@dataclass
class Report:
    """What was found, and what it comes to."""

    sides: dict[str, Side] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    error: str = ""

    @property
    def status(self) -> int:
        """0, 1 where anything regressed, else 2 where anything could not be measured."""
        statuses = {finding.status for finding in self.findings}
        if REGRESSED in statuses or self._lost_kernels():
            return REGRESSED
        return NOT_MEASURED if self.error or NOT_MEASURED in statuses or not statuses else OK

    def _lost_kernels(self) -> bool:
        kernels = {label: side.kernels for label, side in self.sides.items()}
        return kernels.get("head") == "reference" != kernels.get("base")

    def rows(self) -> list[Row]:
        """Both sides' values, and their ratio."""
        found = []
        for f in self.findings:
            for label, value in (("base", f.base), ("head", f.head)):
                if isinstance(value, (int, float)):
                    unit = "B" if f.metric == "peak_tensor_bytes" else "s"
                    row = f.cell.row(f.metric, value, unit, label)
                    side = self.sides[label]
                    found.append(dataclasses.replace(row, commit=side.commit, dirty=side.dirty))
            if f.interval is not None:
                note = f"{CONFIDENCE:.0%} interval {f.interval.low:.4f} to {f.interval.high:.4f}"
                found.append(f.cell.row("step_head_over_base", f.interval.ratio, "1", note))
        return found

    def json(self) -> str:
        """Everything, for programs."""
        sides = {
            label: {"commit": side.commit, "dirty": side.dirty, "kernels": side.kernels}
            for label, side in self.sides.items()
        }
        findings = [
            {**dataclasses.asdict(f), "cell": f.cell.name, "ratio": f.interval and f.interval.ratio}
            for f in self.findings
        ]
        content = {
            "status": self.status,
            "error": self.error,
            "sides": sides,
            "machine": provenance(),
            "findings": findings,
            "rows": [json.loads(row.json()) for row in self.rows()],
        }
        return json.dumps(content, indent=1) + "\n"

    def markdown(self) -> str:
        """A summary for a pull request: what needs a look first, all the rest below."""
        verdict = {OK: "nothing regressed", REGRESSED: "regressed", NOT_MEASURED: "not measured"}
        lines = [f"### Benchmark gate: {verdict[self.status]}", ""]
        if self.error:
            lines += [self.error, ""]
        for label, side in self.sides.items():
            state = " with changes" if side.dirty else ""
            lines.append(f"- {label}: `{side.commit[:10]}`{state}, kernels {side.kernels}")
        if self._lost_kernels():
            lines.append("- **head has no compiled kernels and base has: its build lost them**")
        loud = [f for f in self.findings if f.status or f.note]
        quiet = [f for f in self.findings if f not in loud]
        lines += ["", *_table(loud)] if loud else []
        if quiet:
            lines += ["", f"<details><summary>{len(quiet)} comparisons as before</summary>", ""]
            lines += [*_table(quiet), "", "</details>"]
        return "\n".join(lines) + "\n"


def _table(findings: list[Finding]) -> list[str]:
    lines = ["| cell | what | base | head | ratio | verdict |", "|---|---|--:|--:|--:|---|"]
    for f in findings:
        mark = {OK: "", REGRESSED: "❌ ", NOT_MEASURED: "❔ "}[f.status]
        mark = "⚠️ " if f.verdict == "suspicious" else mark
        note = f": {f.note}" if f.note else ""
        note = " ".join(note.replace("|", "\\|").split())
        lines.append(
            f"| {f.cell.name} | {f.metric} | {_shown(f.base)} | {_shown(f.head)} | "
            f"{f.interval or ''} | {mark}{f.verdict}{note} |"
        )
    return lines


def _shown(value: float | str | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value[:10]
    return f"{value:,}" if isinstance(value, int) else f"{1e3 * value:.3f} ms"


# The command line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``python -m bench gate``, but those that choose cells."""
    usual = Settings()
    parser.add_argument("--base", required=True, help="commit, branch or tag to compare with")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=usual.tolerance,
        help="slower by more than this share of the step time fails",
    )
    parser.add_argument(
        "--bytes-tolerance",
        type=int,
        default=usual.bytes_tolerance,
        help="more peak bytes than this fail",
    )
    parser.add_argument(
        "--allow-digest-change", action="store_true", help="other weights than before are meant"
    )
    parser.add_argument(
        "--allow-new", action="store_true", help="cells that base does not have are meant"
    )
    parser.add_argument("--pairs", type=int, default=PAIRS, help="pairs of processes at least")
    parser.add_argument(
        "--most-pairs", type=int, default=MOST_PAIRS, help="pairs while it can't be told"
    )
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default=usual.clock,
        help="cpu: seconds that the processor worked, which other processes lengthen less; it does "
        "not see waiting, nor a GPU",
    )
    parser.add_argument(
        "--only", choices=("exact", "time"), help="bytes and digests alone, or time alone"
    )
    parser.add_argument(
        "--repeat", type=int, default=1, help="compare so many times, to see how quiet the gate is"
    )
    parser.add_argument(
        "--plant", choices=PLANTS, default="", help="plant a fault in head, to see the gate find it"
    )
    parser.add_argument("--json", type=Path, help="file for everything that was found")
    parser.add_argument("--markdown", type=Path, help="file for the summary, besides stdout")


def run(given: argparse.Namespace, cells: Sequence[Workload]) -> int:
    """Build, compare, report; returns the exit status."""
    settings = Settings(
        tolerance=given.tolerance,
        bytes_tolerance=given.bytes_tolerance,
        allow_digest_change=given.allow_digest_change,
        allow_new=given.allow_new,
        pairs=given.pairs,
        most_pairs=max(given.pairs, given.most_pairs),
        clock=given.clock,
        plant=given.plant,
        only=(given.only,) if given.only else ("exact", "time"),
    )
    statuses = []
    with tempfile.TemporaryDirectory(prefix="ezo-gate-") as folder:
        work = Path(folder)
        report = Report()
        try:
            report.sides = build_sides(given.base, work)
            for n in range(given.repeat):
                report.findings = Gate(report.sides, work, settings).compare(cells)
                statuses.append(report.status)
                if given.repeat > 1:
                    print(f"run {n + 1}: status {report.status}", flush=True)
                    if given.json is not None:
                        _write(given.json.with_stem(f"{given.json.stem}-{n + 1}"), report.json)
                    if report.status:
                        print(report.markdown(), flush=True)
        except NotMeasured as error:
            report.error = str(error)
            statuses.append(report.status)
    summary = report.markdown()
    if given.repeat > 1:
        quiet = statuses.count(OK)
        summary += f"\n{quiet} of {len(statuses)} runs found nothing.\n"
    print(summary)
    for path, text in ((given.json, report.json), (given.markdown, lambda: summary)):
        if path is not None:
            _write(path, text)
    return REGRESSED if REGRESSED in statuses else max(statuses)


def _write(path: Path, text: Callable[[], str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text(), encoding="utf-8")
