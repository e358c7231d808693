"""Values that would silently give a NaN, a truncated count or an empty memory are refused by name."""

import dataclasses
import math

import numpy as np
import pytest
import torch

import vplface
from vplface import PrototypeHead, Variational, plug

OPTIONS = [
    (kind, field)
    for kind in (getattr(vplface, name) for name in vplface.__all__)
    if dataclasses.is_dataclass(kind)
    for field in dataclasses.fields(kind)
]
NEEDED = {vplface.FusedSGD: {"lr": 0.1}}
FLOATS = [(kind, field.name) for kind, field in OPTIONS if field.type in ("float", "float | None")]
COUNTS = [(kind, field.name) for kind, field in OPTIONS if str(field.type).split(" ")[0] == "int"]


@pytest.mark.parametrize(("kind", "name"), FLOATS, ids=str)
def test_public_dataclasses_refuse_nan_and_infinity(kind, name):
    for value in (math.nan, math.inf, -math.inf):
        if (name, value) == ("whisker", math.inf):
            continue  # which keeps all pairs
        with pytest.raises(ValueError, match=word(name)):
            kind(**NEEDED.get(kind, {}) | {name: value})


@pytest.mark.parametrize(("kind", "name"), COUNTS, ids=str)
def test_public_dataclasses_refuse_counts_that_are_not_whole(kind, name):
    for value in (1.5, math.nan, math.inf, True, "3"):
        with pytest.raises((ValueError, TypeError), match=word(name)):
            kind(**NEEDED.get(kind, {}) | {name: value})


def word(name):
    return rf"\b{name}\b"


def test_FLOATS_and_COUNTS_are_not_empty():
    assert len(FLOATS) > 40
    assert len(COUNTS) > 8


@pytest.mark.parametrize("name", ["num_classes", "embedding_dim", "subcenters", "seed"])
@pytest.mark.parametrize("value", [2.0, True, "3"])
def test_PrototypeHead_refuses_sizes_that_are_not_whole(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a whole number"):
        PrototypeHead(**{"num_classes": 5, "embedding_dim": 4, name: value})


def test_PrototypeHead_takes_integers_of_numpy():
    assert PrototypeHead(np.int64(5), np.int32(4)).weight.shape == (5, 4)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_PrototypeHead_and_plug_refuse_a_dtype_that_is_not_floating_point(dtype):
    with pytest.raises(ValueError, match="memory_dtype must be a floating-point type"):
        PrototypeHead(5, 4, variational=Variational(), memory_dtype=dtype)
    with pytest.raises(ValueError, match="memory_dtype must be a floating-point type"):
        plug(torch.nn.Linear(4, 5), "weight", memory_dtype=dtype)
    with pytest.raises(ValueError, match="dtype must be a floating-point type"):
        PrototypeHead(5, 4, dtype=dtype)


@pytest.mark.parametrize("delta_t", [2**31, 1.5, True, math.nan])
def test_PrototypeHead_begin_refuses_a_delta_t_that_the_timer_cannot_count(delta_t):
    head = PrototypeHead(5, 4, variational=Variational(delta_t=None, start="auto"))
    with pytest.raises(ValueError, match="delta_t"):
        head.begin(delta_t)
    head.begin(2**31 - 1)


def test_plug_refuses_sub_centers_that_are_not_whole():
    with pytest.raises(ValueError, match="sub_centers must be a whole number"):
        plug(torch.nn.Linear(4, 10), "weight", sub_centers=2.5)


@pytest.mark.parametrize(
    ("x", "y", "name"),
    [
        (None, torch.tensor([0]), "embeddings"),
        ([[1.0, 2.0, 3.0, 4.0]], torch.tensor([0]), "embeddings"),
        (torch.ones(1, 4), [0], "labels"),
        (torch.ones(1, 4), np.zeros(1, np.int64), "labels"),
    ],
)
def test_PrototypeHead_forward_refuses_arguments_that_are_not_tensors(x, y, name):
    with pytest.raises(TypeError, match=f"{name} must be a tensor"):
        PrototypeHead(5, 4)(x, y)
