"""Everything that is measured on a GPU, in one go: sweeps, LeNet-5, integers, language models.

    python -m bench.gpu --out reports/gpu            in some minutes, on one card

It needs torch, triton and transformers, no network, no installed ezo and no compiler of C++: it
runs from a clone. What can't be measured is a row that says why, and so is what there was no time
for (``--seconds``). ``--small`` does all of it on the CPU, in sizes that say nothing.

Times are CUDA events' over several steps (`bench.timing`), and peaks are ``max_memory_allocated``,
beside which stands what a plan says (`bench.cuda`). Steps that are compared were timed in turn in
this process.
"""

import argparse
import contextlib
import functools
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ezo
from bench.cuda import allocated, explained, planned
from bench.timing import Clock
from bench.workload import Workload
from ezo import check, rows
from ezo.kernels import using
from ezo.lock import alone_in
from ezo.noise import NOISES
from ezo.perturb import Sweeper
from ezo.plan import plan
from ezo.rows import Row, provenance

Step = Callable[[], Any]
KINDS = ("gaussian", "gaussian-16", "rademacher-1")  # of noise, dear to cheap
ROUNDS = 5


@dataclass
class Bench:
    """Where things are measured, and what was found."""

    device: str
    small: bool
    until: float  # by time.monotonic
    rows: list[Row] = field(default_factory=list)

    @property
    def cuda(self) -> bool:
        return self.device.startswith("cuda")

    def row(self, case: str, metric: str, value: float | None, unit: str, note: str = "") -> None:
        found = provenance()
        if self.cuda:
            found["processor"] = torch.cuda.get_device_name(self.device)
            found["versions"] |= {"cuda": str(torch.version.cuda), "driver": driver()}
        self.rows.append(Row(case, metric, value, unit, note=note, device=self.device, **found))
        shown = "-" if value is None else f"{value:,.6g}"
        print(f"{case:<44} {metric:<22} {shown:>16} {unit}  {note}", flush=True)

    def seconds(self, steps: dict[str, Step], times: int) -> dict[str, float]:
        """Median seconds of each, over rounds in which all take turns."""
        for step in steps.values():
            step()
            step()
        samples: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(2 if self.small else ROUNDS):
            for name, step in steps.items():
                samples[name].append(self.once(step, times))
        return {name: statistics.median(of) for name, of in samples.items()}

    def once(self, step: Step, times: int, device: str = "") -> float:
        """Mean seconds of a step on a device, by default this one: between two moments of it."""
        clock = Clock(device or self.device)
        clock.wait()
        started = clock.now()
        for _ in range(times):
            step()
        (seconds,) = clock.seconds([(started, clock.now())])
        return seconds / times

    def peak(self, step: Step) -> int:
        """Bytes that torch's allocator gave out at the most, during a step."""
        step()
        return allocated(step, self.device).peak if self.cuda else 0

    def planned(self, case: str, plan: int, step: Step) -> None:
        """A plan's bytes of a step, what the allocator gave out for it, and their ratio."""
        self.row(case, "plan_bytes", plan, "B")
        if not self.cuda:
            self.row(case, "plan_over_cuda", None, "1", "no CUDA: its allocator gave out nothing")
            return
        step()
        step()
        found = allocated(step, self.device)
        ratio, note = explained(plan, found)
        self.row(case, "cuda_peak_bytes", found.peak, "B", "max_memory_allocated")
        self.row(case, "cuda_requested_bytes", found.requested, "B", "before it is rounded up")
        self.row(case, "cuda_workspace_bytes", found.workspaces, "B", "no tensor's, and stay")
        self.row(case, "plan_over_cuda", ratio, "1", note)

    def clean(self) -> None:
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()


