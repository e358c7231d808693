"""Clipping of gradients by the norm over a backbone and the prototypes of its head."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.linalg import vector_norm

from vplface.head import PrototypeHead


@torch.no_grad()
def clip_grad_norm_(parameters: Iterable[Tensor], max_norm: float, *, head: PrototypeHead) -> Float[Tensor, ""]:
    """Scale all gradients, those of the prototypes included, by min(1, c/(‖g‖ + 1e-6)), where c is ``max_norm``.

    The result is that of ``torch.nn.utils.clip_grad_norm_`` over all parameters. The gradient of W may also be one that
    ``FusedSGD(..., in_backward=False)`` holds: then its norm is known already, and ``head.optimizer.step()`` applies
    the factor, so that clipping never passes over N×d numbers. Where ranks share the classes, ‖g‖ is over the rows of
    all ranks, which have to call this together. Nothing waits for the device.

    Args:
        parameters: those of the backbone, and others of the head where it has any; W may be among them.
        max_norm: c.
        head: whose prototypes are clipped along.

    Returns:
        ‖g‖ before it was scaled, on the device of the gradients; it is not finite if a gradient is not.

    Raises:
        RuntimeError: if ``FusedSGD`` has updated W in ``backward()``, before ‖g‖ was known.

    Examples:
        >>> head = PrototypeHead(1000, 512, optimizer=FusedSGD(0.1, in_backward=False))
        >>> head(backbone(pictures), labels).backward()
        >>> clip_grad_norm_(backbone.parameters(), 5.0, head=head)
        >>> optimizer.step(), head.optimizer.step()
    """
    others = [each for each in parameters if each is not head.weight and each.grad is not None]
    of_others = nn.utils.get_total_norm([each.grad for each in others if each.grad is not None]) if others else None
    norm = None if head.optimizer is None else head.optimizer.clip_whole_(max_norm, of_others)
    if norm is None:
        norm = _clip_prototypes(head, max_norm, of_others)
    nn.utils.clip_grads_with_norm_(others, max_norm, norm)
    return norm


def _clip_prototypes(head: PrototypeHead, max_norm: float, of_others: Tensor | None) -> Float[Tensor, ""]:
    """Scale the gradient of W; ‖g‖, over ``of_others`` too."""
    of_prototypes = _norm_of_prototypes(head)
    norms = [each for each in (of_others, of_prototypes) if each is not None]
    norm = vector_norm(torch.stack([each.to(norms[0].device) for each in norms])) if norms else torch.zeros(())
    if of_prototypes is not None:
        factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        if head.optimizer is not None:
            head.optimizer.scale_grad_(factor)
        elif head.weight.grad is not None:
            head.weight.grad.mul_(factor.to(head.weight.device))
    return norm


def _norm_of_prototypes(head: PrototypeHead) -> Float[Tensor, ""] | None:
    """Norm of the gradient of W, of all ranks; None without a gradient."""
    gradient = head.weight.grad
    if head.optimizer is not None:
        norm = head.optimizer.grad_norm()
    else:
        norm = None if gradient is None else nn.utils.get_total_norm([gradient])
    if norm is None or head.ranks is None:
        return norm
    return head.ranks.sum(norm.square()).sqrt()
