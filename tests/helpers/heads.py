"""Heads of every kind, small, and a few steps of training."""

import torch

from helpers.spawned import D, N
from vplface import (
    EPL,
    UNPG,
    XBM,
    AdaFace,
    ArcFace,
    BorrowedSpread,
    BroadFace,
    CurricularFace,
    ElasticFace,
    FusedSGD,
    Gaussian,
    LastFeature,
    MagFace,
    PrototypeHead,
    RunningMean,
    SeveralFeatures,
    ShuffledMemory,
    SphereFace2,
    SphereFaceR,
    UniTSFace,
    Variational,
    VonMisesFisher,
    clip_grad_norm_,
)
from vplface.prototypes import CosineByAge

AT_ONCE = Variational(0.3, 3, 0)


MEMORIES = {
    type(kind).__name__: {"variational": Variational(0.3, 3, 0, memory=kind)}
    for kind in (
        LastFeature(),
        RunningMean(),
        SeveralFeatures(),
        ShuffledMemory(),
        Gaussian(),
        VonMisesFisher(),
        BorrowedSpread(),
    )
}
TERMS = {
    type(term).__name__: {"terms": [term], "variational": None if isinstance(term, BroadFace) else AT_ONCE}
    for term in (UniTSFace(), UNPG(), XBM(size=12, start=0), EPL(start=0), BroadFace(size=12, start=0))
}
MARGINS = {
    type(margin).__name__: {"margin": margin, "variational": AT_ONCE}
    for margin in (AdaFace(8.0), CurricularFace(8.0), ElasticFace(8.0, plus=True), SphereFace2(8.0))
}
OPTIONS = {
    "plain": {},
    "reference": {"backend": "reference", "variational": AT_ONCE},
    "before its start": {"variational": Variational(0.3, 3, 4)},
    "waiting": {"variational": Variational(0.3, None, "auto")},
    "fused": {"optimizer": FusedSGD(0.2, 0.9, 1e-3), "variational": AT_ONCE},
    "fused without momentum": {"optimizer": FusedSGD(0.2, 0.0), "sample_rate": 0.5},
    "sub-centres": {"subcenters": 2, "variational": AT_ONCE, "optimizer": FusedSGD(0.2)},
    "filtered": {"filter_bound": 0.1, "workspace_mb": 0.3},
    "bfloat16": {"dtype": torch.bfloat16, "memory_dtype": torch.float16, "variational": AT_ONCE},
    **MEMORIES,
    **TERMS,
    **MARGINS,
}
"""Heads whose states of version 0.1 are kept."""

READING = {
    "VonMisesFisher": MEMORIES["VonMisesFisher"],
    "filter_bound": {"filter_bound": 0.1},
}
"""Heads whose tiled training step reads on the host. Like the next they have ``made_silent``'s options besides."""
SILENT = {
    "torch's SGD": {"optimizer": None},
    "FusedSGD": {},
    "torch's operations": {"backend": "tiled"},
    "a gradient that is held": {"optimizer": FusedSGD(0.1, in_backward=False)},
    "bfloat16": {"dtype": torch.bfloat16},
    "plain prototypes": {"variational": None, "optimizer": None},
    "exact formula": {"variational": Variational(0.3, 3, 0, renormalise=False), "optimizer": None},
    "interclass_threshold": {"interclass_threshold": 0.3},
    "subcenters": {"subcenters": 3},
    "sample_rate": {"sample_rate": 0.3},
    "sample_rate, torch's SGD": {"sample_rate": 0.5, "optimizer": None},
    "sample_rate, held": {"sample_rate": 0.2, "optimizer": FusedSGD(0.1, in_backward=False), "variational": None},
    "sample_rate, subcenters": {"sample_rate": 0.01, "subcenters": 2, "interclass_threshold": 0.3},
    "sample_rate, BroadFace": {"sample_rate": 0.3, **TERMS["BroadFace"]},
    "MagFace": {"margin": MagFace(16.0)},
    "ElasticFace, not plus": {"margin": ElasticFace(16.0)},
    "SphereFaceR": {"margin": SphereFaceR(16.0), "optimizer": None},
    "SphereFaceR v2": {"margin": SphereFaceR(16.0, version="v2")},
    "BorrowedSpread, small bank": {"variational": Variational(0.3, 3, 0, memory=BorrowedSpread(bank=5))},
    "UniTSFace, small scale": {"terms": [UniTSFace(scale=8.0)]},
    "UNPG, short whiskers": {"terms": [UNPG(whisker=0.5)]},
    "EPL, sample_rate": {"terms": [EPL(start=1)], "sample_rate": 0.3},
    "EPL, held": {"terms": [EPL(start=1)], "optimizer": FusedSGD(0.1, in_backward=False), "variational": None},
    **MARGINS,
    **{name: options for name, options in MEMORIES.items() if name not in READING},
    **TERMS,
}
"""Heads whose tiled training step reads nothing on the host."""


def made(name, count_by_age=False):
    head = PrototypeHead(N, D, **{"margin": ArcFace(8.0), "seed": 3, **OPTIONS[name]})
    if count_by_age:
        head.by_age = CosineByAge()
    return head


def made_silent(options, classes, dim, **more):
    """A head of ``SILENT`` or ``READING``."""
    options = {"margin": ArcFace(16.0, 0.3), "variational": AT_ONCE, "optimizer": FusedSGD(0.1), **options}
    return PrototypeHead(classes, dim, seed=3, **options, **more)


def take_step(head, optimizers, embeddings, labels):
    """The loss of a training step, whose gradients are clipped where they can be."""
    for each in optimizers:
        each.zero_grad()
    loss = head(embeddings, labels)
    loss.backward()
    if head.optimizer is None or not head.optimizer.in_backward:
        clip_grad_norm_([], 5.0, head=head)
    for each in optimizers:
        each.step()
    return loss.detach()


def optimizers_of(head):
    """Those of ``take_step``: torch's SGD, and the one of the head if there is one."""
    others = [each for each in head.parameters() if head.optimizer is None or each is not head.weight]
    found = [torch.optim.SGD(others, 0.1, 0.9, weight_decay=5e-4)] if others else []
    return found if head.optimizer is None else [*found, head.optimizer]


def optimiser_of(head):
    others = [each for each in head.parameters() if head.optimizer is None or each is not head.weight]
    return torch.optim.SGD(others, lr=0.2, momentum=0.9) if others else None
