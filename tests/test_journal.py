"""A journal makes a run's weights again, bit by bit, and says what is wrong with it."""

import os
import signal
import subprocess
import sys
import textwrap
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

import ezo
from ezo import checkpoint, rows, train
from ezo.cli import main
from ezo.journal import Journal, chunk, columns, records, replay
from ezo.train import Run
from tests.test_optimizers import FLOAT, INTEGER, Kind, both, inputs

F = nn.functional


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: t.clone() for name, t in model.state_dict().items()}


def kept(path: Path, kind: Kind, steps: int = 20, **how: Any) -> tuple[Any, dict[str, Any]]:
    """A journal of some steps; the model, and how it began."""
    model, optimizer = kind.make(**how)
    init = state(model)
    with Journal(path, model, optimizer) as journal:
        kind.train(model, optimizer, steps // 2)
        journal.mark()
        kind.train(model, optimizer, steps - steps // 2, first=steps // 2)
    return model, init


def same(model: nn.Module, tensors: dict[str, torch.Tensor]) -> bool:
    own = model.state_dict()
    return own.keys() == tensors.keys() and all(torch.equal(own[n], tensors[n]) for n in own)


# Columns


@given(st.lists(st.integers(0, 2**40), max_size=40))
def test_integers_come_back(values):
    assert columns.read_integers(columns.integers(values), len(values)) == values


@given(st.lists(st.sampled_from([-1, 0, 1]), max_size=70))
def test_signs_come_back(values):
    assert columns.read_signs(columns.signs(values), len(values)) == values


@given(st.lists(st.floats(width=32), max_size=40), st.booleans())
def test_floats_come_back_with_every_bit(values, wide):
    found = columns.read_floats(columns.floats(values, wide), len(values), wide)
    assert np.array_equal(np.array(found), np.array(values, float), equal_nan=True)
    assert [np.signbit(v) for v in found] == [np.signbit(v) for v in values]


def test_columns_are_as_short_as_they_say():
    random = np.random.default_rng(0)
    assert len(columns.integers([7] * 4000)) < 40
    assert len(columns.integers(list(range(5, 4005)))) < 40
    assert len(columns.integers(random.integers(0, 2**16, 4000).tolist())) <= 2 * 4000 + 2
    assert len(columns.signs(random.choice([-1, 1], 4000).tolist())) < 4000 / 8 + 20
    assert len(columns.signs(random.choice([-1, 0, 1], 4000).tolist())) <= 4000 / 5 + 1
    assert len(columns.floats([1e-3] * 4000, True)) < 100


def test_a_column_of_another_length_is_an_error():
    with pytest.raises(ValueError, match="expected a column of 4 numbers, got "):
        columns.read_integers(columns.integers([9**9, 0, 9**9]), 4)


@settings(deadline=None, max_examples=25)
@given(st.data(), st.booleans())
def test_a_chunk_of_floats_has_what_a_sweep_over_them_uses(data, wide):
    number = st.floats(1e-6, 10)
    group = st.tuples(number, st.floats(-10, 10), number)
    steps = [
        (step, [ezo.optim.Update(3, step, q, tuple(data.draw(group) for _ in range(2)))
                for q in (1, 0)])
        for step in (0, 2, 7)
    ]  # fmt: skip
    found = list(chunk.unpack(chunk.pack(9, steps, wide), 3))
    flat = [update for _, of in steps for update in of]
    assert [u[:3] for u in found] == [u[:3] for u in flat]
    kind = np.float64 if wide else np.float32
    for ours, theirs in zip(found, flat, strict=True):
        for (e, r, d), (eps, rate, decay) in zip(ours.groups, theirs.groups, strict=True):
            assert (kind(e), kind(e - r), kind(d)) == (kind(eps), kind(eps - rate), kind(decay))


# Replays


@both
@pytest.mark.parametrize(
    "how",
    [
        {"bp": 0},
        {"bp": 1},
        {"bp": "all"},
        {"bp": 1, "queries": 3},
        {"bp": 0, "weight_decay": 0.1, "clip": 0.5},
        {"bp": 0, "magnitude": "absolute", "fraction": True, "rate": 500_000, "queries": 2},
    ],
)
def test_a_replay_ends_in_the_same_bits(kind: Kind, how: dict[str, Any], tmp_path: Path) -> None:
    if ("magnitude" in how and kind is FLOAT) or ("weight_decay" in how and kind is INTEGER):
        return
    model, init = kept(tmp_path / "run.ezoj", kind, **how)
    found = replay(tmp_path / "run.ezoj", init)
    assert (found.steps, found.whole, found.note) == (20, True, "")
    assert same(model, found.tensors) and not same(model, init)


def test_rates_that_change_groups_frozen_weights_and_a_step_without_update_are_kept(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 8, padding_idx=2), nn.Linear(8, 8), nn.Linear(8, 4))
    model[2].weight = model[1].weight = nn.Parameter(torch.randn(8, 8) / 8)
    model[2].bias = None
    groups = [
        {"params": [model[0].weight], "lr": 0.1},
        {"params": [model[1].weight, model[1].bias], "eps": 1e-2},
    ]
    optimizer = ezo.ElasticZO(model, 0, lr=1e-2, eps=1e-3, zo_groups=groups, weight_decay=0.01)
    x, init = torch.arange(9), state(model)
    with Journal(tmp_path / "run.ezoj", model, optimizer):
        for k in range(12):
            optimizer.param_groups[0]["lr"] = 0.1 / (k + 1)
            optimizer.param_groups[1]["eps"] = 1e-2 * (1 + k // 4)
            model[1].bias.requires_grad_(k % 5 != 2)
            nan = torch.tensor(torch.nan)
            optimizer.step(lambda k=k, nan=nan: nan if k == 7 else F.cross_entropy(model(x), x % 8))
    found = replay(tmp_path / "run.ezoj", init)
    assert found.whole and same(model, found.tensors) and found.steps == 12
    only_one_name = {name: t for name, t in init.items() if name != "2.weight"}
    assert replay(tmp_path / "run.ezoj", only_one_name).whole


def test_float64_is_replayed_too(tmp_path):
    model = nn.Sequential(nn.Linear(12, 8), nn.Linear(8, 4)).double()
    optimizer, init = ezo.ElasticZO(model, 0, lr=1e-2), state(model)
    with Journal(tmp_path / "run.ezoj", model, optimizer):
        for _ in range(5):
            optimizer.step(lambda: F.cross_entropy(model(inputs().double()), torch.arange(16) % 4))
    assert same(model, replay(tmp_path / "run.ezoj", init).tensors)


def test_weights_so_large_that_sweeps_round_them_ride_along(tmp_path):
    model, optimizer = FLOAT.make(bp=0, eps=1e-1, lr=1e-2)
    with torch.no_grad():
        model[0].weight[:, 3] = 7.1
        model[2].weight[1] = -3.99
    init = state(model)
    with Journal(tmp_path / "run.ezoj", model, optimizer):
        FLOAT.train(model, optimizer, 30)
    found = replay(tmp_path / "run.ezoj", init)
    assert found.whole and same(model, found.tensors)
    assert init.keys() == found.tensors.keys()


def test_batch_norms_buffers_and_layers_with_nodes_ride_along(tmp_path):
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv1d(1, 2, 3), nn.BatchNorm1d(2), nn.Flatten(), nn.Linear(20, 8), nn.ReLU(),
        nn.Linear(8, 4),
    )  # fmt: skip
    optimizer, init = ezo.ElasticZO(model, 1, nodes=True), state(model)
    y = torch.arange(16) % 4
    with Journal(tmp_path / "run.ezoj", model, optimizer):
        for k in range(6):
            x = inputs(k).unsqueeze(1)
            optimizer.step(lambda x=x: F.cross_entropy(model(x), y, reduction="none"))
    assert same(model, replay(tmp_path / "run.ezoj", init).tensors)
    setup = next(r for r in records.read(tmp_path / "run.ezoj")[0] if r.kind == "S")
    moved = records.value(setup.body)["tensors"]
    assert moved == ["0.weight", "0.bias", "1.weight", "1.bias"]  # the rest is the tail's


def test_many_steps_of_signs_take_less_than_three_bits_each(tmp_path, capsys):
    path = tmp_path / "run.ezoj"
    model, optimizer = INTEGER.make(bp=0, rate=4096)
    with Journal(path, model, optimizer):
        for k in range(600):
            optimizer.param_groups[0]["rate"] = 4096 - 6 * k
            INTEGER.train(model, optimizer, first=k % 50)
    chunks = [r for r in records.read(path)[0] if r.kind == "C"]
    assert 8 * sum(len(r.body) + records.OVERHEAD for r in chunks) / 600 < 3
    assert main(["journal", "info", str(path)]) == 0
    told = capsys.readouterr().out
    assert "600 in 1 chunks" in told and "bits an update" in told


def test_coarse_weights_are_refused():
    model = nn.Linear(4, 4).bfloat16()
    optimizer = ezo.ElasticZO(model, 0)
    with pytest.raises(ValueError, match="float32, float64 or int8 for a journal.*bfloat16"):
        Journal("nowhere", model, optimizer)


# What can be wrong


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, Any, dict[str, Any]]:
    """A journal of chunks at 8, 16 and 20 steps by integers, with no tail."""
    model, optimizer = INTEGER.make(bp=0)
    init, states = state(model), {}
    with Journal(tmp_path / "run.ezoj", model, optimizer) as journal:
        for k in range(20):
            INTEGER.train(model, optimizer, first=k)
            states[k + 1] = state(model)
            if k in (7, 15):
                journal.mark()
    return tmp_path / "run.ezoj", states, init


