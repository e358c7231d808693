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
    PrototypeHead,
    RunningMean,
    SeveralFeatures,
    ShuffledMemory,
    SphereFace2,
    UniTSFace,
    Variational,
    VonMisesFisher,
)
from vplface.prototypes import CosineByAge

AT_ONCE = Variational(0.3, 3, 0)


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
    **{
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
    },
    **{
        type(term).__name__: {"terms": [term], "variational": None if isinstance(term, BroadFace) else AT_ONCE}
        for term in (UniTSFace(), UNPG(), XBM(size=12, start=0), EPL(start=0), BroadFace(size=12, start=0))
    },
    **{
        type(margin).__name__: {"margin": margin, "variational": AT_ONCE}
        for margin in (AdaFace(8.0), CurricularFace(8.0), ElasticFace(8.0, plus=True), SphereFace2(8.0))
    },
}


def made(name, count_by_age=False):
    head = PrototypeHead(N, D, **{"margin": ArcFace(8.0), "seed": 3, **OPTIONS[name]})
    if count_by_age:
        head.by_age = CosineByAge()
    return head


def optimiser_of(head):
    others = [each for each in head.parameters() if head.optimizer is None or each is not head.weight]
    return torch.optim.SGD(others, lr=0.2, momentum=0.9) if others else None
