"""The fixed training pictures on which drift is measured."""

from __future__ import annotations

import contextlib

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from vplface.data.pictures import PictureSet
from vplface.errors import ConfigError, VplfaceError

PROBE_SIZE = 256


def probe_of(pictures: PictureSet) -> tuple[UInt8[Tensor, "probe size size 3"], Int64[Tensor, " probe"]]:
    """Up to ``PROBE_SIZE`` readable pictures, where possible two of a class, and their labels.

    Raises:
        ConfigError: if none of them can be read.
    """
    probe, labels = [], []
    for index in probe_indices(pictures.labels).tolist():
        with contextlib.suppress(VplfaceError):
            probe.append(torch.from_numpy(pictures.picture(index)))
            labels.append(int(pictures.labels[index]))
    if not probe:
        raise ConfigError("none of the pictures can be read; check one of them, and the given folder")
    return torch.stack(probe), torch.tensor(labels)


def probe_indices(labels: Int64[np.ndarray, " pictures"]) -> Int64[np.ndarray, " probe"]:
    """The first and the last picture of evenly spaced classes, filled up with evenly spaced pictures."""
    order = np.argsort(labels, kind="stable")
    ends = np.flatnonzero(np.diff(labels[order], append=-1))
    begins = np.append(0, ends[:-1] + 1)
    pairs = np.stack([order[begins], order[ends]], axis=1)[ends > begins]
    chosen = pairs[_evenly_spaced(len(pairs), PROBE_SIZE // 2)].ravel()
    others = np.setdiff1d(np.arange(len(labels)), chosen)
    return np.sort(np.append(chosen, others[_evenly_spaced(len(others), PROBE_SIZE - len(chosen))]))


def _evenly_spaced(count: int, most: int) -> Int64[np.ndarray, " k"]:
    """At most ``most`` of the indices 0 … count − 1."""
    return np.linspace(0, count - 1, min(count, most)).astype(np.int64) if count else np.zeros(0, np.int64)
