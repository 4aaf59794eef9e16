"""Every code block in README and docs runs, and prints what stands below it.

``python`` blocks of a file run in turn, in one namespace. ``sh`` blocks are commands: those whose
comment speaks of minutes or hours are only parsed; tox and pip are held to tox.ini and
pyproject.toml. A ``text`` block is what the block before it prints; ``...`` stands for anything.
``c`` blocks are compiled by tests/export/test_guide.py. Blocks that import others' trainers are
left out where these aren't installed. A ``python`` block that says so makes files for commands.
"""

import configparser
import contextlib
import doctest
import io
import os
import re
import shlex
import subprocess
import sys
import tomllib
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bench.mcu.native import host
from ezo.data._vision import import_torchvision

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TEXT: dict[str, Any] = {"capture_output": True, "text": True}
FOREIGN = re.compile(r"^(?:import|from) (transformers|peft|pytorch_lightning)\b", re.MULTILINE)
RANKS = ("-m", "torch.distributed.run")
LONG = re.compile(r"#.*\b(minutes?|hours?)\b")


class Block(NamedTuple):
    kind: str
    code: str
    prints: str | None


def blocks(page: Path) -> list[Block]:
    found = [(m[1], m[2]) for m in FENCE.finditer(page.read_text(encoding="utf-8"))]
    following = [*found[1:], ("", "")]
    return [
        Block(kind, code, then if next_kind == "text" else None)
        for (kind, code), (next_kind, then) in zip(found, following, strict=True)
        if kind != "text"
    ]


def same(printed: str, wanted: str) -> bool:
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    return doctest.OutputChecker().check_output(wanted, printed, flags)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_fence_says_what_it_is(page: Path) -> None:
    assert {kind for kind, _, _ in blocks(page)} <= {"python", "sh", "c"}
    assert page.read_text(encoding="utf-8").count("```") % 2 == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run_and_print_what_stands_below(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    missing: set[str] = set()
    for block in blocks(page):
        for of in FOREIGN.findall(block.code):
            needs = (of, "accelerate") if of == "transformers" else (of,)
            missing |= {package for package in needs if find_spec(package) is None}
        if block.kind == "python" and not missing:
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed), warnings.catch_warnings():
                if any(map(FOREIGN.search, (of.code for of in blocks(page)))):
                    warnings.simplefilter("ignore")  # of others' code
                    with contextlib.suppress(ModuleNotFoundError):
                        import_torchvision()
                exec(compile(block.code, page.name, "exec"), namespace)
            assert block.prints is None or same(printed.getvalue(), block.prints), (
                printed.getvalue()
            )
    if missing:
        pytest.skip(
            f"from the first block that imports it on: no {', '.join(sorted(missing))} here"
        )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_run_and_print_what_stands_below(page: Path, tmp_path: Path) -> None:
    for block in blocks(page):
        if block.kind == "python" and block.code.startswith("# files for the commands below\n"):
            python(["-c", block.code], tmp_path)
        if block.kind == "sh":
            lines = [line for line in block.code.splitlines() if line.strip()]
            printed = "".join(run(line, tmp_path) for line in lines)
            assert block.prints is None or same(printed, block.prints), printed


def run(line: str, folder: Path) -> str:
    """What a command prints; nothing where it is only held to the files that it is about."""
    words = shlex.split(line, comments=True)
    if words[0] in ("tox", "pip"):
        return settled(words)
    if words[0] in ("cc", "./selftest"):
        command = shlex.join(host()) + line.removeprefix("cc") if words[0] == "cc" else line
        return subprocess.run(command, shell=True, cwd=folder, check=True, **TEXT).stdout
    start = {"ezo": ["-m", "ezo.cli"], "python": [], "torchrun": []}[words[0]]
    arguments = [*start, *words[1:]]
    if words[0] == "torchrun":
        long = LONG.search(line)
        arguments = words[words.index("-m") :] if long else [*RANKS, *words[1:]]
    if LONG.search(line):
        options = [word for word in arguments if word.startswith("--")]
        told = python([*arguments, "--help"], folder)
        assert all(option.split("=")[0] in told for option in options), told
        return ""
    return python(arguments, folder)


def python(arguments: list[str], folder: Path) -> str:
    for name in ("reports", "examples"):
        (folder / name).exists() or (folder / name).symlink_to(ROOT / name)
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", "OMP_NUM_THREADS": "1"},
        **TEXT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def settled(words: list[str]) -> str:
    """tox's environments and pip's extras are there."""
    tox = configparser.ConfigParser()
    tox.read(ROOT / "tox.ini")
    if words[:2] == ["tox", "-e"]:
        assert f"testenv:{words[2]}" in tox
    if words[:2] == ["pip", "install"] and sys.version_info >= (3, 11):
        extras = re.findall(r"\[(.*?)\]", " ".join(words))
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        for extra in ",".join(extras).split(",") if extras else []:
            assert extra in project["optional-dependencies"]
    return ""


@pytest.mark.parametrize(
    ("page", "words"),
    [("README.md", ["paper"]), ("docs/nodes.md", ["paper", "nodes", "--nodes"])],
)
def test_table_is_what_its_command_prints(
    page: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    from reproduce import summary

    summary.main([w if w.startswith("-") else str(ROOT / "reports" / w) for w in words])
    assert capsys.readouterr().out in (ROOT / page).read_text(encoding="utf-8")