def ends(path: Path) -> list[int]:
    return [r.end for r in records.read(path)[0] if r.kind == "C"]


@pytest.mark.parametrize(("cut", "steps"), [(-1, 16), (-40, 16), (1, 16), (4, 16)])
def test_a_torn_record_leaves_the_prefix(made, cut, steps):
    path, states, init = made
    data = path.read_bytes()
    at = ends(path)[2 if cut < 0 else 1]
    path.write_bytes(data[: at + (cut if cut < 0 else cut)])
    found = replay(path, init)
    assert found.steps == steps and found.whole is None
    assert "a file that ends within it; the weights are those of step 16" in found.note
    assert all(torch.equal(states[steps][n], found.tensors[n]) for n in init)


def test_a_flipped_bit_anywhere_is_noticed(made):
    path, states, init = made
    data, whole = path.read_bytes(), replay(path, init).tensors
    begin = records.read(path)[0][1].end
    for at in range(begin, len(data), 3):
        path.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        found = replay(path, init)
        assert found.note.startswith(f"{path}: expected a whole record at byte")
        expected = states.get(found.steps, init) if found.steps < 20 else whole
        assert all(torch.equal(expected[n], found.tensors[n]) for n in init)


def test_a_record_that_is_missing_is_noticed(made):
    path, _, init = made
    data, (first, second, _) = path.read_bytes(), ends(path)
    path.write_bytes(data[:first] + data[second:])
    assert "CRC differs; the weights are those of step 8" in replay(path, init).note


