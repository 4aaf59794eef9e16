"""Triton's kernels: the same bits as the compiled ones, in the interpreter, and code for a GPU."""

import os
import subprocess
import sys

import pytest
import torch

from ezo import kernels
from ezo.kernels import triton as backend

pytest.importorskip("triton", reason="triton is not installed")

COMPILE = """
import triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from ezo.kernels import _triton as kernels

plain = {"rows": "i32", "key_low": "u32", "key_high": "u32", "step": "u32", "stream": "u32"}
plain |= dict.fromkeys(("eps", "times", "rate", "decay"), "fp64")
how = dict(OP=kernels.LEARN, TYPE=tl.bfloat16, KIND=0, SHARED=1, UNIT=2, ROWS=8, RANK=0)
at = {"step_at": "*i64", "rate_at": "*fp64", "decay_at": "*fp64"}
constant = {**how, "eps_at": None, "theta": None, "result": None}
plain |= {"elements": "i64", "number": "u32"}
signature = {"table": "*i64", **plain, **at, **dict.fromkeys(constant, "constexpr")}
names = list(kernels.sweep.arg_names)
source = ASTSource(kernels.sweep, {n: signature[n] for n in names}, constant)
options = {"num_warps": 4, "enable_fp_fusion": False}
ptx = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]
assert "cvt.rn.bf16" in ptx and "sqrt.rn.f32" in ptx
assert "fma." not in ptx, "a fused multiply-add rounds otherwise than the CPU"
assert "bar.sync" not in ptx, "no program waits for its own threads"
"""


def run(*command: str, **environment: str) -> str:
    found = subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert found.returncode == 0, found.stderr
    return found.stderr


def test_kernels_give_the_compiled_bits_in_the_interpreter():
    said = run("-m", "tests.triton_bits", TRITON_INTERPRET="1")
    assert said.count("equal") == 4


def test_a_kernel_compiles_for_a_gpu_without_one_and_fuses_nothing(tmp_path):
    run("-c", COMPILE, TRITON_CACHE_DIR=str(tmp_path))


def test_without_an_accelerator_no_one_is_asked():
    assert backend.RANK is None or torch.version.cuda or torch.version.hip
    taken, rest = backend.Backend().sweeps([(0, torch.ones(3))], "gaussian", 0)
    assert not taken and len(rest) == 1
    with kernels.using("triton"):  # the reference serves
        assert kernels.serving() == "triton"
        assert kernels.words((1, 2, 3), 5, torch.device("cpu")).shape == (5,)
