"""Resources of the kernels of a fused step, compiled for GPUs that are not there."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest

from helpers.paths import ROOT

pytest.importorskip("triton", reason="needs vplface[triton]")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the programs of the Triton wheel are for x86-64"),
]
SHARED = {80: 99 * 1024, 90: 227 * 1024, 100: 227 * 1024}
"""Shared memory of a program; on 8.0 that of the smaller devices 8.6 and 8.9."""
WIDE = {"own": 2, "prepare": 3, "close": 2, "move": 3, "update": 3, "remember": 2}
"""Accesses to matrices of N·d or N·B numbers, which need offsets of 64 bits."""


@pytest.fixture(params=SHARED, scope="module")
def compiled(request, tmp_path_factory):
    """(compute capability, resources of each launch of steps in bfloat16 and float32)."""
    tests = ROOT / "tests"
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "0",
        "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton")),
        "PYTHONPATH": os.pathsep.join([str(tests), str(ROOT / "src")]),
    }
    command = [sys.executable, str(tests / "helpers" / "fused_resources.py"), str(request.param)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return request.param, json.loads(done.stdout)


def test_kernels_fit_into_registers_and_shared_memory(compiled):
    arch, launches = compiled
    for launch in launches:
        assert launch["stack"] <= 16, launch
        assert launch["shared"] <= SHARED[arch], launch


def test_products_use_tensor_cores(compiled):
    arch, launches = compiled
    for launch in launches:
        if launch["name"] not in ("forward", "pull", "move"):
            continue
        assert launch["wgmma"] + launch["tcgen05"] + launch["mma"] > 0, launch
        if arch >= 90:
            assert launch["tma"] > 0, launch
        if arch == 90 and "bfloat16" in launch["operands"]:
            assert launch["wgmma"] > 0, launch


def test_offsets_into_large_matrices_have_64_bits(compiled):
    _, launches = compiled
    for launch in launches:
        if launch["classes"] == 10_000_000 and launch["name"] in WIDE:
            assert launch["wide_offsets"] >= WIDE[launch["name"]], launch
