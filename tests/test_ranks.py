"""Ranks train one model: the same weights as one process, few bytes, and an end where one is lost.

What the ranks do is in ranks_work.py, which runs once.
"""

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import ezo
from ezo import checkpoint, train
from ezo.cli import main
from ezo.journal import replay
from ezo.journal.weights import load
from ezo.ranks import Exchange, Ranks, ranks_of
from ezo.step import Visit, course
from tests.ranks_work import HOW, RUN, STEPS, float_model, trained

UNEQUAL = "expected losses of as many examples on each of 2 ranks, got"
BOUND = 2e-3  # of a float32 weight after 200 steps, one process against two


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("ranks")
    script = Path(__file__).parent / "ranks_work.py"
    done = subprocess.run([sys.executable, script, made], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if not (made / "scenarios-2-1.pkl").exists():
        pytest.fail(done.stderr)
    return made


def of(folder: Path, work: str, size: int = 2) -> list[dict[str, Any]]:
    paths = [folder / f"{work}-{size}-{rank}.pkl" for rank in range(size)]
    return [pickle.loads(path.read_bytes()) for path in paths if path.exists()]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def farthest(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.mark.parametrize("size", [2, 4])
def test_all_ranks_end_with_the_same_weights_and_losses(folder: Path, size: int) -> None:
    first, *others = of(folder, "scenarios", size)
    for name in (name for name in HOW if name in first):
        for other in others:
            assert same(first[name]["weights"], other[name]["weights"]), name
            assert first[name]["losses"] == other[name]["losses"], name


@pytest.mark.parametrize("name", [name for name in HOW if name.startswith("int8")])
def test_integers_have_the_bits_of_one_process_with_the_whole_batch(
    folder: Path, name: str
) -> None:
    alone = trained(**HOW[name])
    for size in (2, 4):
        found = of(folder, "scenarios", size)[0]
        if name in found:
            assert same(alone["weights"], found[name]["weights"])
            assert alone["losses"] == found[name]["losses"]


@pytest.mark.parametrize("name", ["float full-zo", "float elastic-1", "float all"])
def test_floats_stay_near_one_process_with_the_whole_batch(folder: Path, name: str) -> None:
    alone, began = trained(**HOW[name]), float_model().state_dict()
    for size in (2, 4):
        found = of(folder, "scenarios", size)[0]
        if name in found:
            assert farthest(alone["weights"], found[name]["weights"]) < BOUND
            assert farthest(began, found[name]["weights"]) > 10 * BOUND
            assert alone["losses"] == pytest.approx(found[name]["losses"], abs=1e-3)


@pytest.mark.parametrize("name", ["float queries", "float queries mean"])
def test_queries_that_ranks_share_are_those_of_one_process(folder: Path, name: str) -> None:
    alone = trained(**HOW[name])
    for size in (2, 4):
        found = of(folder, "scenarios", size)[0]
        if name in found:
            exact = name == "float queries"  # the mean of gradients is rounded in another order
            near = same if exact else (lambda a, b: farthest(a, b) < 1e-5)
            assert near(alone["weights"], found[name]["weights"])


def test_bytes_that_a_step_sends(folder: Path) -> None:
    two, four = of(folder, "scenarios")[0], of(folder, "scenarios", 4)[0]
    tail = sum(p.numel() for p in float_model()[-1].parameters())
    assert two["float full-zo"]["sent"]["losses"] == STEPS * (2 * 8 + 4)
    assert four["float full-zo"]["sent"]["losses"] == STEPS * (2 * 8 + 4) * 3 <= 64 * STEPS
    assert "gradients" not in two["float full-zo"]["sent"]
    assert two["float elastic-1"]["sent"]["gradients"] == 50 * 4 * tail
    assert two["float queries"]["sent"]["losses"] == 10 * ((2 * 4 // 2 + 2) * 8 + 4)
    integers = two["int8 full-zo"]["sent"]
    assert integers["shifts"] == 20 * 2 * 2  # two layers are requantized, in two passes
    assert integers["losses"] == 20 * (2 * 8 + 4)
    assert two["int8 queries"]["sent"].get("shifts", 0) == 10  # of the sum of gradients alone


def test_norms_buffers_are_the_mean_of_the_ranks(folder: Path) -> None:
    first, second = (found["norm"]["weights"] for found in of(folder, "scenarios"))
    assert same(first, second)
    assert first["2.running_mean"].abs().max() > 0.01 and first["2.num_batches_tracked"] == 10


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("other weights", "RuntimeError: expected the same weights on all 2 ranks at step 0, got "),
        ("wrapped", "ValueError: expected the model itself, got one wrapped in Distributed"),
        ("nodes", "ValueError: expected noise on weights alone with ranks, got nodes"),
        ("mean", "ValueError: expected bp_gradient plus, minus, last or unperturbed with ranks"),
        ("unequal", f"ValueError: {UNEQUAL} 9, 7; give shares of one size; a DataLoader with drop"),
        ("unequal int8", f"ValueError: {UNEQUAL} 9, 7; give shares of one size"),
        ("one scalar", f"ValueError: {UNEQUAL} 8, a scalar; give shares of one size"),
        ("unequal queries", f"ValueError: {UNEQUAL} 9, 7; give all ranks the whole batch"),
        ("one query", "ValueError: expected as many queries for each of 2 ranks, got 1; give "),
    ],
)
def test_what_ranks_can_not_do_is_an_error(folder: Path, what: str, message: str) -> None:
    for found in of(folder, "scenarios"):
        assert found[what].startswith(message)


def test_shares_of_one_size_pass_and_a_refused_step_moves_nothing(folder: Path) -> None:
    for found in of(folder, "scenarios"):
        assert found["equal"] == ""
        assert found["unmoved"] < 1e-6  # the rounding of a perturbation that is undone


def test_a_rank_that_is_lost_ends_the_others_soon(folder: Path) -> None:
    for work in ("lost", "slow"):
        found = of(folder, work)[0]
        assert "expected all 2 ranks to exchange losses, got no answer" in found["error"]
        assert "a rank is lost; start all ranks again" in found["error"]
        assert found["seconds"] < 20  # 1 s was asked for; the machine may be busy


@pytest.mark.parametrize("kind", RUN)
def test_a_run_by_ranks_has_the_rows_of_one_process(folder: Path, kind: str) -> None:
    ranks = [found[f"train {kind}"] for found in of(folder, "scenarios")]
    alone = [(r.metric, r.step, r.value, r.note) for r in train.train(RUN[kind])]
    only = ("train_seconds", "sent_bytes")
    timeless = [[row for row in of if row[0] not in only] for of in (*ranks, alone)]
    (sent,) = (row for row in ranks[0] if row[0] == "sent_bytes")
    assert sent[2] > 0 and "DistributedDataParallel's gradients: 431,144" in sent[3], sent
    assert timeless[0] == timeless[1]
    if kind == "int8":
        assert timeless[0] == timeless[2]
    else:
        assert [row[:2] for row in timeless[0]] == [row[:2] for row in timeless[2]]
    found = replay(folder / f"{kind}.ezoj", load(folder / f"{kind}.init.safetensors"))
    assert found.whole and checkpoint.digest(found.tensors) == ranks[0][-1][3]


def test_a_run_that_lost_a_rank_goes_on_to_the_same_bits(folder: Path) -> None:
    (cut,) = of(folder, "training_lost")
    assert "a rank is lost" in cut["error"]
    first, second = (found["rows"] for found in of(folder, "training_resumed"))
    assert first[-1] == second[-1] and first[-1][0] == "finished"
    assert first[-1][3] == of(folder, "scenarios")[0]["train int8"][-1][3]


@pytest.mark.skipif(sys.platform != "linux", reason="reads the names of threads under /proc")
def test_a_group_that_is_destroyed_leaves_no_thread_behind(folder: Path) -> None:
    for found in of(folder, "ended"):
        threads = {name for name in found["running"] if "gloo" in name}
        assert threads and not threads & found["left"], found


def test_one_process_is_told_what_ranks_need(
    tiny: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="torch.distributed to be initialised for ranks"):
        ezo.ElasticZO(float_model(), 0, ranks=True)
    with pytest.raises(ValueError, match="expected ranks to be True, False or Ranks, got 2"):
        ezo.ElasticZO(float_model(), 0, ranks=2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected split to be one of examples, queries"):
        Ranks("layers")
    words = ["train", "--model", "tiny", "--data", "tiny-images", "--method", "full-zo"]
    assert main([*words, "--ranks", "examples"]) == 2
    assert "expected processes that torchrun started" in capsys.readouterr().err
    with ranks_of(None, "cpu") as ranks:
        assert ranks is None


@pytest.mark.parametrize("bp_gradient", ["mean", "plus", "minus", "unperturbed"])
@pytest.mark.parametrize("size", [2, 4])
def test_ranks_that_share_queries_make_every_pass_once(bp_gradient: str, size: int) -> None:
    """And each knows which losses are whose, whatever the order in which it made its own."""
    visits = course((1, -1), 4, bp_gradient).visits
    loss = {(v.query, v.point): 10.0 * v.query + v.point for v in visits}
    exchanges = [object.__new__(Exchange) for _ in range(size)]
    mine: list[list[Visit]] = []
    for rank, exchange in enumerate(exchanges):
        exchange.ranks, exchange.size, exchange.rank = Ranks("queries"), size, rank
        mine.append(exchange.mine(visits))
    assert sorted(v for own in mine for v in own) == sorted(visits)
    sent: list[list[float]] = []

    def losses(numbers: list[float], examples: int) -> list[list[float]]:
        sent.append(numbers)
        return [numbers] * size

    for exchange, own in zip(exchanges, mine, strict=True):
        exchange._losses = losses  # type: ignore[method-assign, assignment]
        exchange.together(own, [loss[v.query, v.point] for v in own], 8)
    for exchange, own in zip(exchanges, mine, strict=True):
        exchange._losses = lambda numbers, examples: sent  # type: ignore[method-assign]
        found = exchange.together(own, [loss[v.query, v.point] for v in own], 8)
        told = {(v.query, v.point): value for v, value in found if v.point}
        assert told == {place: value for place, value in loss.items() if place[1]}
