"""Triton's interpreter: a product of bfloat16, the order of programs, and the bytes that kernels move."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

BUILDER = interpreter.InterpreterBuilder


def mend_bfloat16_products(monkeypatch):
    """Multiply numbers: the interpreter of Triton 3.7 multiplies the bits of bfloat16."""
    product = BUILDER.create_dot

    def wide(handle):
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        return interpreter.TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    monkeypatch.setattr(BUILDER, "create_dot", lambda self, a, b, *rest: product(self, wide(a), wide(b), *rest))


def shuffle_programs(monkeypatch, seed):
    """Run the programs of every launch in another order."""
    order = {}
    set_dim, set_idx = BUILDER.set_grid_dim, BUILDER.set_grid_idx

    def permuted_dim(self, x, y, z):
        order["x"] = np.random.default_rng(seed).permutation(x)
        return set_dim(self, x, y, z)

    monkeypatch.setattr(BUILDER, "set_grid_dim", permuted_dim)
    monkeypatch.setattr(BUILDER, "set_grid_idx", lambda self, x, y, z: set_idx(self, int(order["x"][x]), y, z))


@contextmanager
def counted_bytes(monkeypatch):
    """Bytes that kernels load and store while active, masked elements left out, by name of the kernel."""
    loaded, stored = Counter(), Counter()
    running = [""]
    run, load, store = interpreter.GridExecutor.__call__, BUILDER.create_masked_load, BUILDER.create_masked_store

    def size(pointers, mask):
        count = int(np.broadcast_to(getattr(mask, "data", mask), pointers.data.shape).sum())
        return count * pointers.get_element_ty().primitive_bitwidth // 8

    def named_run(self, *arguments, **options):
        running[0] = self.fn.__name__
        return run(self, *arguments, **options)

    def counted_load(self, pointers, mask, *rest, **options):
        loaded[running[0]] += size(pointers, mask)
        return load(self, pointers, mask, *rest, **options)

    def counted_store(self, pointers, value, mask, *rest, **options):
        stored[running[0]] += size(pointers, mask)
        return store(self, pointers, value, mask, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(interpreter.GridExecutor, "__call__", named_run)
        patch.setattr(BUILDER, "create_masked_load", counted_load)
        patch.setattr(BUILDER, "create_masked_store", counted_store)
        yield loaded, stored
