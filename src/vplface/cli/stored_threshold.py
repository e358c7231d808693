"""The stored threshold that an evaluation measures: whether it belongs to the model, and whether people are others."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vplface.console import say
from vplface.errors import DataError, UsageError

if TYPE_CHECKING:
    from vplface.data.pictures import Preprocessing
    from vplface.embedder import Flip
    from vplface.evaluation.promise import Promise


def require_people(path: Path | None, hard: int, calibrate: str | None, people: Path | None, bootstrap: int) -> None:
    """Raise UsageError where a stored threshold, hard impostors or a calibration cannot be measured."""
    if calibrate is not None and people is None:
        raise UsageError("--calibrate fits to all pairs of one half of the people; give --people")
    if hard and people is None:
        raise UsageError("--hard looks for the nearest strangers among all pairs of people; give --people")
    if bootstrap < 2 and (hard or path is not None):
        raise UsageError("--operating-point and --hard give bounds over people; --bootstrap must be at least 2")


def promise_of(
    path: Path | None, models: Sequence[Path], flip: Flip, preprocessing: Preprocessing | None
) -> Promise | None:
    """The threshold in a file, for a model that is embedded as it was when the threshold was chosen; None for no file.

    Of embeddings in a file nothing says what model made them; a note on stderr says so.

    Raises:
        UsageError: several models, or another ``--flip``, ``--color``, ``--mean`` or ``--std``.
        DataError: a damaged file, or a threshold that was chosen for other weights.
    """
    if path is None:
        return None
    from vplface.evaluation.embeddings_file import TYPES
    from vplface.evaluation.operating_point import OperatingPoint
    from vplface.evaluation.promise import Promise
    from vplface.evaluation.provenance import hashes, model_files

    if len(models) > 1:
        raise UsageError("--operating-point belongs to one model; evaluate one at a time")
    point, (model,) = OperatingPoint.read(path), models
    if model.suffix in TYPES:
        say(f"note: nothing says that {model} holds embeddings of the model that {path} belongs to", file=sys.stderr)
        return Promise(point.threshold, point.far, point.calibration)
    if not set(hashes(model_files(model)[:1]).values()) <= set(point.files.values()):
        raise DataError(
            f"{path}: its threshold was chosen for other weights than those of {model}; thresholds do not carry over "
            f"from one model to another. Choose one for this model: --save-operating-point {point.far:g}"
        )
    if (stored := point.protocol.get("flip")) != flip:
        raise UsageError(f"--flip {flip}: the threshold in {path} was chosen with --flip {stored}")
    prepared = point.protocol.get("preprocessing")
    if preprocessing is not None and preprocessing.to_dict() != prepared:
        raise UsageError(f"--color, --mean and --std: the threshold in {path} was chosen with {prepared}")
    return Promise(point.threshold, point.far, point.calibration)


def note_same_people(path: Path | None, data: Path, digests: Mapping[str, str]) -> None:
    """Say on stderr if the threshold was chosen on the same pictures and lists."""
    if path is None:
        return
    from vplface.evaluation.operating_point import OperatingPoint

    point = OperatingPoint.read(path)
    if point.data == str(data) and set(digests.values()) & set(point.files.values()):
        say(
            f"note: the threshold in {path} was chosen on the same people, so the rates are optimistic; "
            "measure it on others",
            file=sys.stderr,
        )
