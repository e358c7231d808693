"""Degraded pictures of evaluation sets: kinds of degradation, which pictures are degraded, and the degraded set."""

from vplface.data.degrade.degradation import Degradation, described
from vplface.data.degrade.kinds import (
    KINDS,
    Blur,
    Compression,
    Darkness,
    Kind,
    LowResolution,
    Noise,
    Occlusion,
    Strokes,
    Surveillance,
)
from vplface.data.degrade.pictures import DegradedPictures

__all__ = [
    "KINDS",
    "Blur",
    "Compression",
    "Darkness",
    "Degradation",
    "DegradedPictures",
    "Kind",
    "LowResolution",
    "Noise",
    "Occlusion",
    "Strokes",
    "Surveillance",
    "described",
]
