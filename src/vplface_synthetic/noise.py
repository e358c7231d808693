"""Fixed banks of noise: each picture uses windows of them, so that rendering stays cheap and deterministic."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float32

SIDE = 384
_rng = np.random.default_rng(20210619)


def _bank(sigma_x: float, sigma_y: float) -> Float32[np.ndarray, "384 384"]:
    """White noise smoothed to the given extents, with mean 0 and standard deviation 1."""
    white = _rng.standard_normal((SIDE, SIDE)).astype(np.float32)
    if sigma_x > 0:
        white = cv2.GaussianBlur(white, (0, 0), sigma_x, sigmaY=sigma_y, borderType=cv2.BORDER_REFLECT)
    bank: Float32[np.ndarray, "384 384"] = ((white - white.mean()) / white.std()).astype(np.float32)
    return bank


FINE = _bank(0.0, 0.0)
SKIN = _bank(0.8, 0.8)
CLOUDS = _bank(3.0, 3.0)
STRANDS = _bank(0.7, 9.0)
CURLS = _bank(2.0, 1.7)
HAIRS = _bank(0.5, 1.6)
GRAIN = np.stack([_bank(0.45, 0.45) for _ in range(3)], axis=-1)


def window(
    bank: Float32[np.ndarray, "384 384 *c"], place: float, height: int, width: int
) -> Float32[np.ndarray, "{height} {width} *c"]:
    """The window of a bank at ``place`` in 0..1."""
    top = int(place * 9973) % (SIDE - height)
    left = int(place * 9941 * 7) % (SIDE - width)
    return bank[top : top + height, left : left + width]
