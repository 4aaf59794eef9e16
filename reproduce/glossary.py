"""The words and abbreviations of the report, each explained once."""

TERMS = {
    "ZO, zeroth order": (
        "training by forward passes alone: the loss with the weights moved a little along random "
        "noise, and against it, says how far to go along that noise"
    ),
    "BP, backpropagation": (
        "training by gradients, for which a step keeps what every layer computed"
    ),
    "full-zo, elastic-k, full-bp": (
        "the last 0, k or all layers are trained by BP, the layers before them by ZO; elastic-k is "
        "the paper's ElasticZO"
    ),
    "elastic-lean-k": (
        "elastic-k whose BP part holds nothing during a pass: its gradient is that of the step's "
        "last pass alone, and its steps have no momentum"
    ),
    "full-zo-node, elastic-node-k": (
        "full-zo and elastic-k whose linear ZO layers are perturbed at their outputs, each example "
        "with noise of its own, in place of their weights: node perturbation, ours and no part of "
        "the paper"
    ),
    "full-zo-feedback, elastic-feedback-k": (
        "the same, where the noise teaches a way from the error at the network's output to each "
        "layer's, and the layers step along that: ours too"
    ),
    "tail-only-k, frozen control": (
        "the last k layers are trained by BP, and the layers before them stay as they were "
        "initialised: the comparison that shows whether ZO helps at all"
    ),
    "primary, exploratory": (
        "a sentence of the abstract is judged by one comparison, the primary one, which "
        "reproduce/rules.py names; all others are exploratory, and some of so many would come out "
        "by chance"
    ),
    "as installed, whole, streamed": (
        "how layers run: as the library does by default; every layer on the whole batch at once; "
        "the layers trained by ZO on a few examples at a time"
    ),
    "searched unequally, trials": (
        "the values of two methods were chosen from different numbers of trial runs, so that there "
        "is no verdict between them"
    ),
    "full-bp-checkpoint": "full-bp that computes what the layers computed again, and keeps less",
    "inference": "a forward pass and its loss, without training",
    "fp32, bf16, fp16, int8, int8* (FP32, INT8)": (
        "the numbers of network and training: 32-bit floating point; 16 bits of it for ZO weights, "
        "in two formats; integers alone, weights of 8 "
        "bits; the same with the loss in floating point"
    ),
    "lenet5, pointnet": (
        "the networks: LeNet-5 for images, PointNet for clouds of points; -bn: with batch norm; "
        "-he: without, from initial weights that keep the signal"
    ),
    "mnist, fashion-mnist, shapes, digits": (
        "the data: handwritten digits; clothes; clouds of points made by a program, which stand in "
        "for ModelNet40; small handwritten digits. -rot30: rotated by 30 degrees; shapes-256: 256 "
        "points a cloud; shapes-upright: they stand, and are turned about the vertical axis alone"
    ),
    "sign, the paper's form": (
        "integer training as the paper has it: a ZO step by the sign of the difference of the two "
        "losses, and weights of 8 bits and no more; int8 elsewhere takes a step in proportion to "
        "the difference, and one more byte a weight that only updates see"
    ),
    "splits, queries, long, fine-tuning-queries, sensitivity": (
        "experiments: other numbers of BP layers; several perturbations (queries) a step, and so "
        "as many times the forward passes; these for more epochs, in int8; these in fine-tuning; "
        "one setting at a time changed"
    ),
    "step, batch, epoch, pass": (
        "a step changes the weights by one batch of examples; an epoch shows all training examples "
        "once; a forward pass computes one batch's loss"
    ),
    "seed": (
        "where a run's random numbers begin; runs that differ in it alone show what chance does"
    ),
    "points": "of accuracy: percentage points",
    "x": "times: one amount over another",
    "87.4 [84.6, 90.2]": (
        "the mean over samples (seeds, or rounds of a timing) and its 95 % interval by Student's t "
        "distribution; exact: the same in every run, so that there is no interval"
    ),
    "at least 20 [20 or more]": "a lower bound: what was measured has no upper end",
    "peak tensor bytes": "the most bytes that arrays (tensors) hold at any moment of a step",
    "nat": "unit of the loss, by the natural logarithm",
    "ours": "a claim that the paper does not make, or a bound that it does not print",
    "qualitative": "said in words, without a number",
    "case": (
        "one run, or one thing measured. Its rows, each a number with its settings, are lines of "
        "rows.jsonl; the last table says which"
    ),
}
