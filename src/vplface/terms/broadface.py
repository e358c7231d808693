"""BroadFace: a queue of past samples trains the prototypes.

Kim, Park, Shin, "BroadFace: Looking at Tens of Thousands of People at Once for Face Recognition", ECCV 2020
(arXiv 2008.06674).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vplface.terms.queue import Queue, require_size
from vplface.terms.term import Batch, BoundTerm, Past, require_steps


@dataclass(frozen=True)
class BroadFace:
    """Past samples are classified beside those of the batch; the prototypes learn from all, the encoder from the batch.

    With X the batch and Q the queue, ℓ the margin softmax of a sample:

        dL/dW = d/dW of the mean of ℓ over X ∪ Q            dL/dx_i = d/dx_i of the mean of ℓ over X

    The loss that is returned is the mean over X ∪ Q. A sample in the queue moves with the prototype of its
    class, v⁻ when the sample was seen and v now:

        x* = normalise( x⁻ + v_y − v⁻_y )

    The correction of past features by the movement of their class is the paper's. Ours: unit prototypes and features,
    as everywhere here, so that lengths need no correction.

    With classes on several ranks, each adds the prototypes it has to a matrix of the queue's size, once a step.
    Under ``sample_rate`` the classes in the queue are compared with, as those of the batch are.

    Attributes:
        size: samples in the queue, 2·d·4 + 8 bytes each. A step costs as if the batch were so much larger. Ours: 4096.
        start: steps before samples are put into the queue. Ours: 1000, because features that drift fast are useless.
    """

    size: int = 4096
    start: int = 1000

    def __post_init__(self) -> None:
        require_size(self.size)
        require_steps("start", self.start)

    def bind(self, classes: int, dim: int) -> _BroadFace:
        """Bind the term to a head, with its queue."""
        return _BroadFace(self, dim)


class _BroadFace(BoundTerm):
    whole_batch = True
    needs_prototype = True

    def __init__(self, options: BroadFace, dim: int) -> None:
        super().__init__()
        self.options = options
        self.queue = Queue(options.size, 2 * dim)  # x⁻ and v⁻ side by side
        self._prototypes: Tensor | None = None

    def past(self, batch: Batch) -> Past | None:
        if batch.step < self.options.start:
            self._prototypes = None
            return None
        # W may have moved when the step ends.
        self._prototypes = batch.prototypes(batch.labels)
        labels = self.queue.labels
        if len(labels) == 0:
            return None
        features, before = self.queue.rows.chunk(2, dim=1)
        now = batch.prototypes(labels)
        moved = normalize(features + (now - before), dim=1)
        self.value = (moved * now).sum(1).mean()
        return Past(moved, labels)

    def remember(self, features: Tensor, labels: Tensor, rows: Tensor) -> None:
        if self._prototypes is not None:
            self.queue.add(torch.cat([features, self._prototypes], 1), labels)
            self._prototypes = None