@functools.cache
def driver() -> str:
    """The driver's version, as the system shows it."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
    except OSError:
        return "unknown"
    return text.splitlines()[0].partition("Module")[2].split()[0]


def sweeps(b: Bench) -> None:
    """A sweep over float32 and bfloat16 weights, beside a copy of as many bytes."""
    for dtype, n in ((torch.float32, 300_000_000), (torch.bfloat16, 300_000_000)):
        x = torch.zeros(4096 if b.small else n, device=b.device, dtype=dtype)
        y = torch.empty_like(x)
        sweepers = {kind: Sweeper([x], noise=kind) for kind in NOISES}
        steps: dict[str, Step] = {"copy": functools.partial(y.copy_, x)}
        for kind, sweeper in sweepers.items():
            steps[kind] = functools.partial(sweeper.shift, (1, 2, 0), 1e-3, 1.0)
        found = b.seconds(steps, 1 if b.small else 10)
        for kind in NOISES:
            case = f"sweep-{kind}-{str(dtype)[6:]}"
            b.row(case, "sweep_seconds", found[kind], "s", f"{x.numel():,} numbers")
            b.row(case, "share_of_copy", found["copy"] / found[kind], "1", "copy's time over it")
        del x, y, sweepers, steps
        b.clean()


def bits(b: Bench) -> None:
    """Whether the device gives the reference's bits, of all kinds of noise and types."""
    for kind in NOISES:
        for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
            plain = torch.linspace(-2, 2, 10_007, dtype=torch.float64).to(dtype)
            found = []
            for device, backend in ((b.device, ""), ("cpu", "reference")):
                x = plain.to(device).clone()
                with using(backend) if backend else torch.no_grad():
                    sweep = Sweeper([x], noise=kind, first_tensor=3)
                    sweep.shift((5 << 40, 7, 1), 1e-2, 1.0)
                    sweep.update((5 << 40, 7, 1), 1e-2, 1e-3, 1e-3, False)
                    if dtype in (torch.float16, torch.bfloat16):
                        sweep.learn((5 << 40, 8, 1), 1e-3, 1e-3)
                found.append(x.cpu())
            differ = int((found[0] != found[1]).sum())
            b.row(f"bits-{kind}-{str(dtype)[6:]}", "different_numbers", differ, "1")


def lenet5(b: Bench) -> None:
    """A step against two forwards, eager and captured, and against backpropagation."""
    from ezo.models import lenet5 as models

    def model() -> nn.Module:
        torch.manual_seed(0)
        return models.build("lenet5", 10, 1).to(b.device)

    x = torch.randn(32, 1, 28, 28, device=b.device)
    y = torch.randint(0, 10, (32,), device=b.device)

    def closure(of: nn.Module) -> Step:
        return lambda: nn.functional.cross_entropy(of(x), y)

    plain, trained = model(), model()
    sgd = torch.optim.SGD(trained.parameters(), lr=1e-3, momentum=0.9)

    def bp() -> None:
        sgd.zero_grad()
        closure(trained)().backward()
        sgd.step()

    steps: dict[str, Step] = {"forward": torch.no_grad()(closure(plain)), "bp": bp}
    for kind in KINDS:
        steps[kind] = zo_step(model(), closure, kind)
    if b.cuda:
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            torch.no_grad()(closure(plain))()
        steps["forward captured"] = graph.replay
        for kind in KINDS:
            steps[f"{kind} captured"] = zo_step(model(), closure, kind, capture=True)
    found = b.seconds(steps, 1 if b.small else 100)
    for name, seconds in found.items():
        b.row(f"lenet5-batch32-{name.replace(' ', '-')}", "step_seconds", seconds, "s")
    for kind in KINDS:
        for how in ("", " captured") if b.cuda else ("",):
            case = f"lenet5-batch32-{kind}{how}".replace(" ", "-")
            ratio = found[kind + how] / 2 / found["forward" + how]
            b.row(case, "step_over_two_forwards", ratio, "1")
            b.row(case, "step_over_bp", found[kind + how] / found["bp"], "1", "eager bp")
    if not b.cuda:
        b.row("lenet5-batch32-captured", "step_seconds", None, "s", "no CUDA: nothing to capture")


def zo_step(model: nn.Module, closure: Callable[[Any], Step], kind: str, **how: Any) -> Step:
    optimizer = ezo.ElasticZO(model, 0, lr=1e-5, eps=1e-3, clip=5.0, noise=kind, **how)
    return lambda: optimizer.step(closure(model))


def integers(b: Bench) -> None:
    """The digest of an int8 training run on the device and on the CPU."""
    from ezo.checkpoint import digest
    from ezo.int8 import ElasticZO, Loss, from_float, quantize
    from ezo.models import lenet5 as models

    steps, found = 3 if b.small else 200, []
    for device in (b.device, "cpu"):
        torch.manual_seed(0)
        x, y = torch.randn(8, 1, 28, 28), torch.arange(8)
        network = from_float(models.build("lenet5", 10, 1), headroom=15).to(device)
        batch, labels = quantize(x.to(device)), y.to(device)
        optimizer = ElasticZO(network, 2, fraction=True)

        def step() -> None:
            optimizer.step(lambda: Loss(network(batch), labels))  # noqa: B023

        seconds = b.once(step, steps, device)
        b.row(f"int8-lenet5-{device}", "step_seconds", seconds, "s", "batch 8, elastic-2")
        found.append(digest({k: v.cpu() for k, v in network.state_dict().items()}))
    note = f"after {steps} steps; {found[0][:12]}"
    b.row("int8-lenet5", "digests_equal", float(found[0] == found[1]), "1", note)


