"""The two versions that the gate compares: built by pip into folders, and asked in processes.

Each side's folder holds its `ezo`, built, and its own `bench`, which measures it. Each answers in
the protocol of `bench.probe`.

Where another project's package is compared, whose plug-ins `ezo` finds by their entry points, both
sides' folders hold a copy of this `ezo` and this `bench` beside it.
"""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tarfile
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import bench
import ezo
from bench.isolate import KEPT_MEMORY

SPOKEN = (1,)  # the protocols that this gate knows


class NotMeasured(Exception):
    """The gate can't tell."""


@dataclass(frozen=True)
class Side:
    """A version, built, with its `bench`; what its `bench.probe` says of it.

    ``definitions`` are of its metrics, 1 where none is named.
    """

    label: str
    commit: str
    dirty: bool
    site: Path
    kernels: str = ""
    protocol: int = 1
    definitions: dict[str, int] = field(default_factory=dict)


def build_sides(base: str, work: Path, foreign: bool = False) -> dict[str, Side]:
    """Both versions of the repository that holds the working folder, built under ``work``.

    ``foreign``: it is another project's, measured by this `bench`.
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
    sides = [
        Side("base", commit, False, work / "site-base"),
        Side("head", _git(root, "rev-parse", "HEAD"), changed, work / "site-head"),
    ]
    built = {}
    for side in sides:
        print(f"gate: building {side.label}, {side.commit[:10]}", file=sys.stderr, flush=True)
        build(work / side.label, side.site, foreign)
        with Process(side) as process:
            built[side.label] = process.side
    spoken = {label: side.protocol for label, side in built.items()}
    if not set(spoken.values()) <= set(SPOKEN):
        raise NotMeasured(
            f"expected both sides to speak a protocol of {SPOKEN}, got {spoken}; compare with the "
            "last commit that speaks one of them"
        )
    return built


def build(source: Path, site: Path, foreign: bool = False) -> None:
    """Install a source tree, its extension too, without dependencies; and copy its `bench`.

    Of a ``foreign`` one, copy this `bench` and this `ezo`, with its compiled kernels.
    """
    if not foreign and not (source / "bench" / "probe.py").is_file():
        raise NotMeasured(
            f"expected {source.name} to have bench/probe.py, by which the gate asks it, got none; "
            "compare with a later commit"
        )
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-cache-dir"]
    done = subprocess.run(
        [*command, "--disable-pip-version-check", "--target", str(site), str(source)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise NotMeasured(f"{source.name} could not be built: {done.stderr.strip()[-2000:]}")
    if not foreign:
        shutil.copytree(source / "bench", site / "bench")
        return
    for package in (bench, ezo):
        folder = Path(str(package.__file__)).parent
        if (site / folder.name).exists():
            raise NotMeasured(
                f"expected a package of another name, got {folder.name}; leave --foreign out"
            )
        ignored = shutil.ignore_patterns("__pycache__", "csrc")
        shutil.copytree(folder, site / folder.name, ignore=ignored)
    kernels = find_spec("ezo._kernels")  # which may lie elsewhere
    if kernels is not None and kernels.origin and not list((site / "ezo").glob("_kernels*")):
        shutil.copy(kernels.origin, site / "ezo")


def _git(root: Path, *words: str) -> str:
    try:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True)
    except FileNotFoundError:
        raise NotMeasured("expected git on PATH, got none; install it, or set PATH") from None
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
    """One side's `bench.probe` and `ezo`; everything else is imported from where we do."""

    def __init__(self, side: Side) -> None:
        self.side = side
        path = [str(side.site), *filter(None, sys.path)]
        # -S: without it an editable install's hook would come before the side's own folder.
        self._process: Any = subprocess.Popen(
            [sys.executable, "-S", "-m", "bench.probe"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=side.site,
            env={**os.environ, **KEPT_MEMORY, "PYTHONPATH": os.pathsep.join(path)},
        )

    def __enter__(self) -> "Process":
        try:
            about = self.ask("about")
            if self.side.site.resolve() not in Path(about["ezo"]).resolve().parents:
                raise NotMeasured(f"{self.side.label} imported {about['ezo']}, not its own build")
        except BaseException:
            self.close()
            raise
        spoken = {name: about[name] for name in ("protocol", "definitions") if name in about}
        self.side = dataclasses.replace(self.side, kernels=about["kernels"], **spoken)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()

    def ask(self, do: str, **command: Any) -> dict[str, Any]:
        """The answer to a command, or NotMeasured: it failed there, or the process died."""
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
