"""Launches of Triton kernels without a GPU: recorded, or compiled for a GPU that is not there.

Compilation needs a process of its own with TRITON_INTERPRET=0, and uses the ptxas of the Triton wheel.
"""

from __future__ import annotations

import functools
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

PROGRAMS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


class Launch(NamedTuple):
    """A launch of a kernel."""

    name: str
    grid: tuple[int, ...]
    kernel: Any  # compiled, where it was


class CompiledLaunches:
    """While active, a launch compiles its kernel for a target and runs nothing.

    Types, alignment and constants of the arguments are those of the launch, whose tensors may be on the meta device.
    """

    def __init__(self, arch: int) -> None:
        self.target = GPUTarget("cuda", arch, 32)
        self.launches: list[Launch] = []

    def __enter__(self) -> CompiledLaunches:
        self._driver, self._run = driver._active, JITFunction.run
        driver.set_active(_NoDevice(self.target))
        run, launches = self._run, self.launches

        def compile_only(kernel, *args, grid, warmup=False, **options):
            compiled = run(kernel, *args, grid=grid, warmup=True, **options)
            launches.append(Launch(kernel.__name__, tuple(grid), compiled))
            return compiled

        JITFunction.run = compile_only
        return self

    def __exit__(self, *_: object) -> None:
        JITFunction.run = self._run
        driver._active = self._driver


class _NoDevice:
    """The answers that Triton's launcher needs of a driver."""

    def __init__(self, target: GPUTarget) -> None:
        self.target, self.utils = target, self

    def get_current_target(self):
        return self.target

    def get_current_device(self):
        return self.target.arch  # Triton keeps compiled kernels by device

    def get_current_stream(self, device=0):
        return 0

    def get_device_properties(self, device=0):
        return {"max_shared_mem": 232448, "multiprocessor_count": 132, "warpSize": 32, "max_num_regs": 65536}

    def is_active(self):
        return True


@functools.cache  # several launches take one kernel
def resources(kernel: Any) -> dict[str, Any]:
    """Registers, stack, spilled bytes, shared memory and the instructions that show how a compiled kernel works."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(kernel.asm["cubin"])
        usage = _output("cuobjdump", "--dump-resource-usage", str(cubin))
        assembly = _output("nvdisasm", "-c", str(cubin))
    numbers = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}

    def count(pattern):
        return len(re.findall(pattern, assembly))

    return {
        "registers": numbers["REG"],
        "stack": numbers["STACK"],
        "spills": count(r"\bSTL\b|\bSTL\."),
        "shared": kernel.metadata.shared,
        "warps": kernel.metadata.num_warps,
        "wgmma": count(r"\bHGMMA\."),
        "tcgen05": count(r"\bUTC\w*MMA\b"),
        "mma": count(r"\bHMMA\."),
        "fma": count(r"\bFFMA"),
        "tma": count(r"\bUTMALDG|\bUTMASTG|\bUBLKCP"),
    }


def _output(program: str, *arguments: str) -> str:
    return subprocess.run([PROGRAMS / program, *arguments], check=True, capture_output=True, text=True).stdout
