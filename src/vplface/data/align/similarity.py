"""Least-squares similarity transform between two sets of points, and warping of a picture by it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, UInt8

from vplface.errors import import_extra

cv2 = import_extra("cv2", "train")

TEMPLATE: Float64[np.ndarray, "5 2"] = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]
)
"""ArcFace's template: left eye, right eye, nose, left and right corner of the mouth, (x, y) in 112 x 112 pixels."""
TEMPLATE.setflags(write=False)

_FLAT = 1e-3
"""Ratio of the spreads across and along a line below which points count as collinear."""


def similarity(source: Float64[np.ndarray, "n 2"], target: Float64[np.ndarray, "n 2"]) -> Float64[np.ndarray, "2 3"]:
    """The transform x → cRx + t, with a scale c > 0, a rotation R and a shift t, that takes ``source`` to ``target``.

    It minimises Σ‖y_i − (cRx_i + t)‖² over the points x_i of ``source`` and y_i of ``target``. With the means μ, the
    variance σ² = mean‖x_i − μ_x‖² and the singular values of the covariance, UDVᵀ = mean (y_i − μ_y)(x_i − μ_x)ᵀ:

        S = diag(1, det U · det V)      R = USVᵀ      c = tr(DS) / σ²      t = μ_y − cRμ_x

    S keeps R a rotation where a reflection would fit better (Umeyama, IEEE PAMI 13(4), 1991, equations 40 to 43).

    Returns:
        The matrix [cR | t], in float64: (x, y, 1) of ``source`` to (x, y) of ``target``.

    Raises:
        ValueError: if the shapes differ, a number is not finite, the points of either set coincide or lie on one
            line, or no rotation fits better than another.
    """
    x, y = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if x.shape != y.shape or x.ndim != 2 or x.shape[1] != 2:
        raise ValueError(f"the points must be two arrays [n, 2], got {list(x.shape)} and {list(y.shape)}")
    for points in (x, y):
        _require_spread(points)
    x_mean, y_mean = x.mean(0), y.mean(0)
    x_centred, y_centred = x - x_mean, y - y_mean
    u, d, vt = np.linalg.svd(y_centred.T @ x_centred / len(x))
    s = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    if d @ s <= _FLAT * d[0]:
        raise ValueError("the points are mirror images: no rotation fits better than another")
    scaled = d @ s / (x_centred**2).sum(1).mean() * (u * s @ vt)
    return np.column_stack([scaled, y_mean - scaled @ x_mean])


def _require_spread(points: Float64[np.ndarray, "n 2"]) -> None:
    if not np.isfinite(points).all():
        raise ValueError("a coordinate is not a finite number")
    if len(points) < 3:
        raise ValueError(f"at least three points are needed, got {len(points)}")
    along, across = np.linalg.svd(points - points.mean(0), compute_uv=False)
    if along <= 1e-9 * max(1.0, np.abs(points).max()):
        raise ValueError("the points coincide")
    if across < _FLAT * along:
        raise ValueError("the points lie on one line")


def warp(
    picture: UInt8[np.ndarray, "h w 3"], matrix: Float64[np.ndarray, "2 3"], size: int
) -> UInt8[np.ndarray, "size size 3"]:
    """The square of ``size`` pixels into which ``matrix``, a similarity transform, takes the picture.

    Pixels are interpolated linearly. What lies outside the picture is black. Where the transform shrinks to a half or
    less, it goes to a square a whole number of times larger first, whose blocks of pixels are then averaged: linear
    interpolation alone would leave out pixels, and give fine lines a false pattern.
    """
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    # More pixels than the picture has along its longer side add nothing.
    times = max(1, min(int(1 / scale), 1 + max(picture.shape[:2]) // size))
    larger = matrix * times
    larger[:, 2] += (times - 1) / 2  # pixel 0 becomes a block, and its centre moves
    square: UInt8[np.ndarray, "large large 3"] = cv2.warpAffine(
        picture, larger, (size * times, size * times), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT
    )
    if times > 1:
        square = cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA)
    return square
