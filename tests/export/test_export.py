"""What is written, what is refused, states that go to and fro, and the plan."""

import subprocess

import numpy as np
import pytest
import torch
from torch import nn

import ezo
from bench.mcu.compilers import FLAGS, WARNINGS, run
from bench.mcu.native import Native, host
from ezo import cli, export
from ezo.export import arena, kinds, plan
from ezo.export.describe import describe
from ezo.export.write import digest
from ezo.int8 import ElasticZO, Int8Tensor, from_float, loss, quantize
from ezo.lock import alone_in
from tests.export.networks import CLASSES, data, make, train

FOREIGN, DAMAGED = 4, 5  # of ezo.h
ELASTIC = ("cnn", 2, {"rate": 64_700, "magnitude": "absolute", "mu": 2})


@pytest.mark.parametrize("dsp", ["-DEZO_DSP=0", "-DEZO_DSP_IN_C"])
@pytest.mark.parametrize(
    "case",
    [
        ELASTIC,
        ("plain", 1, {"rate": 9_000, "mu": 3, "fraction": False, "queries": 2}),
        ("odd", "all", {"mu": 3}),
        ("mlp", 1, {"zo": False, "mu": 3}),
    ],
)
def test_no_sanitizer_objects(case, dsp, tmp_path):
    name, bp, options = case
    network, optimizer = make(name, bp, **options)
    export.write(network, optimizer, x=data(name)[0], batch=3, out=tmp_path)
    sanitizers = "-fsanitize=address,undefined"
    flags = [*FLAGS, *WARNINGS, "-O1", "-g", sanitizers, "-fno-sanitize-recover=all", dsp]
    files = [*sorted((tmp_path / "src").glob("*.c")), tmp_path / "main.c"]
    program = tmp_path / "main"
    run([*host(), *flags, f"-I{tmp_path / 'src'}", *files, "-o", program])
    done = subprocess.run([program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_self_test_fails_where_a_weight_differs(tmp_path):
    name, bp, options = ELASTIC
    network, optimizer = make(name, bp, **options)
    planned = export.write(network, optimizer, x=data(name)[0], batch=3, out=tmp_path)
    model = tmp_path / "src" / "ezo_model.c"
    text = model.read_text()
    at = text.index("weights[") + text[text.index("weights[") :].index("\n    ") + 5
    number = text[at : text.index(",", at)]
    model.write_text(text[:at] + str(int(number) ^ 1) + text[at + len(number) :])
    assert Native(tmp_path, planned).check() != 0


def test_an_export_leaves_the_training_as_it_was(tmp_path):
    name, bp, options = ELASTIC
    (a, first), (b, second) = make(name, bp, **options), make(name, bp, **options)
    x, y = data(name)
    list(train(a, first, x, y, 3, 4))
    export.write(a, first, x=x, batch=4, out=tmp_path)
    list(train(a, first, x, y, 3, 4, first=3))
    list(train(b, second, x, y, 6, 4))
    assert digest(first) == digest(second)


def test_a_training_goes_on_from_python_to_a_device_and_back(tmp_path):
    name, bp, options = ELASTIC
    x, y = data(name)
    ours, optimizer = make(name, bp, **options)
    list(train(ours, optimizer, x, y, 6, 4))  # 24 examples: the device begins at the first
    planned = export.write(ours, optimizer, x=x, batch=4, out=tmp_path)
    device = Native(tmp_path, planned)
    there = device.train(x.m, y, 6, options["rate"], options["mu"])
    state = device.save()
    back, after = make(name, bp, **options)
    export.load(state, back, after, x)
    assert digest(after) == there
    list(train(back, after, x, y, 3, 4))
    list(train(ours, optimizer, x, y, 9, 4, first=6))
    assert digest(after) == digest(optimizer)
    assert device.load(export.save(ours, optimizer, x)) == 0  # Python's state, on the device
    assert device.save() == export.save(ours, optimizer, x)


def test_a_foreign_or_damaged_state_changes_nothing(tmp_path):
    name, bp, options = ELASTIC
    x, _ = data(name)
    network, optimizer = make(name, bp, **options)
    device = Native(tmp_path, export.write(network, optimizer, x=x, batch=4, out=tmp_path))
    assert device.check() == 0
    before, state = device.save(), export.save(network, optimizer, x)
    assert before == state
    damaged = state[:50] + bytes([state[50] ^ 4]) + state[51:]
    other = export.save(*make(name, bp, **{**options, "seed": 8}), x)
    assert (device.load(damaged), device.load(other)) == (DAMAGED, FOREIGN)
    assert device.save() == before
    for wrong, message in ((damaged, "CRC differs"), (other, "another's"), (b"x" * 40, "EZO1")):
        with pytest.raises(ValueError, match=message):
            export.load(wrong, network, optimizer, x)
    assert export.save(network, optimizer, x) == before


def test_prediction_alone_needs_no_weights_in_ram(tmp_path):
    network, _ = make("cnn", 0)
    x, _ = data("cnn")
    planned = export.write(network, x=x, out=tmp_path)
    assert "weights" not in planned.places
    device = Native(tmp_path, planned)
    assert device.check() == 0
    logits = network(Int8Tensor(x.m[:1], x.e)).m[0].tolist()
    assert device.predict(x.m[0], CLASSES["cnn"]) == (logits.index(max(logits)), logits)


@pytest.mark.parametrize(
    ("model", "bp", "options", "message"),
    [
        ([nn.ReLU(), nn.Linear(4, 2)], 1, {}, "layer 0, ReLU"),
        ([nn.Linear(4, 4), nn.Linear(4, 2)], 1, {"bp_gradient": "mean"}, "bp_gradient plus"),
        ([nn.Linear(4, 2)], 0, {"largest_difference": 1 << 30}, "largest_difference below"),
        ([nn.Linear(4, 2)], 0, {"nodes": True}, "full-zo or elastic-k, got nodes, as full-zo-node"),
    ],
)
def test_what_has_no_c_form_is_refused_by_name(model, bp, options, message, tmp_path):
    network = from_float(nn.Sequential(*model), headroom=15)
    optimizer = ElasticZO(network, bp, **options)
    x = Int8Tensor(torch.zeros((1, 4), dtype=torch.int8), -5)
    with pytest.raises(ValueError, match=message):
        export.write(network, optimizer, x=x, out=tmp_path)


def test_bp_through_a_convolution_is_refused_by_name(tmp_path):
    network, optimizer = make("cnn", 3, mu=3)
    with pytest.raises(ValueError, match="layer 3, Conv2d"):
        export.write(network, optimizer, x=data("cnn")[0], out=tmp_path)


def test_points_are_refused_by_name(tmp_path):
    from ezo.models.pointnet import build

    network = from_float(build("pointnet"), headroom=15)
    x = Int8Tensor(torch.zeros((1, 8, 3), dtype=torch.int8), -5)
    with pytest.raises(ValueError, match=r"Linear on points \(8, 3\)"):
        export.write(network, ElasticZO(network, 1), x=x, out=tmp_path)


def test_floats_are_refused_by_name(tmp_path):
    model = nn.Sequential(nn.Linear(13, 3))
    (network, _), (x, _) = make("odd", 1), data("odd")
    floats = ezo.ElasticZO(model, bp=1, lr=0.1)
    for given, message in (
        ((model, None, x), "an integer Network, got torch.nn.modules.container.Sequential"),
        ((network, floats, x), "an integer ElasticZO, got ezo.optim.ElasticZO"),
        ((network, None, x.to_float()), "an integer Int8Tensor, got torch.Tensor"),
    ):
        with pytest.raises(ValueError, match=message):
            export.write(*given[:2], x=given[2], out=tmp_path)


@pytest.mark.parametrize("method", ["full-zo-node", "elastic-feedback-1", "elastic-lean-1"])
def test_methods_without_integers_are_refused_by_name(method, tmp_path, capsys):
    words = ["export", "--data", "digits", "--method", method, "--out", str(tmp_path)]
    assert cli.main(words) == 2
    assert method in capsys.readouterr().err


def test_a_run_whose_loss_is_in_floats_is_refused_by_name(tmp_path, capsys):
    words = ["--model", "lenet5", "--data", "digits", "--method", "elastic-1", "--epochs", "1"]
    case = ["--precision", "int8*", "--train-examples", "16", "--batch-size", "16"]
    assert cli.main(["train", *words, *case, "--out", str(tmp_path / "run")]) == 0
    assert cli.main(["export", "--from", str(tmp_path / "run"), "--out", str(tmp_path)]) == 2
    assert "expected a run in int8, got 'int8*';" in capsys.readouterr().err


def test_a_network_in_evaluation_is_exported_as_it_trains(tmp_path):
    network, _ = make("cnn", 0)
    x, _ = data("cnn")
    network.calibrate(Int8Tensor(x.m // 5, x.e)).eval()
    planned = export.write(network, x=x, out=tmp_path)
    assert Native(tmp_path, planned).check() == 0
    assert not network.training


def test_another_networks_optimiser_is_refused(tmp_path):
    (network, _), (_, other) = make("odd", 1), make("odd", 1)
    with pytest.raises(ValueError, match="optimiser of this network"):
        export.write(network, other, x=data("odd")[0], out=tmp_path)


def _live(buffers, places):
    for t in range(len(buffers[0].sizes)):
        spans = sorted((places[b.name], places[b.name] + b.sizes[t]) for b in buffers if b.sizes[t])
        yield spans


@pytest.mark.parametrize("batch", [1, 7, 32])
@pytest.mark.parametrize("case", [ELASTIC, ("plain", 0, {"queries": 5}), ("odd", "all", {})])
def test_no_two_live_buffers_share_a_byte(case, batch):
    name, bp, options = case
    problem = describe(*make(name, bp, **options), data(name)[0])
    for way in arena.ways(problem):
        planned = arena.plan(problem, batch, way=way)
        for spans in _live(planned.buffers, planned.places):
            assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:], strict=False))
            assert spans[-1][1] <= planned.total
        assert all(at % 4 == 0 for at in planned.places.values())
        assert planned.total <= 1.25 * arena._peak(planned.buffers)


def test_the_fastest_way_that_fits_is_taken():
    problem = describe(*make(*ELASTIC[:2], **ELASTIC[2]), data("cnn")[0])
    free = arena.plan(problem, 32)
    tight = arena.plan(problem, 32, free.total + arena.STACK_BYTES - 1)
    assert tight.total < free.total and tight.instructions >= free.instructions
    assert arena.plan(problem, 32, free.total + arena.STACK_BYTES) == free
    with pytest.raises(ValueError, match=r"expected at least [\d,]+ bytes of RAM for batch 32"):
        arena.plan(problem, 32, 3000)
    with pytest.raises(ValueError, match="batch of 1 to 4096"):
        arena.plan(problem, 0)


def test_every_split_of_the_table_can_be_exported():
    problem = describe(*make(*ELASTIC[:2], **ELASTIC[2]), data("cnn")[0])
    rows = plan.splits(problem, (1, 8))
    assert {row.method for row in rows} == {
        *("full-zo", "elastic-1", "elastic-2", "tail-only-1", "tail-only-2")
    }
    ours = [r for r in rows if r.method == "elastic-2" and r.fraction and r.batch == 8]
    assert ours[0].ram_bytes == arena.plan(problem, 8).total + arena.STACK_BYTES
    assert len(plan.table(rows).splitlines()) == len(rows) + 1 == 21
    assert all(row.ram_bytes <= 4000 for row in plan.splits(problem, (1, 8), ram=4000))


def test_a_layer_is_one_file_and_its_head_says_what_it_costs():
    assert set(kinds.kinds()) == {"Linear", "Conv2d", "MaxPool2d"}
    with pytest.raises(ValueError, match="expected sums and products"):
        kinds.evaluate("open('x')", {})


def test_the_tables_in_c_are_pythons():
    text = (kinds.RUNTIME / "ezo_loss.c").read_text()
    for name, values in (("exp2_table", loss._EXP2), ("log2_table", loss._LOG2)):
        body = text[text.index(f"{name}[257]") :].split("{", 1)[1].split("}", 1)[0]
        assert tuple(int(v) for v in body.split(",") if v.strip()) == values


def test_the_arena_is_asserted_when_compiling(tmp_path):
    network, optimizer = make("odd", 1)
    export.write(network, optimizer, x=data("odd")[0], out=tmp_path)
    header = tmp_path / "src" / "ezo_model.h"
    text = header.read_text().replace("ARENA_BYTES (", "ARENA_BYTES (1 + ")
    header.write_text(text)
    with pytest.raises(RuntimeError, match="ezo_arena_is_as_planned"):
        run([*host(), "-std=c99", f"-I{tmp_path / 'src'}", "-c", tmp_path / "src" / "ezo_model.c",
             "-o", tmp_path / "x.o"])  # fmt: skip


def test_the_command_line_exports(tmp_path, capsys):
    words = ["export", "--data", "digits", "--batch", "2", "--method", "elastic-1"]
    out = tmp_path / "device"
    assert cli.main([*words, "--out", str(out), "--ram", "256KiB"]) == 0
    assert "bytes of RAM" in capsys.readouterr().out
    assert {p.name for p in out.iterdir()} == {
        *("src", "zephyr", "main.c", "arena.txt", "CMakeLists.txt"),
        *("library.properties", "idf_component.yml", "lock"),
    }
    assert cli.main(words) == 0
    assert "elastic-3" in capsys.readouterr().out
    assert cli.main([*words, "--out", str(out), "--ram", "16KiB"]) == 2
    assert "expected at least" in capsys.readouterr().err


def test_a_folder_in_which_another_works_is_refused(tmp_path, capsys):
    words = ["export", "--model", "lenet5", "--method", "full-zo", "--data", "digits"]
    with alone_in(tmp_path):
        assert cli.main([*words, "--out", str(tmp_path)]) == 2
    assert "another process works here" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_the_command_line_goes_on_from_a_run(tmp_path, capsys):
    words = ["--model", "lenet5", "--data", "digits", "--method", "elastic-1"]
    case = ["--precision", "int8", "--epochs", "1", "--batch-size", "16", "--train-examples", "48"]
    run_folder, out = tmp_path / "run", tmp_path / "device"
    assert cli.main(["train", *words, *case, "--out", str(run_folder)]) == 0
    assert cli.main(["export", "--from", str(run_folder), "--batch", "1", "--out", str(out)]) == 0
    assert ".steps = 3u" in (out / "src" / "ezo_model.c").read_text()
    capsys.readouterr()
    assert cli.main(["export", "--from", str(tmp_path), "--out", str(out)]) == 2
    assert "a run's folder" in capsys.readouterr().err


def test_a_frozen_layer_among_the_trained_is_refused_by_name():
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    network = from_float(model, headroom=15)
    optimizer = ElasticZO(network, bp=1)
    network.weighted()[1].requires_grad_(False)
    x = quantize(torch.ones(2, 6))
    with pytest.raises(ValueError, match="without frozen parts, got 2 with its bias and weight"):
        describe(network, optimizer, x)


def test_the_plan_for_a_microcontroller_is_the_table_of_splits(capsys):
    words = ["plan", "--model", "lenet5", "--target", "mcu", "--batch", "2"]
    assert cli.main([*words, "--budget", "128KiB"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:5] == ["method", "fraction", "batch", "way", "RAM"]
    assert {line.split()[2] for line in lines} == {"1", "2", "8"}
    assert cli.main([*words, "--budget", "4KiB"]) == 1
    assert "nothing fits in 4KiB" in capsys.readouterr().out
    for more, message in (
        (["--lean"], "no --lean"),
        (["--precision", "fp32"], "precision int8"),
        (["--model", "pointnet"], "points.0, Linear on points"),
    ):
        assert cli.main([*words, *more]) == 2
        assert message in capsys.readouterr().err


MODEL = """from torch import nn
def net(classes, features):
    return nn.Sequential(nn.Linear(features, 8), nn.ReLU(), nn.Linear(8, classes))
"""


def test_a_model_and_data_of_ones_own_go_to_a_device_and_back(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "mymodel.py").write_text(MODEL)
    x = np.random.default_rng(0).normal(5, 2, (60, 6)).astype(np.float32)
    np.savez("mine.npz", x=x, y=np.arange(60) % 3)
    own = ["--model", "mymodel:net"]
    case = ["--data", "mine.npz", "--method", "elastic-1", "--precision", "int8", "--epochs", "1"]
    assert cli.main(["train", *own, *case, "--batch-size", "8", "--out", "run"]) == 0
    words = ["export", "--from", "run", "--batch", "4", "--out", "device"]
    assert cli.main(words) == 2
    assert "expected --model mymodel:net, the run's, got none" in capsys.readouterr().err
    assert cli.main([*words, *own, "--examples", "12", "--rate", "60000", "--mu", "2"]) == 0
    told = capsys.readouterr().out
    assert "EZO_RATE 60000 (the run began at " in told and "round((v - mean) / std" in told
    device = tmp_path / "device"
    assert "#define EZO_MU (2)" in (device / "src" / "ezo_model.h").read_text()
    network, optimizer, examples = export.from_run("run", "mymodel:net")
    data = np.fromfile("device/data.bin", np.int8).reshape(12, 6)
    rows = {tuple(row) for row in examples.m.tolist()}
    assert len(data) == 12 and {tuple(row) for row in data.tolist()} <= rows
    assert f"my_data[{data.size}]" in (device / "src" / "examples.h").read_text()
    problem = describe(network, optimizer, examples)
    built = Native(device, arena.plan(problem, 4))
    y = torch.from_numpy(np.fromfile("device/labels.bin", np.uint8))
    there = built.train(torch.from_numpy(data), y, 6, 60_000, 2)
    export.load(built.save(), network, optimizer, examples)
    assert digest(optimizer) == there
    for more, message in (
        (["--rate", "-1"], "rate"),
        (["--mu", "7"], "mu"),
        (["--examples", "0"], "expected --examples of 1 or more, got 0"),
    ):
        assert cli.main([*words, *own, *more]) == 2
        assert message in capsys.readouterr().err
    assert cli.main(["export", "--from", "run", *own, "--examples", "3"]) == 2
    assert "expected --out beside --examples" in capsys.readouterr().err
