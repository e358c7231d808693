"""Margins: cosine → logit, one file each."""

from vplface.margins.arcface import ArcFace
from vplface.margins.combined import CombinedMargin
from vplface.margins.cosface import CosFace
from vplface.margins.elasticface import ElasticFace
from vplface.margins.margin import Margin
from vplface.margins.norm_softmax import NormSoftmax
from vplface.margins.sample import SampleMargin, Samples

__all__ = [
    "ArcFace",
    "CombinedMargin",
    "CosFace",
    "ElasticFace",
    "Margin",
    "NormSoftmax",
    "SampleMargin",
    "Samples",
]
