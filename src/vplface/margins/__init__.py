"""Margins, which map cosines to logits, one file each."""

from vplface.margins.adaface import AdaFace
from vplface.margins.arcface import ArcFace
from vplface.margins.combined import CombinedMargin
from vplface.margins.cosface import CosFace
from vplface.margins.curricularface import CurricularFace
from vplface.margins.elasticface import ElasticFace
from vplface.margins.magface import MagFace
from vplface.margins.margin import Margin
from vplface.margins.norm_softmax import NormSoftmax
from vplface.margins.sample import SampleMargin, Samples
from vplface.margins.sphereface import SphereFace
from vplface.margins.sphereface2 import SphereFace2
from vplface.margins.spherefacer import SphereFaceR
from vplface.margins.x2softmax import X2Softmax

__all__ = [
    "MARGINS",
    "AdaFace",
    "ArcFace",
    "CombinedMargin",
    "CosFace",
    "CurricularFace",
    "ElasticFace",
    "MagFace",
    "Margin",
    "NormSoftmax",
    "SampleMargin",
    "Samples",
    "SphereFace",
    "SphereFace2",
    "SphereFaceR",
    "X2Softmax",
]

MARGINS: dict[str, type[Margin]] = {
    "adaface": AdaFace,
    "arcface": ArcFace,
    "combined": CombinedMargin,
    "cosface": CosFace,
    "curricularface": CurricularFace,
    "elasticface": ElasticFace,
    "magface": MagFace,
    "normsoftmax": NormSoftmax,
    "sphereface": SphereFace,
    "sphereface2": SphereFace2,
    "spherefacer": SphereFaceR,
    "x2softmax": X2Softmax,
}
"""The margins by their names in recipes."""
