"""A step of node perturbation on a perceptron, one example and one number at a time."""

import math


def forward(layers, x, noise, shift):
    """One example's logits, and each layer's input and output.

    Args:
        layers: (weight, bias) each, nested lists; a ReLU follows all but the last.
        noise: a list of numbers for each layer.
        shift: what noise is multiplied with, before it is added to the outputs.
    """
    inputs, outputs = [], []
    for number, (weight, bias) in enumerate(layers):
        inputs.append(x)
        y = [
            sum(w * v for w, v in zip(row, x, strict=True)) + b + shift * z
            for row, b, z in zip(weight, bias, noise[number], strict=True)
        ]
        outputs.append(y)
        x = y if number == len(layers) - 1 else [max(v, 0.0) for v in y]
    return x, inputs, outputs


def cross_entropy(logits, label):
    return math.log(sum(math.exp(v) for v in logits)) - logits[label]


def step(layers, xs, labels, noises, lr, sigma, clip):
    """The layers after a step on a batch. ``noises[i][l][u]`` is an example's, a layer's, a unit's.

    W <- W - lr D, b <- b - lr (mean e - D xbar), D = mean e (x - xbar)'.
    """
    n = len(xs)
    examples = []
    for x, label, noise in zip(xs, labels, noises, strict=True):
        plus = cross_entropy(forward(layers, x, noise, sigma)[0], label)
        logits, inputs, outputs = forward(layers, x, noise, -sigma)
        d = max(-clip * sigma, min(clip * sigma, (plus - cross_entropy(logits, label)) / 2))
        examples.append((d, inputs, outputs, noise))
    after = []
    for number, (weight, bias) in enumerate(layers):
        last = number == len(layers) - 1
        width = len(weight[0])
        mean = [sum(of[1][number][k] for of in examples) / n for k in range(width)]
        new_weight, new_bias = [], []
        for u, row in enumerate(weight):
            e = [
                d / sigma * noise[number][u] * (last or outputs[number][u] > 0)
                for d, _, outputs, noise in examples
            ]
            update = [
                sum(e[i] * (examples[i][1][number][k] - mean[k]) for i in range(n)) / n
                for k in range(width)
            ]
            new_weight.append([w - lr * v for w, v in zip(row, update, strict=True)])
            along = sum(v * m for v, m in zip(update, mean, strict=True))
            new_bias.append(bias[u] - lr * (sum(e) / n - along))
        after.append((new_weight, new_bias))
    return after
