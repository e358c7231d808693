"""Sampling of the classes that a step compares with (An et al., "Partial FC", CVPR 2022)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from vplface import devices
from vplface.prototypes import Draw


def drawn_classes(classes: range, rate: float, seed: int, step: int) -> Bool[Tensor, " classes"]:
    """Each class with probability ``rate``; whether one is drawn depends on the seed, the step and its id alone.

    Args:
        classes: ids to draw from, contiguous.
        rate: in (0, 1).
        seed: of the draw.
        step: another draw in each.
    """
    return Draw(classes, seed, step).uniform() < rate


class Compared(NamedTuple):
    """The rows of W that a step compares with: those that are drawn, and those of its batch.

    Attributes:
        rows: their numbers.
        places: of the class of each sample among them; −1 where it is elsewhere.
        absent: which of them are there a second time, and count for nothing; None for none.
    """

    rows: Int[Tensor, " compared"]
    places: Int[Tensor, " batch"]
    absent: Bool[Tensor, " compared"] | None = None


def compared_rows(drawn: Bool[Tensor, " classes"], own: Int[Tensor, " batch"]) -> Compared:
    """The rows of drawn classes and of a batch, in ascending order.

    Args:
        drawn: which classes are drawn, on the host.
        own: the row of the class of each sample; −1 where it is elsewhere.
    """
    drawn = drawn.to(own.device)
    drawn[own[own >= 0]] = True
    rows = drawn.nonzero().squeeze(1)
    return Compared(rows, torch.where(own >= 0, torch.searchsorted(rows, own), -1))


def compared_rows_at_fixed_size(drawn: Bool[Tensor, " classes"], own: Int[Tensor, " batch"]) -> Compared:
    """The rows of drawn classes, and after them those of the batch, for a device that the host does not wait for.

    A class of the batch that is drawn, or that several samples have, is there several times; it counts once.

    Args:
        drawn: which classes are drawn, on the host.
        own: the row of the class of each sample; −1 where it is elsewhere.
    """
    if not len(drawn):  # a rank without classes
        return Compared(own[:0], own)
    rows = devices.send(drawn.nonzero().squeeze(1), own.device)
    batch = own.sort().values
    among = torch.cat([rows, rows.new_full((1,), -1)])
    place, place_in_batch = torch.searchsorted(rows, own), torch.searchsorted(rows, batch)
    again = torch.cat([own.new_zeros(1, dtype=torch.bool), batch[1:] == batch[:-1]])
    counted = ~again & (among[place_in_batch] != batch) & (batch >= 0)
    absent = torch.cat([torch.zeros_like(rows, dtype=torch.bool), ~counted])
    places = torch.where(among[place] == own, place, len(rows) + torch.searchsorted(batch, own))
    return Compared(torch.cat([rows, batch.clamp_min(0)]), torch.where(own >= 0, places, -1), absent)
