"""Steps on meta tensors, which have no numbers: what the host would read, and what would be started on a device."""

from __future__ import annotations

from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode

NO_WORK = {"empty", "empty_like", "view", "slice", "select", "detach", "alias", "unsqueeze", "t", "as_strided"}
NO_WORK |= {"_record_function_enter_new", "_record_function_exit"}
"""Operations that start nothing on a device."""
READS = {"_local_scalar_dense", "nonzero", "_unique2", "unique_dim", "unique_consecutive", "masked_select"}
READS |= {"is_nonzero", "equal", "repeat_interleave", "bincount"}


class Started(TorchDispatchMode):
    """Operations that start work on a device; a read on the host, or a copy for which it waits, is an error."""

    def __init__(self):
        super().__init__()
        self.operations = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.split("::")[1]
        tensors = [each for each in args if isinstance(each, torch.Tensor)]
        if any(each.is_meta for each in tensors):
            assert name not in READS, f"{name} waits for the device"
        if name in ("_to_copy", "copy_"):
            devices = {each.device for each in tensors} | {(kwargs or {}).get("device") or tensors[0].device}
            later = (kwargs or {}).get("non_blocking") and tensors[-1].device.type == "cpu"
            assert len(devices) == 1 or later, f"{name} waits for a copy between devices"
        if name in ("index", "index_put_"):
            assert all(index is None or index.dtype != torch.bool for index in args[1]), "a mask waits for its sum"
        if name not in NO_WORK and not (tensors and all(each.device.type == "cpu" for each in tensors)):
            self.operations[name] += 1
        return function(*args, **(kwargs or {}))


class Recorded:
    """A Triton kernel that is not launched; its name goes to a list."""

    def __init__(self, name, names):
        self.name, self.names = name, names

    def __getitem__(self, grid):
        assert all(0 < size < 2**31 for size in grid)
        return lambda *arguments, **options: self.names.append(self.name)
