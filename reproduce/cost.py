"""How long a run takes: a prediction, for the estimate of a preset and of the time left."""

from ezo.train import Run

# Seconds of one thread for a training step of 32 examples by two forward passes, and how much
# more full BP takes. LeNet-5's is a guess: reports/gate has 0.005 alone on a processor with
# AVX-512, two runs side by side take longer, and an older processor took up to 0.0105.
STEP_SECONDS = {"lenet5": 0.008, "pointnet": 0.16, "pointnet-bn": 0.16}
FULL_BP = 2.0
INT8 = 0.3  # of the float32 seconds, at most: reports/precisions has 0.19 to 0.28 for ZO steps
TRAIN_EXAMPLES = {"digits": 1442, "mnist": 60_000, "fashion-mnist": 60_000, "shapes": 4000}
EVALUATION = 1.08  # over training alone


def steps(run: Run) -> int:
    """Steps of the whole run."""
    sizes = [n for name, n in TRAIN_EXAMPLES.items() if run.data.startswith(name)]
    examples = run.train_examples or (sizes[0] if sizes else 10_000) - run.held_out
    return run.epochs * (examples // run.batch_size)


def seconds(run: Run) -> float:
    """Predicted seconds of one thread."""
    a_step = STEP_SECONDS.get(run.model, 0.05) * run.batch_size / 32
    if run.method.startswith("full-bp"):
        a_step *= FULL_BP
    if run.precision != "fp32":
        a_step *= INT8
    a_step *= getattr(run.hyper, "queries", 1)
    return steps(run) * a_step * EVALUATION


def clock(seconds: float) -> str:
    """A duration as text.

    >>> clock(5000.0)
    '1 h 23 min'
    """
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
