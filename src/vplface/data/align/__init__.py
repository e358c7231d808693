"""Face alignment: five landmarks, and a similarity transform to ArcFace's template."""

from vplface.data.align.aligner import AlignedFace, Aligner
from vplface.data.align.face import Detector, Face
from vplface.data.align.folder import align_folder
from vplface.data.align.landmarks import read_landmarks
from vplface.data.align.similarity import TEMPLATE, similarity, warp
from vplface.data.align.yunet import YuNet

__all__ = [
    "TEMPLATE",
    "AlignedFace",
    "Aligner",
    "Detector",
    "Face",
    "YuNet",
    "align_folder",
    "read_landmarks",
    "similarity",
    "warp",
]
