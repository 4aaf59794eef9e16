"""SLURM's commands as far as an engine needs them, of a cluster with one node: this machine.

``put(folder)`` makes ``sbatch``, ``srun``, ``squeue`` and ``scancel`` in a folder, to stand first
on PATH. Its file ``jobs`` has a job's id and process in a line. While a file ``refuses`` is there,
sbatch and squeue fail as without a controller; with a file ``asleep`` jobs wait for ever.
"""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path


def put(folder: Path) -> None:
    """The commands."""
    folder.mkdir()
    (folder / "jobs").touch()
    for name in ("sbatch", "srun", "squeue", "scancel"):
        path = folder / name
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" {name} "$0" "$@"\n')
        path.chmod(0o755)


def _jobs(folder: Path) -> dict[str, int]:
    lines = (folder / "jobs").read_text().splitlines()
    return {job: int(pid) for job, pid in map(str.split, lines)}


def _runs(pid: int) -> bool:
    if pid == 0:
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return " Z " not in Path(f"/proc/{pid}/stat").read_text()


def _sbatch(folder: Path, words: list[str]) -> int:
    if (folder / "refuses").exists():
        print("sbatch: error: Unable to contact slurm controller", file=sys.stderr)
        return 1
    if "--test-only" in words:
        if "--partition=nope" in words:
            print("allocation failure: Invalid partition name specified", file=sys.stderr)
        return int("--partition=nope" in words)
    script = Path(words[-1]).read_text()
    (folder / "script").write_text(script)
    job = str(len(_jobs(folder)) + 1)
    pid = 0
    if not (folder / "asleep").exists():
        log = re.search(r"--output=(\S+)", script)
        assert log is not None
        with open(log[1].replace("%j", job), "ab") as to:
            how = {"stdin": subprocess.DEVNULL, "stdout": to, "stderr": to}
            env = {**os.environ, "SLURM_JOB_ID": job}
            pid = subprocess.Popen(["bash", words[-1]], env=env, start_new_session=True, **how).pid
    with open(folder / "jobs", "a") as file:
        file.write(f"{job} {pid}\n")
    print(f"Submitted batch job {job}")
    return 0


def _srun(folder: Path, words: list[str]) -> int:
    job = os.environ["SLURM_JOB_ID"]
    (folder / f"env-{job}").write_text("\n".join(sorted(os.environ)))
    at = next(n for n, word in enumerate(words) if word.endswith("/python"))
    files = {word: words[n + 1] for n, word in enumerate(words[:at]) if word.startswith("--")}
    for name, number in (("--output", 1), ("--error", 2)):
        path = files[name].replace("%j", job).replace("%t", "0")
        os.dup2(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY), number)
    os.execv(words[at], words[at:])


def _squeue(folder: Path, words: list[str]) -> int:
    if (folder / "refuses").exists():
        print("slurm_load_jobs error: Unable to contact slurm controller", file=sys.stderr)
        return 1
    for job, pid in _jobs(folder).items():
        print(job, "RUNNING" if _runs(pid) else "FAILED")
    return 0


def _scancel(folder: Path, words: list[str]) -> int:
    with open(folder / "cancelled", "a") as file:
        file.write(f"{' '.join(words)}\n")
    for job in words:
        if pid := _jobs(folder)[job]:
            os.killpg(pid, signal.SIGKILL)
    return 0


if __name__ == "__main__":
    work = {"sbatch": _sbatch, "srun": _srun, "squeue": _squeue, "scancel": _scancel}
    sys.exit(work[sys.argv[1]](Path(sys.argv[2]).parent, sys.argv[3:]))