@pytest.mark.parametrize("body", [b"", b"no deflate", records.text({}), records.text([1])])
def test_records_of_something_else_are_an_error(made, body, capsys):
    path, _, init = made
    for kind in "HSCTE":
        first = records.read(path)[0][0]
        packed, crc = records.pack("H", first.body, zlib.crc32(records.START))
        data = b"" if kind == "H" else packed
        data += records.pack(kind, body, crc if data else zlib.crc32(records.START))[0]
        other = path.with_name(f"{kind}.ezoj")
        other.write_bytes(records.START + data)
        with pytest.raises(ValueError, match="expected records that ezo wrote, got others"):
            replay(other, init)
        assert main(["journal", "info", str(other)]) in (0, 2)
    assert "Traceback" not in capsys.readouterr().err


def test_another_initial_checkpoint_is_refused(made):
    path, _, init = made
    other = {n: t + 1 if n == "layers.0.bias" else t for n, t in init.items()}
    with pytest.raises(ValueError, match="weights that its run began with, of digest.*got others"):
        replay(path, other)
    with pytest.raises(ValueError, match="got others: .*expected a tensor layers.0.weight"):
        replay(path, {"x": torch.ones(1)})


def test_what_is_no_journal_is_neither_read_nor_written_over(tmp_path):
    path = tmp_path / "thesis.txt"
    path.write_text("dear reader")
    model, optimizer = FLOAT.make()
    for use in (lambda: replay(path, {}), lambda: Journal(path, model, optimizer)):
        with pytest.raises(ValueError, match="expected a journal, which begins with EZOJ, got"):
            use()
    assert path.read_text() == "dear reader"
    path.write_bytes(b"EZOJ\x09")
    with pytest.raises(ValueError, match="journal of version 1, got version 09"):
        replay(path, {})


