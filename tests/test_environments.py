"""Every command where a machine is poor: no locale, no home, no git, no terminal, odd paths."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import several

ROOT = Path(__file__).resolve().parent.parent
SMALL = ["--model", "lenet5", "--data", "digits", "--method", "elastic-1", "--epochs", "0"]
JOURNALLED = [*SMALL[:4], "--method", "full-zo", "--epochs", "1", "--batch-size", "512"]
SEARCHED = [*SMALL[:4], "--methods", "full-zo", "--trials", "3", "--epochs", "1", "--jobs", "1"]
SEARCHED += ["--held-out", "1300"]
WORDS = [
    ["ezo", "--version"],
    ["ezo", "list"],
    ["ezo", "train", *SMALL, "--out", "Läufe hier/a"],
    ["ezo", "train", *SMALL, "--out", "Läufe hier/a"],  # goes on
    ["ezo", "train", *SMALL, "--precision", "int8"],
    ["ezo", "eval", "--from", "Läufe hier/a", "--data", "digits"],
    ["ezo", "predict", "--from", "Läufe hier/a", "--data", "digits"],
    ["ezo", "export", "--data", "digits", "--method", "elastic-1", "--out", "Gerät"],
    ["ezo", "train", *JOURNALLED, "--journal", "Täglich.journal"],
    ["ezo", "journal", "info", "Täglich.journal"],
    [
        "ezo",
        "replay",
        "Täglich.journal",
        "--init",
        "Täglich.init.safetensors",
        "--out",
        "W.safetensors",
    ],
    ["ezo", "plan", "--model", "lenet5", "--methods", "full-zo", "--plot", "Plän.svg"],
    ["bench", "run", "conformance", "--list"],
    ["reproduce", "status", "Größe"],
    ["reproduce", "merge", "Größe", "--out", "Zwei Teile"],
    ["reproduce", "--redraw", "Größe"],
]
LONG = [
    ["bench", "run", "memory", "--models", "lenet5", "--methods", "inference", "--out", "Größen"],
    ["search", *SEARCHED, "--out", "Gesucht"],
]
REFUSED = {
    "git": ["bench", "gate", "--base", "HEAD", "--markdown", "g.md"],
    "none": ["reproduce", "status", "nichts"],
}


def in_place(folder: Path, words: list[list[str]], **more: str) -> list[tuple[int, str, str]]:
    """What commands come to in a folder, with no variable but these, warnings being errors."""
    path = folder / "bin"  # no git there
    path.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-W", "error", several.__file__, json.dumps(words)],
        env={"PATH": str(path), "LC_ALL": "C", "PYTHONPATH": str(ROOT), **more},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == "" or "Matplotlib" in done.stderr, done.stderr
    return [(status, out, error) for status, out, error in json.loads(done.stdout)]


@pytest.mark.parametrize(
    "more",
    [
        {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},  # ASCII for all that is said and named
        {"HOME": "/dev/null/home", "LC_ALL": "C.UTF-8"},  # can't be written to, nor made
    ],
)
def test_every_command_runs(more: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "Zürich und mehr"
    asked = folder / "Größe"
    asked.mkdir(parents=True)
    (asked / "preset.json").write_text('{"preset": "smoke"}')
    row = {"case": "a", "metric": "finished", "value": 1, "unit": "step", "seed": 0, "note": "ü"}
    (asked / "rows.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    every = [*WORDS, *(LONG if "HOME" not in more else [])]
    *ran, gate, none = in_place(folder, [*every, *REFUSED.values()], **more)
    for words, (status, out, error) in zip(every, ran, strict=True):
        assert status == 0, (words, error)
        assert out and "Traceback" not in error
    assert ran[2][1] == ran[3][1]
    assert gate[0] == 2 and "expected git on PATH, got none; install it" in gate[1]
    assert none[0] == 2 and "got no such folder: nichts" in none[2]
    for name in (
        "Läufe hier/a/rows.jsonl",
        "Plän.svg",
        "Größe/report.html",
        "Zwei Teile/REPORT.md",
    ):
        assert (folder / name).stat().st_size, name
    made = json.loads((folder / "Läufe hier/a/rows.jsonl").read_text().splitlines()[0])
    assert made["commit"] == "" and made["dirty"] is None


def test_the_package_alone_is_imported_in_silence(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import ezo; print(ezo.__all__)"],
        env={"LC_ALL": "C"},
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "ElasticZO" in done.stdout and done.stderr == ""


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-"])
def test_a_command_whose_streams_are_closed_runs(closed: str, tmp_path: Path) -> None:
    command = f'exec "$0" -W error -m ezo.cli train {" ".join(SMALL)} --out out {closed}'
    shell = ["sh", "-c", command, sys.executable]
    done = subprocess.run(shell, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert (tmp_path / "out" / "checkpoint.safetensors").exists()


def test_an_output_that_is_full_is_said(tmp_path: Path) -> None:
    if not os.path.exists("/dev/full"):  # Linux has it
        return
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "ezo.cli", "list"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 2
    assert "got: No space left on device; make room" in done.stderr
