"""The loss of a head: which classes a step compares with, and which backend computes the softmax over them."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vplface import devices
from vplface.margins import Margin
from vplface.margins.sample import sample_margin
from vplface.optim import PrototypeSGD, hand_over_gradient
from vplface.prototypes import Injection
from vplface.ranks import Ranks
from vplface.softmax import BACKENDS, Backend, binary, fastest_backend, reference, tile_operations, tiled
from vplface.softmax.problem import SoftmaxProblem
from vplface.softmax.sampling import compared_rows, compared_rows_at_fixed_size, drawn_classes
from vplface.softmax.tiled import Filter
from vplface.softmax.workspace import Workspace


class HeadSoftmax:
    """The margin softmax, or the loss that a margin puts in its place, over the classes of a step.

    Args:
        classes: ids of the rows of W here.
        ranks: which share the classes; None for one process.
        backend: as in ``PrototypeHead``, like all that follows.
        sample_rate: share of the classes that a step compares with.
        interclass_threshold: cosine above which another class is left out.
        filter_bound: ε.
        workspace_mb: MiB that may be held from step to step.
        seed: of the draw of classes.

    Raises:
        ValueError: for a value out of its range.
    """

    def __init__(
        self,
        classes: range,
        ranks: Ranks | None,
        *,
        backend: Literal["auto"] | Backend,
        sample_rate: float,
        interclass_threshold: float | None,
        filter_bound: float | None,
        workspace_mb: float,
        seed: int,
    ) -> None:
        if backend not in ("auto", *BACKENDS):
            raise ValueError(f"backend must be one of 'auto', {', '.join(map(repr, BACKENDS))}, got {backend!r}")
        if not 0 <= workspace_mb < math.inf:
            raise ValueError(f"workspace_mb must not be negative or infinite, got {workspace_mb}")
        if filter_bound is not None and not 0.0 <= filter_bound < 1.0:
            raise ValueError(f"filter_bound must lie in [0, 1), got {filter_bound}")
        if filter_bound is not None and backend == "reference":
            raise ValueError("filter_bound needs another backend than 'reference', which leaves nothing out")
        if interclass_threshold is not None and not -1.0 < interclass_threshold <= 1.0:
            raise ValueError(f"interclass_threshold must be a cosine in (-1, 1], got {interclass_threshold}")
        self.classes = classes
        self.ranks = ranks
        self.backend = backend
        self.sample_rate = require_sample_rate(sample_rate)
        self.interclass_threshold = interclass_threshold
        self.seed = seed
        self.workspace, self._scratch = Workspace(workspace_mb), Workspace(0.0)
        self.filter = None if filter_bound is None else Filter(filter_bound)

    # size: the tensors of a batch, W, and all that changes the loss
    def loss(
        self,
        features: Float[Tensor, "batch dim"],
        labels: Int[Tensor, " batch"],
        negatives: Float[Tensor, " batch"] | None = None,
        *,
        weight: Float[Tensor, "classes ... dim"],
        margin: Margin,
        injection: Injection | None = None,
        strength: Float[Tensor, " batch"] | None = None,
        bias: Float[Tensor, ""] | None = None,
        optimizer: PrototypeSGD | None = None,
        step: int | None = None,
    ) -> Float[Tensor, ""]:
        """The classification loss.

        Args:
            features: x, unit rows.
            labels: y, global class ids.
            negatives: one more logit for each sample.
            weight: W of the classes here.
            margin: of the head.
            injection: of the step.
            strength: m_i of each sample.
            bias: b, of a margin that changes the loss.
            optimizer: takes the gradient of W in place of ``weight.grad``.
            step: the step that draws the classes; None compares with all of them.
        """
        backend = self._backend(weight.device)
        rows, places, absent = self._drawn(labels, step, at_fixed_size=backend != "reference" and self.filter is None)
        if rows is not None:
            drawn = weight[rows]
            weight = drawn if optimizer is None else drawn.detach().requires_grad_(weight.requires_grad)
            injection = None if injection is None else injection.of(rows)
        if bias is not None:
            strength = (bias if self.ranks is None else self.ranks.spread(bias)).expand(len(features))
        problem = SoftmaxProblem(
            features,
            places,
            weight,
            margin,
            injection,
            strength=strength,
            threshold=self.interclass_threshold,
            negatives=negatives,
            absent=absent,
            ranks=self.ranks,
        )
        among = rows if rows is None or absent is None else torch.where(absent, -1, rows)
        update = None if optimizer is None else partial(optimizer.update, among=among)
        if backend == "reference":
            moving = weight if update is None else hand_over_gradient(weight, update)
            return _by_definition(replace(problem, weight=moving))
        return tiled.margin_softmax(
            problem,
            workspace=self.workspace,
            operations=tile_operations(backend, weight.device),
            update=update,
            momentum=None if optimizer is None or rows is not None else optimizer.rule,
            filtering=self.filter,
        )

    def loss_over_constants(
        self,
        features: Float[Tensor, "batch dim"],
        labels: Int[Tensor, " batch"],
        weight: Float[Tensor, "classes ... dim"],
        margin: Margin,
        injection: Injection,
        step: int,
    ) -> Float[Tensor, ""]:
        """A softmax beside the classification loss, over constant prototypes of the classes that the step draws.

        It moves nothing, leaves out nothing, and keeps nothing in the workspace of the classification loss. The
        arguments are those of ``loss``.
        """
        backend = self._backend(weight.device)
        rows, places, absent = self._drawn(labels, step, at_fixed_size=backend != "reference")
        weight = weight.detach()
        if rows is not None:
            weight, injection = weight[rows], injection.of(rows)
        problem = SoftmaxProblem(features, places, weight, margin, injection, absent=absent, ranks=self.ranks)
        if backend == "reference":
            return _by_definition(problem)
        operations = tile_operations(backend, weight.device)
        return tiled.margin_softmax(problem, workspace=self._scratch, operations=operations)

    def _backend(self, device: torch.device) -> Backend:
        return fastest_backend(device) if self.backend == "auto" else self.backend

    def _drawn(
        self, labels: Int[Tensor, " batch"], step: int | None, at_fixed_size: bool = False
    ) -> tuple[Tensor | None, Tensor, Tensor | None]:
        """The rows that a step compares with, None for all, and further as in ``Compared``."""
        own = labels if self.ranks is None else self.ranks.local(labels)
        if step is None or self.sample_rate == 1.0:
            return None, own, None
        drawn = drawn_classes(self.classes, self.sample_rate, self.seed, step)
        if at_fixed_size and devices.reading_waits(own.device):
            return compared_rows_at_fixed_size(drawn, own)
        return compared_rows(drawn, own)


def require_sample_rate(rate: float) -> float:
    """The rate; raises ValueError unless it is a share of the classes in (0, 1]."""
    if not 0.0 < rate <= 1.0:
        raise ValueError(f"sample_rate must lie in (0, 1], got {rate}")
    return rate


def _by_definition(problem: SoftmaxProblem) -> Float[Tensor, ""]:
    """The loss in plain autograd."""
    inputs = {field.name: getattr(problem, field.name) for field in fields(problem) if field.name != "absent"}
    if sample_margin(problem.margin).changes_loss:
        del inputs["negatives"]
        return binary.binary_loss(**inputs)
    return reference.margin_softmax(**inputs)
