"""Sizes of a run: classes, batch, GPUs, number types, and state."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from vplface.head import PrototypeHead
from vplface.margins import ArcFace
from vplface.optim import FusedSGD
from vplface.prototypes import LastFeature, Variational
from vplface.prototypes import Memory as MemoryKind
from vplface.softmax.losses import BOUNDED
from vplface.terms import Term

Precision = Literal["float32", "bfloat16"]

FLOAT32, INT64 = 4, 8
"""Bytes of a number; W, embeddings, the weights of the backbone and all gradients are float32."""


@dataclass(frozen=True)
class RunSize:
    """The size of a run.

    Attributes:
        classes: N.
        batch: B, over all GPUs.
        gpus: P, each with a part of the batch and of the classes.
        dim: d.
        precision: of the products and activations; weights and embeddings are float32.
        fused: whether FusedSGD updates W.
        in_backward: whether it does so in the backward pass, without a gradient, or holds the gradient for its step.
        state: numbers that the optimiser keeps per weight: 1 for SGD with momentum, 2 for AdamW.
        variational: whether there are M and T.
        memory_dtype: of M.
        kind: of memory.
        terms: that are added to the loss.
        subcenters: K.
        sample_rate: share of the classes that a step draws.
        workspace_mb: MiB for exponentials.
        scale: s of the margin.
        norms: whether the margin uses the lengths of embeddings.
        accumulate: number of parts in which a GPU processes its share of the batch.
        average: whether a moving average of the backbone is kept.
        encoder: whether a momentum encoder, which writes the memory, is kept.
        start: whether the weights that the backbone started from are kept.
        device: kind of device, on which the size of a tile depends.
        fused_step: whether the head may take a fused step; False for a margin or a backend that takes none.

    Raises:
        ValueError: if a size is out of range.
    """

    classes: int
    batch: int
    gpus: int = 1
    dim: int = 512
    precision: Precision = "bfloat16"
    fused: bool = True
    in_backward: bool = True
    state: int = 1
    variational: bool = True
    memory_dtype: str = "float32"
    kind: MemoryKind = field(default_factory=LastFeature)
    terms: tuple[Term, ...] = ()
    subcenters: int = 1
    sample_rate: float = 1.0
    workspace_mb: float = 256
    scale: float = 64.0
    norms: bool = False
    accumulate: int = 1
    average: bool = False
    encoder: bool = False
    start: bool = False
    device: str = "cuda"
    fused_step: bool = True

    def __post_init__(self) -> None:
        for name, least in (("classes", 2), ("gpus", 1), ("dim", 1), ("accumulate", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.batch < self.gpus * (self.accumulate if self.gpus > 1 else 1):
            in_parts = f" in {self.accumulate} parts each" if self.accumulate > 1 else ""
            raise ValueError(f"a batch of {self.batch:,} cannot be shared by {self.gpus:,} GPUs{in_parts}")
        if not 0.0 < self.sample_rate <= 1.0:
            raise ValueError(f"sample_rate must lie in (0, 1], got {self.sample_rate}")
        if not 0.0 <= self.workspace_mb < math.inf:
            raise ValueError(f"workspace_mb must be finite and not negative, got {self.workspace_mb}")

    @property
    def pictures_a_pass(self) -> int:
        """Pictures of a forward pass, on the GPU that has the most."""
        return math.ceil(math.ceil(self.batch / self.gpus) / self.accumulate)

    @property
    def product_bytes(self) -> int:
        """Bytes of a number in a product."""
        return 2 if self.precision == "bfloat16" else FLOAT32

    @property
    def compared(self) -> float:
        """Classes that a sample is expected to be compared with, its own included."""
        return 1 + (self.classes - 1) * self.share

    @property
    def share(self) -> float:
        """The share of the classes that a step is expected to compare with: those drawn, and those of its batch."""
        return self.sample_rate + (1.0 - self.sample_rate) * self.coverage(1)

    @property
    def bounded(self) -> bool:
        """Whether logits are so small that exponentials need no maximum, and are kept for the backward pass."""
        return self.scale + math.log(self.classes) <= BOUNDED

    @cached_property
    def takes_fused_step(self) -> bool:
        """Whether a head of this size takes the fused step."""
        if self.device != "cuda" or self.terms or not self.fused_step:
            return False
        head = PrototypeHead(
            self.classes,
            self.dim,
            margin=ArcFace(self.scale),
            variational=Variational(0.1, 1, 0, memory=self.kind) if self.variational else None,
            backend="triton",
            optimizer=FusedSGD(1.0, momentum=0.9 if self.state else 0.0) if self.fused else None,
            sample_rate=self.sample_rate,
            subcenters=self.subcenters,
            device="meta",
        )
        return head.takes_fused_step and self.classes >= self.gpus

    def coverage(self, delta_t: int) -> float:
        """Share of the classes whose memory is alive, if all have as many pictures: 1 − exp(−B·Δt/N)."""
        return -math.expm1(-self.batch * delta_t / self.classes)