def plans(b: Bench) -> None:
    """What a plan says of a step's bytes, beside the allocator's peak."""
    batches = {"lenet5": 4} if b.small else {"lenet5": 2048, "pointnet": 32}
    for model, batch in batches.items():
        for method in ("inference", "full-zo", "elastic-1", "full-bp"):
            for precision in ("fp32", "int8"):
                case = Workload(model, method, batch, precision=precision, device=b.device)
                name = f"plan-{model}-batch{batch}-{method}-{precision}"
                if time.monotonic() > b.until:
                    b.row(name, "plan_over_cuda", None, "1", "not run: out of time")
                    continue
                try:
                    b.planned(name, planned(case).peak_bytes, case.prepare()[1])
                except Exception as error:
                    b.row(name, "plan_over_cuda", None, "1", not_run(error))
                b.clean()


def not_run(error: Exception) -> str:
    told = str(error).splitlines() or [""]
    return f"not run: {type(error).__name__}: {told[0][:100]}"


def language(b: Bench, name: str) -> None:
    """Steps of a decoder in bfloat16: over two forwards, and peaks over inference's."""
    from examples.language import SHAPES, decoder

    shape = SHAPES["tiny" if b.small else name]
    model = decoder(shape, b.device, torch.bfloat16)
    ids = torch.randint(3, shape.vocabulary, (shape.batch, shape.tokens), device=b.device)

    def loss() -> Tensor:
        found: Tensor = model(input_ids=ids, labels=ids).loss
        return found

    forward = torch.no_grad()(loss)
    case = f"opt-{name}-batch{shape.batch}x{shape.tokens}"
    size = sum(p.numel() for p in model.parameters())
    inference, times = b.peak(forward), 1 if b.small else 3
    b.row(case, "parameters", size, "1")
    b.row(case, "inference_peak_bytes", inference, "B")
    language_plan(b, case, model, ids, loss)
    with_bp = name == "1.3b"
    for way, make in ways(model, loss, with_bp):
        if time.monotonic() > b.until:
            b.row(f"{case}-{way}", "step_over_two_forwards", None, "1", "not run: out of time")
            continue
        try:
            step: Step = make()
            found = b.seconds({"forward": forward, "step": step}, times)
            most = b.peak(step)
        except Exception as error:
            b.row(f"{case}-{way}", "step_over_two_forwards", None, "1", not_run(error))
        else:
            ratio = found["step"] / 2 / found["forward"]
            b.row(f"{case}-{way}", "step_seconds", found["step"], "s")
            b.row(f"{case}-{way}", "step_over_two_forwards", ratio, "1")
            if inference:
                b.row(f"{case}-{way}", "peak_over_inference", most / inference, "1")
        finally:
            step = list  # frees what it held
            restore(model)
            b.clean()


def language_plan(b: Bench, case: str, model: nn.Module, ids: Tensor, loss: Step) -> None:
    """The plans of a pass and of a step of full ZO, from the model's own shapes."""
    x = {"input_ids": ids, "labels": ids}
    try:
        found = plan(model, x, methods=("full-zo",), loss=lambda output: output.loss)
        b.planned(f"plan-{case}-inference", found.inference.peak_bytes, torch.no_grad()(loss))
        (zo,) = found.predictions
        step = zo_step(model, lambda _: loss, "gaussian")
        b.planned(f"plan-{case}-full-zo", zo.peak.peak_bytes, step)
    except Exception as error:
        b.row(f"plan-{case}", "plan_over_cuda", None, "1", not_run(error))
    restore(model)
    b.clean()


def restore(model: nn.Module) -> None:
    """As it was but for its numbers: no hooks, no gradients, all trained."""
    for p in model.parameters():
        p.grad = None
        if p._post_accumulate_grad_hooks:
            p._post_accumulate_grad_hooks.clear()
        p.requires_grad_(True)


