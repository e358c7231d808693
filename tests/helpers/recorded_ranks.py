"""A process group of which there is one process: its collectives are counted and exchange nothing."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch.distributed as dist

from vplface.ranks import Ranks

GROUP = object()


class _Work:
    """Work that is done when it is waited for."""

    def __init__(self, started):
        self._started = started

    def wait(self):
        self._started("wait")


@contextmanager
def recorded_ranks(rank=3, world=8, sent=None, order=None):
    """While active, ``GROUP`` is a group of ``world`` ranks.

    Yields the count of collectives by method of ``Ranks``; ``sent`` gets the bytes that a rank sends in rings, and the
    list ``order`` the names of the collectives.
    """
    count = Counter()

    def started(name):
        count[name] += 1
        if order is not None:
            order.append(name)

    def recorded(name):
        def call(self, *tensors, beside=False):
            started(name)
            if sent is not None:
                first, last = tensors[0].nbytes, tensors[-1].nbytes
                sent[name] += 2 * (world - 1) * first // world if len(tensors) == 1 else abs(first - last)
            return _Work(started) if beside else None

        return call

    def agree(self, columns):
        started("agree")
        return [len(columns[0])] * world

    def largest(self, part):
        started("largest")
        return part.detach().clone()

    with ExitStack() as stack:
        for name in ("all_gather", "add_", "reduce_scatter"):
            stack.enter_context(patch.object(Ranks, name, recorded(name)))
        stack.enter_context(patch.object(Ranks, "agree", agree))
        stack.enter_context(patch.object(Ranks, "largest", largest))
        stack.enter_context(patch.object(dist, "get_rank", lambda group: rank))
        stack.enter_context(patch.object(dist, "get_world_size", lambda group: world))
        yield count