def test_a_run_that_has_begun_is_too_late(tmp_path):
    model, optimizer = FLOAT.make()
    FLOAT.train(model, optimizer)
    with pytest.raises(ValueError, match="optimiser at its first step.*got one after 1 steps"):
        Journal(tmp_path / "run.ezoj", model, optimizer)


def test_weights_that_something_else_moved_are_told(tmp_path):
    model, optimizer = FLOAT.make(bp=0)
    init = state(model)
    with Journal(tmp_path / "run.ezoj", model, optimizer):
        FLOAT.train(model, optimizer)
        model[0].bias.data.add_(1)
    found = replay(tmp_path / "run.ezoj", init)
    assert found.whole is False and "something else moved the weights" in found.note


# The command line


@pytest.mark.parametrize("method", ["full-zo", "elastic-1"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_train_keeps_a_journal_that_replays_to_the_final_weights(
    tiny: None, tmp_path: Path, method: str, precision: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = "tiny" if precision == "fp32" else "plain"
    path, out = tmp_path / "run.ezoj", tmp_path / "out.safetensors"
    words = ["train", "--model", model, "--data", "tiny-images", "--method", method]
    words += ["--epochs", "3", "--batch-size", "8", "--precision", precision]
    words += ["--journal", str(path)]
    assert main(words) == 0
    finished = capsys.readouterr().out.splitlines()[-1].split()[-1]
    init = tmp_path / "run.init.safetensors"
    assert main(["replay", str(path), "--init", str(init), "--out", str(out)]) == 0
    assert capsys.readouterr().out.split()[-1] == finished
    assert checkpoint.digest(load_file(out))[:16] == finished
    damaged = path.read_bytes()[:-7]
    path.write_bytes(damaged)
    assert main(["replay", str(path), "--init", str(init), "--out", str(out)]) == 1
    assert "ends within it; the weights are those of step 15" in capsys.readouterr().err
    assert main(["journal", "info", str(path)]) == 1
    save_file({"layers.0.weight": torch.ones(2)}, init)
    assert main(["replay", str(path), "--init", str(init), "--out", str(out)]) == 2
    assert "weights that its run began with" in capsys.readouterr().err


def with_body(path: Path, kind: str, change: Any) -> None:
    """A journal in which the first record of a kind has another body, with checksums that fit."""
    found, _ = records.read(path)
    crc, out = zlib.crc32(records.START), records.START
    at = next(i for i, record in enumerate(found) if record.kind == kind)
    for i, record in enumerate(found):
        packed, crc = records.pack(
            kind if i == at else record.kind, change(record.body) if i == at else record.body, crc
        )
        out += packed
    path.write_bytes(out)


def column(body: bytes, place: int, value: bytes) -> bytes:
    parts = [bytes(part) for part in columns.parted(body)]
    parts[place] = value
    return columns.joined(parts)


BOMB = zlib.compress(bytes(1 << 29))


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("H", lambda body: BOMB),
        ("S", lambda body: BOMB),
        ("S", lambda body: body + b"more"),
        ("C", lambda body: column(body, 1, b"\0" + BOMB)),  # deltas
        ("C", lambda body: column(body, 2, b"\4" + BOMB)),  # planes
        ("C", lambda body: column(body, 0, chunk._NUMBERS.pack(9, 2**32 - 1, 2**16 - 1, 4))),
        ("C", lambda body: column(body, 1, b"\1\xff" + bytes(1 << 16))),
        ("T", lambda body: column(body, 1, BOMB)),
        ("T", lambda body: column(body, 2, BOMB)),
        ("T", lambda body: column(body, 1, records.text([["0.weight", "float32", [10**12]]]))),
        ("T", lambda body: column(body, 1, records.text([["0.weight", "load", [1]]]))),
    ],
)
def test_a_small_journal_that_unpacks_to_a_huge_one_is_refused(tmp_path, kind, change):
    _, init = kept(tmp_path / "run.ezoj", FLOAT, bp=1)
    with_body(tmp_path / "run.ezoj", kind, change)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="expected .*, got "):
            replay(tmp_path / "run.ezoj", init)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 1 << 28


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from ezo import train
from ezo.train import Run

