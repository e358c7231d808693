"""Steps of several ranks of which one is at fault, on devices that the host does not wait for."""

from __future__ import annotations

import torch


def nan(x, y):
    x[2, 5] = torch.nan
    return x, y


def outside(x, y):
    y[2] = 10**6
    return x, y


def wrong_type(x, y):
    return x, y.int()


def no_tensor(x, y):
    return x.tolist(), y


def larger(x, y):
    return torch.cat([x, x]), torch.cat([y, y])


def smaller(x, y):
    return x[:1], y[:1]


def other_kind(x, y):
    return x.double(), y


SOUND = (larger, smaller, other_kind)  # if others had such batches too
SPOILS = {each.__name__: each for each in (nan, outside, wrong_type, no_tensor, *SOUND)}
OF_OTHER = "OtherRankError: in step {}, which has changed nothing: the batch of rank 1 is invalid"


def faulty(group, head, batch, kind):
    """A faulty step, which state it leaves as it was, the error after it, and a sound step.

    Args:
        group: of the ranks.
        head: with an optimiser of its own, and a memory from the first step on.
        batch: gives embeddings and labels for a number and a size.
        kind: of the fault, by its name in ``SPOILS``, or ``"no_gradient"`` or ``"scaled"``.
    """
    _take_step(group, head, batch, 0)
    before = _state_of(head)
    loss, gradient = _take_step(group, head, batch, 1, kind)
    kept, error = _same(before, _state_of(head)), None
    for number in (2, 3):
        try:
            _take_step(group, head, batch, number)
        except (ValueError, TypeError, RuntimeError) as raised:
            error = f"step {number}: {type(raised).__name__}: {raised}"
            break
    before = _state_of(head)
    after, _ = _take_step(group, head, batch, 4)
    return loss, gradient, kept, error, after, _same(before, _state_of(head))


def _take_step(group, head, batch, number, kind="sound"):
    """Loss and gradient of a step whose batch, or scale of the loss, is at fault on rank 1."""
    x, y = batch(2 * number + group.rank(), 3)
    if group.rank() == 1 and kind in SPOILS:
        x, y = SPOILS[kind](x, y)
    if isinstance(x, torch.Tensor):
        x.requires_grad_(kind != "no_gradient" or group.rank() == 0)
    head.optimizer.zero_grad()
    loss = head(x, y)
    (loss * 2.0**16 if group.rank() == 1 and kind == "scaled" else loss).backward()
    head.optimizer.step()
    return loss.item(), getattr(x, "grad", None)


def _state_of(head):
    head.finish_step()
    buffer = head.optimizer.state[head.weight]["momentum_buffer"]
    return [part.detach().clone() for part in (head.weight, buffer, head.memory, head.timer)]


def _same(before, after):
    return [torch.equal(*pair) for pair in zip(before, after, strict=True)]
