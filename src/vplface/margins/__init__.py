"""Margins: cosine → logit, one file each."""

from vplface.margins.arcface import ArcFace
from vplface.margins.combined import CombinedMargin
from vplface.margins.cosface import CosFace
from vplface.margins.margin import Margin
from vplface.margins.norm_softmax import NormSoftmax

__all__ = ["ArcFace", "CombinedMargin", "CosFace", "Margin", "NormSoftmax"]
