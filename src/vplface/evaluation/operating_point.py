"""The threshold at which a model is used, stored beside the model with its provenance.

``operating_point.json`` lies in a model's folder, ``NAME.operating_point.json`` beside ``NAME.onnx``. A threshold is
valid only for the weights that it was measured with: their hash is stored, and a point whose weights have changed is
refused. It is also valid only for embeddings made in the same way: the protocol states how pictures were prepared and
whether mirrored ones were added.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from vplface.errors import DataError
from vplface.evaluation.calibration import Calibration
from vplface.evaluation.provenance import hashes, model_files
from vplface.evaluation.quality.gate import QualityGate
from vplface.files import replacing
from vplface.paths import argument
from vplface.reading import is_file, is_folder, kind_of, read_json
from vplface.run_folder import ModelFolder

_SCHEMA = 1
_OPTIONAL = ("calibration", "quality")


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold and what it was measured to do.

    Attributes:
        threshold: a pair is accepted if its cosine similarity is >= this.
        far: the requested false accept rate.
        actual_far: the false accept rate on the pairs that it was measured on.
        tar: the true accept rate on these pairs.
        protocol: how it was measured: the pairs, flip, the FAR rule, the preprocessing.
        data: the pictures it was measured on.
        date: when, ISO 8601.
        files: SHA-256 of the model's files, by their names, and of the lists of pairs or people.
        calibration: from similarities to log-likelihood ratios; None if none was fitted.
        quality: the quality below which a picture is too poor to decide, as
            :meth:`vplface.evaluation.quality.QualityGate.to_json` gives it; None without a gate.
    """

    threshold: float
    far: float
    actual_far: float
    tar: float
    protocol: Mapping[str, Any]
    data: str
    date: str
    files: Mapping[str, str]
    calibration: Calibration | None = None
    quality: Mapping[str, Any] | None = None

    def save(self, model: Path | str) -> Path:
        """Write it beside the model, atomically; returns the path."""
        path = operating_point_path(model)
        with replacing(path) as temporary:
            values = {field.name: getattr(self, field.name) for field in fields(self)}
            if self.calibration is not None:
                values["calibration"] = self.calibration.to_json()
            values = {name: value for name, value in values.items() if value is not None or name not in _OPTIONAL}
            text = json.dumps({"schema": _SCHEMA, **values}, indent=2, ensure_ascii=False)
            temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
        return path

    @classmethod
    def read(cls, path: Path | str) -> OperatingPoint:
        """The operating point in a file, whatever model it belongs to; raises DataError if it is damaged."""
        return cls(**_checked(Path(path), read_json(Path(path))))

    @classmethod
    def load(cls, model: Path | str, weights: str | None = None) -> OperatingPoint:
        """The operating point of a model.

        Args:
            model: the model.
            weights: SHA-256 of the weights that were loaded, see :attr:`vplface.embedder.Embedder.weights`; None takes
                those that are in the model's file now.

        Raises:
            DataError: there is none, it is damaged, or the model's weights are not those it was measured with.
        """
        path = operating_point_path(model)
        if not is_file(path):
            raise DataError(
                f"{path}: no such file; make it with: vplface evaluate {argument(model)} --save-operating-point 1e-4"
            )
        point = cls.read(path)
        file = model_files(Path(model))[0]
        if point.files.get(file.name) != (weights or hashes([file])[str(file)]):
            raise DataError(
                f"{path}: was measured with another {file.name} than {'was loaded' if weights else 'is there now'}, "
                f"so its threshold is not valid; measure it again with: vplface evaluate {argument(model)} "
                f"--save-operating-point {point.far:g}"
            )
        return point


def operating_point_path(model: Path | str) -> Path:
    """The path of the operating point of a model.

    Raises:
        DataError: neither a model's folder nor an ``.onnx`` file.
    """
    model = Path(model)
    if kind_of(model) is None and not model.suffix:
        raise DataError(f"{model}: no such model; give a model folder or an .onnx file")
    if is_folder(model):
        return ModelFolder(model).operating_point
    if model.suffix == ".onnx":
        return model.with_suffix(f".{ModelFolder.operating_point.name}")
    raise DataError(f"{model}: an operating point belongs to a model, a folder or an .onnx file")


def _checked(path: Path, values: Any) -> dict[str, Any]:
    if not isinstance(values, dict) or values.get("schema") != _SCHEMA:
        raise DataError(f"{path}: not an operating point of this vplface: 'schema' must be {_SCHEMA}")
    wanted = [field.name for field in fields(OperatingPoint)]
    if missing := [name for name in wanted if name not in values and name not in _OPTIONAL]:
        raise DataError(f"{path}: lacks {', '.join(map(repr, missing))}")
    ranges = {
        "threshold": (-1.0, math.nextafter(1.0, 2.0)),
        "far": (0.0, 1.0),
        "actual_far": (0.0, 1.0),
        "tar": (0.0, 1.0),
    }
    for name, (low, high) in ranges.items():
        value = values[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise DataError(f"{path}: {name!r} must be a number in {low:g}..{high:g}, got {value!r}")
    for name, kind in (("protocol", dict), ("files", dict), ("data", str), ("date", str)):
        if not isinstance(values[name], kind):
            raise DataError(f"{path}: {name!r} has a wrong value: {values[name]!r}")
    try:
        datetime.fromisoformat(values["date"])
    except ValueError as error:
        raise DataError(f"{path}: 'date' is not a date: {error}") from error
    try:
        fitted = values.get("calibration")
        calibration = None if fitted is None else Calibration.from_json(fitted)
    except DataError as error:
        raise DataError(f"{path}: 'calibration': {error}") from error
    if (quality := values.get("quality")) is not None:
        QualityGate.from_json(quality, str(path))
    return {**{name: values.get(name) for name in wanted}, "calibration": calibration}
