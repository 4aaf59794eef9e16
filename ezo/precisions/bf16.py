"""ZO weights in bfloat16, never moved but by rounded updates; the BP part in float32."""

import functools

import torch

from ezo.precisions import _coarse, fp32

NAMES = ("bf16",)
HYPER = fp32.HYPER
default, reads, check, layers = fp32.default, fp32.reads, fp32.check, fp32.layers
make_step = functools.partial(_coarse.make_step, torch.bfloat16)
