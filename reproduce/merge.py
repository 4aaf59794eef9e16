"""``python -m reproduce merge DIR... --out DIR``: rows from several machines in one folder."""

import sys
from collections.abc import Iterable
from pathlib import Path

from ezo import rows
from ezo.rows import Row
from reproduce.folder import Request, asked, has_rows, read_rows
from reproduce.select import BOOKKEEPING, KINDS, Key, experiment, key, variant

ENDS = ("finished", "diverged")


def merge(folders: list[Path], out: Path) -> None:
    """Write the rows of all ``folders`` to ``out/rows.jsonl``, each run and measurement once.

    Rows that lie in ``out`` stay, as if it were the last of the folders. Where two folders hold
    one, one whose run ended wins over one that failed or stopped, and otherwise the folder that was
    named first. Two runs that ended with other weights, as processors of two kinds may give, are
    said on stderr.

    Raises:
        ValueError: the folders are of different presets, or hold one run with two settings.
    """
    if has_rows(out) and out.resolve() not in [folder.resolve() for folder in folders]:
        folders = [*folders, out]
    chosen: dict[tuple[str, str], list[Row]] = {}
    for folder in folders:
        parts: dict[tuple[str, str], list[Row]] = {}
        for row in read_rows(folder):
            benchmark = row.config.get("benchmark", "") if row.seed is None else ""
            parts.setdefault((row.case, benchmark), []).append(row)
        for (case, benchmark), part in parts.items():
            ours = chosen.get((case, benchmark))
            if ours is None or (not _ended(ours) and _ended(part)):
                chosen[case, benchmark] = part
            elif _ended(part) and _ended(ours) and part[-1].note != ours[-1].note:
                print(
                    f"{case}: {folder} ended otherwise ({part[-1].metric}, {part[-1].note}) than "
                    f"what was named before; left out",
                    file=sys.stderr,
                )
    _refuse_two_settings(chosen.values())
    wanted = [asked(folder) for folder in folders if (folder / "preset.json").exists()]
    presets = sorted({want.preset for want in wanted})
    if len(presets) != 1:
        raise ValueError(
            f"expected folders of one preset, got {', '.join(presets) or 'none'}; merge those of "
            "each preset by themselves"
        )
    Request(presets[0]).write(out)
    rows.write(out / "rows.jsonl", (row for part in chosen.values() for row in part))


def _ended(part: list[Row]) -> bool:
    """Whether a run came to its end, or a measurement gave a number."""
    last = part[-1]
    return last.metric in ENDS or (last.seed is None and last.value is not None)


def _refuse_two_settings(parts: Iterable[list[Row]]) -> None:
    seen: dict[tuple[str, Key], Row] = {}
    for part in parts:
        last = part[-1]
        if last.metric != "finished" or experiment(last) not in KINDS:
            continue
        other = seen.setdefault((variant(last), key(last)), last)
        differing = [
            f"{name} {other.config.get(name)} and {last.config.get(name)}"
            for name in sorted({*other.config, *last.config} - {*BOOKKEEPING})
            if other.config.get(name) != last.config.get(name)
        ]
        if differing:
            raise ValueError(
                f"expected one setting of each run, got {other.case} and {last.case}, which "
                f"differ in {'; '.join(differing)}; leave one of their folders out"
            )
