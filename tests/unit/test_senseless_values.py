"""Values that would make a NaN, a cut-off count or an empty memory in silence are refused by name."""

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
def test_no_hyper_parameter_is_nan_or_infinite(kind, name):
    for value in (math.nan, math.inf, -math.inf):
        if (name, value) == ("whisker", math.inf):
            continue  # which keeps all pairs
        with pytest.raises(ValueError, match=word(name)):
            kind(**NEEDED.get(kind, {}) | {name: value})


@pytest.mark.parametrize(("kind", "name"), COUNTS, ids=str)
def test_counts_are_whole_numbers(kind, name):
    for value in (1.5, math.nan, math.inf, True, "3"):
        with pytest.raises((ValueError, TypeError), match=word(name)):
            kind(**NEEDED.get(kind, {}) | {name: value})


def word(name):
    return rf"\b{name}\b"


def test_the_lists_above_are_not_empty():
    assert len(FLOATS) > 40
    assert len(COUNTS) > 8


@pytest.mark.parametrize("name", ["num_classes", "embedding_dim", "subcenters", "seed"])
@pytest.mark.parametrize("value", [2.0, True, "3"])
def test_sizes_are_whole_numbers(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a whole number"):
        PrototypeHead(**{"num_classes": 5, "embedding_dim": 4, name: value})


def test_whole_numbers_of_numpy_are_some():
    assert PrototypeHead(np.int64(5), np.int32(4)).weight.shape == (5, 4)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_a_memory_that_could_hold_no_unit_vector_is_refused(dtype):
    with pytest.raises(ValueError, match="memory_dtype must be a floating-point type"):
        PrototypeHead(5, 4, variational=Variational(), memory_dtype=dtype)
    with pytest.raises(ValueError, match="memory_dtype must be a floating-point type"):
        plug(torch.nn.Linear(4, 5), "weight", memory_dtype=dtype)
    with pytest.raises(ValueError, match="dtype must be a floating-point type"):
        PrototypeHead(5, 4, dtype=dtype)


@pytest.mark.parametrize("delta_t", [2**31, 1.5, True, math.nan])
def test_a_lifetime_that_no_timer_counts_is_refused(delta_t):
    head = PrototypeHead(5, 4, variational=Variational(delta_t=None, start="auto"))
    with pytest.raises(ValueError, match="delta_t"):
        head.begin(delta_t)
    head.begin(2**31 - 1)


def test_sub_centres_of_a_plug_are_a_count():
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
def test_what_is_no_tensor_is_refused_by_name(x, y, name):
    with pytest.raises(TypeError, match=f"{name} must be a tensor"):
        PrototypeHead(5, 4)(x, y)
