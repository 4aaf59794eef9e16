"""Single sweeps over float weights, as a step makes them."""

import contextlib

import torch

from ezo import kernels
from ezo.int8 import perturb
from ezo.perturb import Sweeper


def _sweeper(parameters, reference=False, **how):
    with kernels.using("reference") if reference else contextlib.nullcontext():
        return Sweeper(parameters, **how)


def shift_(parameters, *, seed, step, eps, times=1.0, stream=0, **how):
    """theta <- snap(theta) + times snap(eps z)."""
    _sweeper(parameters, **how).shift((seed, step, stream), eps, float(times))
    torch.autograd.graph.increment_version(parameters)


def update_(parameters, *, seed, step, eps, rate, decay=0.0, restore=True, stream=0, **how):
    """theta <- theta - rate z - decay theta, from theta - e where ``restore``."""
    _sweeper(parameters, **how).update((seed, step, stream), eps, rate, decay, restore)
    torch.autograd.graph.increment_version(parameters)


def fill_(parameters, *, seed, step, stream=0, **how):
    """theta <- z: the noise itself."""
    _sweeper(parameters, **how).fill((seed, step, stream))
    torch.autograd.graph.increment_version(parameters)


def sparse_shift_(parameters, noise, *, seed, step, times, stream=0, **how):
    """theta <- theta + times z, int8."""
    perturb.shift_(parameters, noise, (seed, step, stream), times, **how)


def sparse_update_(parameters, noise, *, seed, step, g, rate, restore=1, stream=0, **how):
    """theta <- clip(theta - g z rate), int8, from theta - restore z."""
    perturb.update_(parameters, noise, (seed, step, stream), (g, rate, restore), **how)