torch.set_num_threads(1)
run = Run("lenet5", "digits", sys.argv[1], epochs=2, train_examples=320)
out = Path(sys.argv[2])
for row in train.train(run, out=out / "run", journal=out / "run.ezoj", checkpoint_steps=3):
    if row.step == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("method", ["full-zo", "elastic-1"])
def test_a_killed_run_goes_on_with_its_journal(tmp_path, method):
    words = [sys.executable, "-c", textwrap.dedent(KILLED), method, str(tmp_path)]
    assert subprocess.run([*words, "10"]).returncode == -signal.SIGKILL
    path = tmp_path / "run.ezoj"
    init = load_file(tmp_path / "run.init.safetensors")
    assert replay(path, init).steps == 10
    with path.open("ab") as file:  # steps that the checkpoint does not know
        file.write(os.urandom(30))
    run = Run("lenet5", "digits", method, epochs=2, train_examples=320)
    last = list(train.train(run, out=tmp_path / "run", journal=path))[-1]
    found = replay(path, init)
    assert found.whole and found.steps == 20
    assert checkpoint.digest(found.tensors) == last.note
    whole = list(train.train(run))[-1]
    assert whole.note == last.note


def test_a_run_that_goes_on_wants_its_own_journal(tmp_path):
    run = Run("lenet5", "digits", "full-zo", epochs=2, train_examples=64)
    begun = train.train(run, out=tmp_path / "run", checkpoint_steps=1)
    for row in begun:
        if row.step == 2:
            break
    begun.close()
    assert rows.read(tmp_path / "run" / "rows.jsonl")
    with pytest.raises(ValueError, match="expected a journal in .*got none; begin the journal"):
        list(train.train(run, out=tmp_path / "run", journal=tmp_path / "run.ezoj"))
    model, optimizer = FLOAT.make()
    Journal(tmp_path / "run.ezoj", model, optimizer).close()
    with pytest.raises(ValueError, match="expected the journal of this run, got another's"):
        list(train.train(run, out=tmp_path / "run", journal=tmp_path / "run.ezoj"))


def test_a_run_does_not_replace_the_journal_of_another(tmp_path):
    path = tmp_path / "run.ezoj"
    run = Run("lenet5", "digits", "full-zo", epochs=1, train_examples=64)
    list(train.train(run, journal=path))
    before = path.read_bytes(), (tmp_path / "run.init.safetensors").read_bytes()
    for other in (run, Run("lenet5", "digits", "full-zo", epochs=1, train_examples=96)):
        with pytest.raises(ValueError, match="holds no steps of another run, got .*; give another"):
            list(train.train(other, journal=path))
    assert before == (path.read_bytes(), (tmp_path / "run.init.safetensors").read_bytes())
    found, _ = records.read(path)
    path.write_bytes(path.read_bytes()[: found[-2].end])  # as a kill leaves it: it begins again
    assert list(train.train(run, journal=path))[-1].metric == "finished"
    assert path.read_bytes() == before[0]
