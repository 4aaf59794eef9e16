"""The command lines of ``ezo replay`` and ``ezo journal info``."""

import argparse
import sys
from pathlib import Path
from typing import Any

from ezo import checkpoint
from ezo.journal import chunk, records, tail, weights
from ezo.journal.replay import replay


def add_replay(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``ezo replay``."""
    parser.add_argument("journal", type=Path, help="what `ezo train --journal` wrote")
    add = parser.add_argument
    add("--init", type=Path, required=True, help="the weights that the run began with, safetensors")
    add("--out", type=Path, required=True, help="file for the weights that it ended with")


def add_journal(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``ezo journal``."""
    parser.add_argument("action", choices=["info"], help="info: what a journal holds")
    parser.add_argument("journal", type=Path, help="what `ezo train --journal` wrote")


def command_replay(given: argparse.Namespace) -> int:
    """``ezo replay``; returns 0, or 1 where the journal is damaged: its prefix is repeated then."""
    found = replay(given.journal, weights.load(given.init))
    weights.save(given.out, found.tensors)
    print(f"replayed {found.steps:,} steps, weights {checkpoint.digest(found.tensors)[:16]}")
    if found.note:
        print(f"ezo: {found.note}", file=sys.stderr)
    return int(bool(found.note))


def command_journal(given: argparse.Namespace) -> int:
    """``ezo journal info``; returns 0, or 1 where the journal is damaged."""
    found, note = records.read(given.journal)
    with records.understood(given.journal):
        told = info(found)
    for name, value in told.items():
        print(f"{name:<16} {value}")
    if note:
        print(f"ezo: {note}", file=sys.stderr)
    return int(bool(note))


def info(found: list[records.Record]) -> dict[str, str]:
    """What there is to say of a journal's records."""
    size = dict.fromkeys("HSCTE", 0)
    for record in found:
        size[record.kind] = size.get(record.kind, 0) + len(record.body) + records.OVERHEAD
    of: dict[str, list[Any]] = {
        kind: [records.value(r.body) for r in found if r.kind == kind] for kind in "HSE"
    }
    heads = [chunk.numbers(record.body) for record in found if record.kind == "C"]
    steps, updates = heads[-1].end if heads else 0, sum(h.steps * h.queries for h in heads)
    tails = [record.body for record in found if record.kind == "T"]
    told: dict[str, str] = {}
    for header in of["H"]:
        about = ", ".join(f"{name} {value}" for name, value in header["about"].items())
        told |= {"optimiser": header["kind"], "run": about or "-", "begins with": header["init"]}
    for setup in of["S"][-1:]:
        moved = f"{len(setup['tensors'])} tensors, {len(set(setup['groups']))} groups"
        told |= {"seed": setup["seed"], "noise": setup["noise"], "noise moves": moved}
    told["steps"] = f"{steps:,}, of which {sum(h.steps for h in heads):,} updated"
    bits = f", {8 * size['C'] / updates:.2f} bits an update" if updates else ""
    told["updates"] = f"{updates:,} in {len(heads)} chunks, {size['C']:,} bytes{bits}"
    told["tail"] = "none"
    if tails:
        shown = len(tail.about(tails[-1]))
        told["tail"] = f"{shown} tensors at step {tail.step(tails[-1]):,}, {size['T']:,} bytes"
    told["header"] = f"{size['H'] + size['S'] + size['E'] + len(records.START):,} bytes"
    told["ends with"] = of["E"][-1]["final"] if of["E"] else "not closed"
    return {name: str(value) for name, value in told.items()}
