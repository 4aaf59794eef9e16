"""Models, data, weights and plug-ins that lie outside the package."""

import csv
import io
import re
import shutil
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ezo import catalogue, checkpoint, rows
from ezo.cli import main
from ezo.data import _own
from ezo.run import Run, load
from ezo.train import build

MODELS = """
from pathlib import Path

from torch import nn

Path("imported").touch()
whole = nn.Linear(2, 2)


def net(classes, channels, size):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(channels * size[0] * size[1], 8), nn.ReLU(), nn.Linear(8, classes)
    )


def lazy(num_classes):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(4), nn.ReLU(), nn.Linear(4, num_classes))


def rows(features, classes):
    return nn.Sequential(nn.Linear(features, 8), nn.ReLU(), nn.Linear(8, classes))


def narrow():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(2))


def needs(width):
    return nn.Linear(width, 2)


def none():
    return None
"""
WORDS = ("cat", "dog", "eel")
N = 60


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a module of models and examples in every form."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "foreign.py").write_text(MODELS, encoding="utf-8")
    monkeypatch.delitem(sys.modules, "foreign", raising=False)
    np.savez("images.npz", x=pictures(), y=np.array(WORDS)[labels()])
    with open("rows.csv", "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["first", "class", "second"])
        for x, y in zip(pictures(), labels(), strict=True):
            table.writerow([x[0, 0, 0], WORDS[y], x[1, 2, 1]])
    return tmp_path


def labels() -> np.ndarray:
    return np.arange(N) % 3


def pictures() -> np.ndarray:
    """Bytes (N, 6, 5, 3), RGB."""
    random = np.random.default_rng(1)
    centres = random.uniform(40, 215, (3, 6, 5, 3))
    return np.clip(centres[labels()] + random.normal(size=(N, 6, 5, 3)) * 9, 0, 255).astype("uint8")


def photos(folder: Path, x: np.ndarray, y: np.ndarray) -> None:
    image = pytest.importorskip("PIL.Image", reason="images are read by Pillow")
    for i, (picture, label) in enumerate(zip(x, y, strict=True)):
        place = folder / WORDS[label]
        place.mkdir(parents=True, exist_ok=True)
        image.fromarray(picture).save(place / f"{i:02}.png")


def trained(model: str, data: str, *more: str) -> int:
    return main(
        ["train", "--model", model, "--data", data, "--method", "elastic-1", "--epochs", "10",
         "--batch-size", "8", "--out", "run", *more]
    )  # fmt: skip


def accuracy(capsys: pytest.CaptureFixture[str]) -> float:
    found = re.findall(r"accuracy +([\d.]+) +%", capsys.readouterr().out)
    return float(found[-1])


# Training and what follows


@pytest.mark.parametrize(
    ("model", "data"),
    [
        ("foreign:net", "images.npz"),
        ("foreign:lazy", "images.npz"),
        ("lenet5", "images.npz"),
        ("foreign:rows", "rows.csv"),
    ],
)
def test_a_model_and_data_of_ones_own_train_and_predict(
    folder: Path, capsys: pytest.CaptureFixture[str], model: str, data: str
) -> None:
    assert trained(model, data, "--bp-lr", "0.1") == 0
    of_training = accuracy(capsys)
    assert trained(model, data, "--bp-lr", "0.1") == 0  # read again
    assert accuracy(capsys) == of_training

    x, y = load(Run(model, data, "full-zo", batch_size=8)).test_x, labels()
    assert len(x) == N // 5 and y.max() == 2
    again = ["--from", "run", "--data", data, "--model", model]
    assert main(["predict", *again]) == 0
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [line["label"] for line in table] == [WORDS[k] for k in y]
    right = 100 * sum(line["label"] == line["predicted"] for line in table) / N
    assert main(["eval", *again]) == 0  # of those that were kept from the training
    assert accuracy(capsys) == pytest.approx(of_training, abs=1e-4)
    moved = str(Path(data).with_stem("moved") if Path(data).suffix else "moved")
    (shutil.copytree if Path(data).is_dir() else shutil.copy)(data, moved)
    assert main(["eval", "--from", "run", "--data", moved, "--model", model]) == 0
    assert accuracy(capsys) == pytest.approx(right, abs=1e-4)
    assert right > 40
    if data == "rows.csv":
        unlabelled = [line.split(",") for line in Path(data).read_text().splitlines()]
        Path("new.csv").write_text("".join(f"{a},{b}\n" for a, _, b in unlabelled))
        Path(data).unlink()  # predictions need it no more
        command = ["predict", "--from", "run", "--data", "new.csv", "--model", model]
        assert main(command) == 0
        lines = capsys.readouterr().out.splitlines()[1:]
        assert [line.split(",")[1] for line in lines] == [line["predicted"] for line in table]


def test_a_run_in_integers_predicts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert trained("foreign:net", "images.npz", "--precision", "int8", "--method", "full-bp") == 0
    capsys.readouterr()
    assert main(["eval", "--from", "run", "--data", "images.npz", "--model", "foreign:net"]) == 0
    measured = accuracy(capsys)
    again = ["--from", "run", "--data", "images.npz", "--model", "foreign:net", "--out", "p.csv"]
    assert main(["predict", *again]) == 0
    table = list(csv.DictReader(Path("p.csv").read_text(encoding="utf-8").splitlines()))
    right = 100 * sum(line["label"] == line["predicted"] for line in table) / N
    assert right == pytest.approx(measured, abs=1e-4)
    arrays = dict(np.load("images.npz"))
    loud = arrays["x"].copy()
    loud[0] = 255  # an example that would set the shifts of its whole batch
    np.savez("loud.npz", x=loud, y=arrays["y"])
    assert main(["predict", *again[:2], "--data", "loud.npz", *again[4:]]) == 0
    other = list(csv.DictReader(Path("p.csv").read_text(encoding="utf-8").splitlines()))
    assert other[1:] == table[1:]


def test_rows_of_others_are_not_lost_where_a_run_begins(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = rows.Row("another", "step_seconds", 1.0, "s")
    rows.write(Path("run/rows.jsonl"), [other])
    assert trained("foreign:net", "images.npz") == 2
    assert "got some of 1 other runs or measurements, another" in capsys.readouterr().err
    assert rows.read(Path("run/rows.jsonl")) == [other]


def test_a_folder_is_the_same_data_as_its_arrays(folder: Path) -> None:
    photos(folder / "photos", pictures(), labels())
    order = np.argsort(labels(), kind="stable")  # a folder's: by class
    np.savez("sorted.npz", x=pictures()[order], y=labels()[order])
    ours, theirs = (_own.load(name) for name in ("photos", "sorted.npz"))
    assert ours.checksum == theirs.checksum and ours.scale == theirs.scale
    assert (ours.labels, theirs.labels) == (WORDS, ("0", "1", "2"))
    assert _own.load("photos@4").train_x.shape == (48, 3, 4, 4)


def test_a_folder_with_a_test_set_keeps_it_and_grey_images_have_one_channel(folder: Path) -> None:
    photos(folder / "grey" / "train", pictures()[:48, :, :, 0], labels()[:48])
    photos(folder / "grey" / "val", pictures()[48:54, :, :, 0], labels()[48:54])
    data = _own.load("grey")
    assert data.train_x.shape == (48, 1, 6, 5) and data.test_x.shape == (6, 1, 6, 5)
    unscaled = data.test_x * data.scale.std[0] + data.scale.mean[0]  # type: ignore[union-attr]
    wanted = torch.from_numpy(pictures()[48:54, :, :, 0].astype("f4"))
    order = np.argsort(labels()[48:54], kind="stable")
    torch.testing.assert_close(unscaled[:, 0], wanted[order], rtol=0, atol=1e-3)


def test_images_without_classes_are_predicted(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos(folder / "photos", pictures(), labels())
    assert trained("lenet5", "photos") == 0
    capsys.readouterr()
    flat = folder / "photos" / "dog"
    assert main(["predict", "--from", "run", "--data", str(flat)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "example,predicted,probability" and len(lines) == 1 + N // 3
    assert re.fullmatch(r"01\.png,(cat|dog|eel),[01]\.\d{4}", lines[1])
    assert main(["eval", "--from", "run", "--data", str(flat)]) == 2
    assert "expected labels to compare with, got none" in capsys.readouterr().err


def test_scale_is_of_each_channel_and_of_the_training_alone(folder: Path) -> None:
    x = np.random.default_rng(0).normal(3, 2, (20, 2, 4, 4)).astype("f4")
    x[:, 1] = 5
    np.savez("x.npz", train_x=x, train_y=np.arange(20) % 2, x_test=x * 9, y_test=np.arange(20) % 2)
    data = _own.load("x.npz")
    assert data.train_x[:, 0].mean() == pytest.approx(0, abs=1e-6)
    assert data.train_x[:, 0].std(correction=0) == pytest.approx(1, abs=1e-5)
    assert not data.train_x[:, 1].any() and data.test_x[:, 1].unique().tolist() == [40]


# Weights to start from


def test_weights_are_where_a_run_starts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run("foreign:net", "images.npz", "full-bp", batch_size=8, epochs=0)
    weights = build(run, 3, 3, (6, 5)).state_dict()
    weights["3.bias"] = torch.tensor([0.0, 50.0, 0.0])
    save_file(weights, "w.safetensors")
    save_file({**weights, "3.bias": torch.zeros(9)}, "other.safetensors")
    assert trained("foreign:net", "images.npz", "--epochs", "0", "--weights", "w.safetensors") == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith(f"weights {checkpoint.digest(weights)[:16]}")
    (folder / "copy.safetensors").write_bytes((folder / "w.safetensors").read_bytes())
    cases = [
        Run("foreign:net", "images.npz", "full-bp", weights=of).case
        for of in ("", "w.safetensors", "copy.safetensors", "other.safetensors")
    ]
    assert cases[1] == cases[2] and len({*cases}) == 3
    for name, message in (
        ("other.safetensors", "expected float weights of foreign:net, got .*3.bias.*another file"),
        ("foreign.py", "expected a safetensors file"),
        ("none.safetensors", "expected a safetensors file, got: .*none.safetensors"),
    ):
        assert trained("foreign:net", "images.npz", "--weights", name) == 2
        assert re.search(message, capsys.readouterr().err)


# What can't be


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        ("foreign:missing", "images.npz", "expected missing in foreign, got none"),
        ("nowhere.at:all", "images.npz", "expected a module nowhere.at for .*, got none; run in"),
        ("foreign:needs", "images.npz", "to need none but classes.*, got one that needs width"),
        ("foreign:none", "images.npz", "expected foreign:none to return a torch.nn.Module, got No"),
        ("foreign:whole", "images.npz", "expected foreign:whole to be a function or a class"),
        ("foreign:narrow", "images.npz", r"logits \(2, 3\) of 2 examples, got \(2, 2\); let"),
        ("foreign:rows", "images.npz", r"to take examples \(2, 3, 6, 5\), got RuntimeError"),
        ("lenet5", "rows.csv", "expected data of image for lenet5, got features from rows.csv"),
        ("pointnet", "images.npz", "expected data of points for pointnet, got image"),
        ("lenet5", "photo", "unknown data 'photo'; known: .*digits.*, or a folder of images"),
        ("lenet5", "photo.npz", "photo.npz: expected a folder or a file, got none; say where"),
        ("lenet5", "./foreign.py", "foreign.py: expected a folder, a .npz or a .csv, got '.py'"),
        ("lenet5", "images.npz@8", "unknown data|expected a folder of images before '@'"),
    ],
)
def test_what_cannot_be_trained_says_why(
    folder: Path, capsys: pytest.CaptureFixture[str], model: str, data: str, message: str
) -> None:
    assert trained(model, data) == 2
    assert re.search(f"^ezo: .*{message}", capsys.readouterr().err)


def test_a_model_of_ones_own_is_planned(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--model", "foreign:net", "--shape", "3", "8", "8", "--classes", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["full-zo", "elastic-1", "full-bp"]
    assert main(["plan", "--model", "foreign:net"]) == 2
    assert "expected --data or --shape for foreign:net, got none; give" in capsys.readouterr().err
    for words in (
        ["foreign:net", "--shape", "3", "8", "8", "8"],
        ["lenet5", "--shape", "28", "28"],
    ):
        assert main(["plan", "--model", *words]) == 2
        assert re.search("expected --shape of .* numbers .* got", capsys.readouterr().err)
    assert main(["plan", "--model", "foreign:net", "--shape", "3", "8", "8", "--points", "4"]) == 2
    assert "expected no --points for foreign:net" in capsys.readouterr().err


class Touch:
    """Pickled, it would run code where it is read."""

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (Path("ran"),)


OF_TWO = np.arange(10) % 2
BAD: dict[str, tuple[dict[str, np.ndarray], str]] = {
    "pickle": ({"x": np.zeros((10, 4)), "y": np.array([Touch()] * 10)}, "arrays of numbers, or"),
    "lengths": ({"x": np.zeros((9, 4)), "y": OF_TWO}, "labels as examples, got 9 and 10 in x and"),
    "no labels": ({"x": np.zeros((9, 4))}, "labels to train by, got none of all"),
    "one class": ({"x": np.zeros((9, 4)), "y": np.ones(9, int)}, "two classes or .*, got 1: 1;"),
    "fractions": ({"x": np.zeros((10, 4)), "y": OF_TWO / 3}, "classes in y, got fractions"),
    "not finite": ({"x": np.full((10, 4), np.nan), "y": OF_TWO}, "finite numbers, got none in exa"),
    "shape": ({"x": np.zeros((10, 4, 4, 4, 4)), "y": OF_TWO}, r"x \(N, C, H, W\) or .*, got \(10"),
    "words": ({"x": np.array([["a"]] * 10), "y": OF_TWO}, "numbers in x, got <U1"),
    "no x": ({"images": np.zeros((10, 4))}, "an array x, got images; write numpy.savez"),
    "few": ({"x": np.zeros((4, 4)), "y": np.arange(4) % 2}, "5 examples of a class, one to test"),
    "new class": (
        {"train_x": np.zeros((9, 4)), "train_y": np.arange(9) % 2, "test_x": np.zeros((2, 4)),
         "test_y": np.array([0, 7])}, "classes of the training, 0, 1, got 7; train on"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_bad_arrays_are_refused_and_no_code_runs(folder: Path, what: str) -> None:
    arrays, message = BAD[what]
    np.savez("bad.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"^bad.npz: expected .*{message}"):
        _own.load("bad.npz")
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "two columns or more, got an empty file"),
        ("a;label\n1;2\n", "two columns or more, got 1 in the first line; separate"),
        ("a,label\n1,x\n2\n", "2 columns, as in the first row, got 1 in row 3"),
        ("a,label\n1,x\nten,y\n", "a number, got 'ten' in row 3; give numbers"),
        ("a,label\n", "rows of examples, got a header alone"),
        ("a,label\n1,x\ninf,y\n", "finite numbers, got none in example 1"),
    ],
)
def test_bad_rows_are_refused(folder: Path, text: str, message: str) -> None:
    Path("bad.csv").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=f"^bad.csv: expected {message}"):
        _own.load("bad.csv")


def test_bad_images_are_refused(folder: Path) -> None:
    photos(folder / "photos", pictures(), labels())
    photos(folder / "sizes", pictures(), labels())
    photos(folder / "sizes", pictures()[:1, :3], labels()[:1])
    with pytest.raises(ValueError, match=r"images of one size, got 5 x 3 .* and 5 x 6 .*@64"):
        _own.load("sizes")
    (folder / "photos" / "cat" / "00.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="00.png: expected an image, got"):
        _own.load("photos")
    (folder / "empty" / "cat").mkdir(parents=True)
    with pytest.raises(ValueError, match="empty: expected a folder of images for each class, got"):
        _own.load("empty")


def test_a_checkpoint_alone_runs_no_code(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert trained("foreign:net", "images.npz", "--epochs", "0") == 0
    (folder / "imported").unlink()
    del sys.modules["foreign"]
    for command in ("predict", "eval"):
        assert main([command, "--from", "run", "--data", "images.npz"]) == 2
        assert "expected --model foreign:net, the run's, got none" in capsys.readouterr().err
    assert not (folder / "imported").exists()


def test_other_examples_than_the_trainings_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained("lenet5", "images.npz", "--epochs", "0") == 0
    np.savez("wide.npz", x=np.zeros((5, 3, 6, 6)))
    capsys.readouterr()
    for data, message in (
        ("wide.npz", r"examples of shape \(3, 6, 5\), as the run was trained on, got \(3, 6, 6\)"),
        ("digits", "expected examples of shape .* in 3 classes, .* in 10 from digits"),
    ):
        assert main(["predict", "--from", "run", "--data", data]) == 2
        assert re.search(message, capsys.readouterr().err)
    assert main(["predict", "--from", "nowhere", "--data", "digits"]) == 2
    assert "expected a run's folder, with checkpoint.safetensors" in capsys.readouterr().err


# Plug-ins of other distributions

PLUG_IN = '''"""Two lines through a point, and nothing else."""

from torch import nn

NAMES = ("others-net",)
INPUT = "image"


def build(name, classes, channels):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))
'''


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, str], None]:
    """``install(group, module, source)``, as a distribution ``others`` would be."""

    def place(group: str, module: str, source: str) -> None:
        site = tmp_path / f"site-{module}"
        info = site / "others-1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[{group}]\nany = {module}\n")
        (site / f"{module}.py").write_text(source, encoding="utf-8")
        monkeypatch.syspath_prepend(str(site))

    return place


def test_another_distributions_model_is_one_of_ours(
    install: Callable[[str, str, str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    before = catalogue.names("model")
    install("ezo.models", "others_model", PLUG_IN)
    assert catalogue.names("model") == [*before, "others-net"]
    assert catalogue.find("model", "others-net").build("others-net", 3, 1)[1].out_features == 3
    assert main(["list"]) == 0
    assert re.search("others-net +Two lines through", capsys.readouterr().out)


@pytest.mark.parametrize("kind", catalogue.KINDS)
def test_every_kind_takes_plug_ins(install: Callable[[str, str, str], None], kind: str) -> None:
    install(catalogue.KINDS[kind], f"others_any_{kind}", 'NAMES = ("others-<n>",)\n')
    assert catalogue.find(kind, "others-3").__name__ == f"others_any_{kind}"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import nothing_such", "a module with NAMES, .* got ModuleNotFoundError: No module"),
        ("", "a module with NAMES, as a file of ezo.models has, got AttributeError"),
        ('NAMES = ("lenet5",)', "names of its own, got lenet5, which another file has"),
    ],
)
def test_a_plug_in_that_is_none_is_named(
    install: Callable[[str, str, str], None], source: str, message: str
) -> None:
    install("ezo.models", f"others_bad_{len(source)}", source)
    with pytest.raises(ValueError, match=f"entry point others_bad.* of others: expected {message}"):
        catalogue.names("model")


def test_an_image_that_another_program_would_draw_is_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("L", (8, 8)).save(tmp_path / name / "0.png")
    Image.new("L", (8, 8)).save(tmp_path / "a" / "1.png", "EPS")
    with pytest.raises(ValueError, match=r"1\.png: expected an image, got .*; take it out"):
        _own.load(str(tmp_path))


def test_arrays_that_are_shorter_than_they_say_are_refused_at_once(tmp_path):
    head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({10**11}, 4), }}\n".encode()
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        npy = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + bytes(64)
        archive.writestr("x.npy", npy)
    with pytest.raises(ValueError, match="got x.npy of 64 bytes, which says 1,600,000,000,000"):
        _own.load(str(tmp_path / "d.npz"))


def test_eval_of_the_run_s_own_data_is_of_what_was_kept_from_the_training(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(size=(50, 4))
    np.savez("d.npz", x=x, y=(x[:, 0] > 0).astype(int))
    np.savez("other.npz", x=x, y=(x[:, 0] > 0).astype(int))
    Path("mlp.py").write_text(
        "from torch import nn\n\n\ndef net(classes, features):\n"
        "    return nn.Sequential(nn.Linear(features, classes))\n"
    )
    words = ["--model", "mlp:net", "--data", "d.npz", "--method", "full-bp", "--batch-size", "8"]
    assert main(["train", *words, "--epochs", "3", "--out", "run"]) == 0
    trained = capsys.readouterr().out
    last = [line.split()[-2] for line in trained.splitlines() if "test_accuracy" in line][-1]
    for data, n in ((str(tmp_path / "d.npz"), 10), ("other.npz", 50)):
        assert main(["eval", "--from", "run", "--model", "mlp:net", "--data", data]) == 0
        said = capsys.readouterr().out
        assert f"examples {n}\n" in said
        assert (f"accuracy {last} %" in said) == (n == 10)
    assert main(["train", *words, "--epochs", "3", "--out", "run"]) == 0
    assert "ezo: goes on with the run in run; earlier rows come first" in capsys.readouterr().err