def ways(model: nn.Module, loss: Step, with_bp: bool) -> Iterator[tuple[str, Callable[[], Step]]]:
    """Every step to measure, made when its turn comes."""
    for kind in KINDS:
        yield f"in-place-{kind}", functools.partial(in_place, model, loss, kind)
    for kind in KINDS:
        make = functools.partial(zo_step, model, lambda _: loss, kind)
        yield f"full-zo-{kind}", make
        yield f"full-zo-{kind}-captured", functools.partial(make, capture=True)
    yield "mezo-style", lambda: mezo_style(model, loss)
    yield "torchzero-mezo", lambda: peer("torchzero", "torchzero-mezo", model, loss)
    yield "zo2", lambda: absent("zo2")
    if with_bp:
        yield "bp-sgd", lambda: peer("torch_bp", "torch-sgd", model, loss)
        fused = "torch-sgd-fused-backward"
        yield "bp-sgd-fused-backward", lambda: peer("torch_bp", fused, model, loss)
        yield "bp-adamw-8bit", lambda: peer("torchao", "torchao-adam8bit", model, loss)
        yield "bp-lora", lambda: lora(model, loss)


def in_place(model: nn.Module, loss: Step, kind: str) -> Step:
    """Three sweeps of the weights where they are, whose rounding is not undone: drift."""
    sweep, forward = (
        Sweeper([p.data for p in model.parameters()], noise=kind),
        torch.no_grad()(loss),
    )

    def step() -> None:
        sweep.shift((1, 2, 0), 1e-3, 1.0)
        forward()
        sweep.shift((1, 2, 0), 1e-3, -2.0)
        forward()
        sweep.update((1, 2, 0), 1e-3, 1e-7, 0.0, True)

    return step


@torch.no_grad()
def _mezo(parameters: list[Tensor], times: float, device: torch.device) -> None:
    generator = torch.Generator(device).manual_seed(1)
    for p in parameters:
        z = torch.empty_like(p).normal_(generator=generator)
        p.add_(z, alpha=times)


def mezo_style(model: nn.Module, loss: Step) -> Step:
    """MeZO's four sweeps with torch's own noise (Malladi et al. 2023)."""
    parameters, forward = [p.data for p in model.parameters()], torch.no_grad()(loss)
    device = parameters[0].device

    def step() -> None:
        _mezo(parameters, 1e-3, device)
        plus = forward()
        _mezo(parameters, -2e-3, device)
        g = ((plus - forward()) / 2e-3).item()
        _mezo(parameters, 1e-3, device)
        _mezo(parameters, -1e-7 * g, device)

    return step


def peer(file: str, name: str, model: nn.Module, loss: Step) -> Step:
    import importlib

    of: Any = importlib.import_module(f"bench.peers.{file}")
    found: Step = of.step(name, model, lambda backward=False: loss())
    return found


def lora(model: nn.Module, loss: Step) -> Step:
    """Adapters of rank 8 by AdamW, through the whole model."""
    from bench.peers.torch_bp import backprop
    from examples.language import add_lora

    return backprop(torch.optim.AdamW(add_lora(model), lr=1e-4), lambda backward=False: loss())


def absent(package: str) -> Step:
    raise ModuleNotFoundError(f"{package} is not on PyPI, and is measured where it is installed")


PARTS: dict[str, Callable[[Bench], None]] = {
    "bits": bits,
    "sweeps": sweeps,
    "lenet5": lenet5,
    "plans": plans,
    "opt-1.3b": lambda b: language(b, "1.3b"),
    "opt-13b": lambda b: language(b, "13b"),
    "int8": integers,
}


def main(arguments: list[str] | None = None) -> list[Row]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for rows.jsonl")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--seconds", type=float, default=450.0, help="begin nothing after these")
    given = parser.parse_args(arguments)
    try:
        check.device(given.device)
    except ValueError as error:
        parser.error(f"{error} --small to see that all of it runs")
    b = Bench(given.device, given.small, time.monotonic() + given.seconds)
    with alone_in(given.out) if given.out else contextlib.nullcontext():
        _measure(b, given)
    return b.rows


def _measure(b: Bench, given: argparse.Namespace) -> None:
    kept = 0
    for name in given.parts:
        _part(b, name)
        if given.out:  # kept as soon as it is there
            rows.write(given.out / "rows.jsonl", b.rows[kept:], append=True)
            kept = len(b.rows)


def _part(b: Bench, name: str) -> None:
    started = time.monotonic()
    if started > b.until:
        b.row(name, "part_seconds", None, "s", "not run: out of time")
        return
    try:
        PARTS[name](b)
    except Exception as error:
        note = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
        b.row(name, "part_seconds", None, "s", f"failed: {note}")
    else:
        b.row(name, "part_seconds", time.monotonic() - started, "s")
    b.clean()


if __name__ == "__main__":
    main()
