"""YuNet face detector with five landmarks, run by OpenCV."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vplface.data.align.face import Face
from vplface.errors import DataError, import_extra
from vplface.reading import kind_of, read_bytes

cv2 = import_extra("cv2", "train")

SOURCE = "https://github.com/opencv/opencv_zoo/tree/main/models/face_detection_yunet"
FILE = "face_detection_yunet.onnx"

_SUPPRESSION = 0.3
"""Intersection over union above which non-maximum suppression removes the box with the lower score."""
_MOST = 5000
"""Largest number of boxes before suppression."""
_DECIMALS = 3

LIMIT = 64 * 2**20
"""Largest model file, in bytes."""
_KNOWN = {"ebafce4e3c118d6554634be5c27ab333b4c047a9a8c3faf1d7cf93101c22f0f0"}
"""SHA-256 of models that OpenCV is known to run. Others are first tried in a separate process, which may crash."""
_PATIENCE = 60
"""Time limit of that process, in seconds."""
_TRIAL = """
import sys, cv2, numpy
data = numpy.frombuffer(sys.stdin.buffer.read(), numpy.uint8)
net = cv2.FaceDetectorYN.create("onnx", data, numpy.empty(0, numpy.uint8), (64, 64))
net.detect(numpy.zeros((64, 64, 3), numpy.uint8))
"""
_STRIDES = (8, 16, 32)
_OUTPUTS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
"""Number of values per grid cell; each stride has a grid."""


def default_model() -> Path:
    """Default path of the model: vplface/face_detection_yunet.onnx in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vplface" / FILE


class YuNet:
    """YuNet (Wu, Peng, Yu, Machine Intelligence Research 2023), a :class:`~vplface.data.align.Detector`.

    It was trained on faces of 10 to 300 pixels. A picture larger than ``longest_side`` is shrunk to it for the
    detection, so that larger faces are found too; landmarks and boxes are in pixels of the picture that was given.

    Args:
        model: path of the ONNX file; None means :func:`default_model`.
        min_score: lowest score of a detected face.
        longest_side: longest side of a picture during detection, in pixels. Raise it to find small faces in large
            pictures.

    Raises:
        DataError: the model is missing, not an ONNX file, or another network.
    """

    def __init__(self, model: Path | str | None = None, min_score: float = 0.6, longest_side: int = 640) -> None:
        self.model = default_model() if model is None else Path(model)
        self.min_score = min_score
        self.longest_side = longest_side
        self._net, self.sha256 = _load(self.model, min_score)

    def __reduce__(self) -> tuple[type[YuNet], tuple[Path, float, int]]:
        return YuNet, (self.model, self.min_score, self.longest_side)

    def __str__(self) -> str:
        return (
            f"YuNet {self.sha256[:12]}, scores from {self.min_score:g}, pictures searched at up to "
            f"{self.longest_side} pixels"
        )

    def __call__(self, picture: UInt8[np.ndarray, "h w 3"]) -> list[Face]:
        """The faces in an RGB picture, the highest score first."""
        height, width = picture.shape[:2]
        shrunk = picture
        if max(height, width) > self.longest_side:
            ratio = self.longest_side / max(height, width)
            size = max(1, round(width * ratio)), max(1, round(height * ratio))
            shrunk = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        factor = np.array([width / shrunk.shape[1], height / shrunk.shape[0]])
        self._net.setInputSize((shrunk.shape[1], shrunk.shape[0]))
        try:
            rows = self._net.detect(cv2.cvtColor(shrunk, cv2.COLOR_RGB2BGR))[1]
        except cv2.error as error:
            raise DataError(f"{self.model}: OpenCV cannot run it on a picture of {width}×{height}: {error}") from error
        found = []
        for row in () if rows is None else rows.astype(np.float64):
            # A row is a box, five points and a score. YuNet's first eye is the person's right one: left in the picture.
            landmarks = ((row[4:14].reshape(5, 2) + 0.5) * factor - 0.5).round(_DECIMALS)
            x, y, wide, high = (row[:4].reshape(2, 2) * factor).round(_DECIMALS).flatten().tolist()
            try:
                found.append(Face(landmarks, round(float(row[14]), _DECIMALS + 1), (x, y, wide, high)))
            except ValueError:  # impossible landmarks: a false detection
                continue
        return sorted(found, key=lambda face: -face.score)


def _load(model: Path, min_score: float) -> tuple[Any, str]:
    where = f"get face_detection_yunet_2026may.onnx from {SOURCE}"
    if kind_of(model) is None:
        raise DataError(
            f"{model}: there is no face detection model; {where}, and put it there or name it with --detector-model"
        )
    data = read_bytes(model, LIMIT)
    if data.startswith(b"version https://git-lfs"):
        raise DataError(f"{model}: this is Git LFS's pointer to the model, not the model; {where}")
    refusal = f"{model}: not a YuNet model that OpenCV {cv2.__version__} runs; {where}"
    digest = hashlib.sha256(data).hexdigest()
    if digest not in _KNOWN and not _survives(data):
        raise DataError(refusal)
    buffer = np.frombuffer(data, np.uint8)
    try:
        with _quiet():
            _require_grids(buffer)
            net = cv2.FaceDetectorYN.create(
                "onnx", buffer, np.empty(0, np.uint8), (64, 64), min_score, _SUPPRESSION, _MOST
            )
            net.detect(np.zeros((64, 64, 3), np.uint8))
    except (cv2.error, ValueError, MemoryError, SystemError) as error:
        raise DataError(refusal) from error
    return net, digest


def _survives(data: bytes) -> bool:
    """Whether a process that loads a model exits, with or without an error, and does not crash."""
    try:
        done = subprocess.run([sys.executable, "-c", _TRIAL], input=data, capture_output=True, timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode in (0, 1)


def _require_grids(model: UInt8[np.ndarray, " bytes"]) -> None:
    """Raise ValueError unless the outputs grow with the picture; OpenCV reads them without asking for their size."""
    net = cv2.dnn.readNetFromONNX(model)
    names = [f"{kind}_{stride}" for kind in _OUTPUTS for stride in _STRIDES]
    sizes = [numbers * stride**-2 for numbers in _OUTPUTS.values() for stride in _STRIDES]
    for height, width in ((64, 64), (96, 64)):
        net.setInput(np.zeros((1, 3, height, width), np.float32))
        for made, size in zip(net.forward(names), sizes, strict=True):
            if made.size != height * width * size:
                raise ValueError("outputs of another size")


@contextmanager
def _quiet() -> Iterator[None]:
    """OpenCV 5 warns on stderr of a setting that this detector does not use, and reports errors there too."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)
