"""Names of quality scores on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vplface.errors import UsageError
from vplface.suggest import did_you_mean_or_known

if TYPE_CHECKING:
    from vplface.evaluation.quality import Norm, OnnxQuality

OF_EMBEDDINGS = ("norm", "recognisability")
_KEYS = ("color", "mean", "std", "size")
_END = ".onnx"


def split_names(texts: Sequence[str]) -> list[str]:
    """The scores of all ``--quality``, which commas divide.

    Raises:
        UsageError: an unknown score, or one that is given twice.
    """
    names: list[str] = []
    for text in texts:
        for part in text.split(","):
            if names and f"{_END}:" in names[-1] and "=" in part:
                names[-1] += f",{part}"  # a further option of the file before it
            else:
                names.append(part.strip())
    for place, name in enumerate(names):
        if name in names[:place]:
            raise UsageError(f"--quality {name}: is given twice")
        if name not in OF_EMBEDDINGS and not name.partition(f"{_END}:")[1] and not name.endswith(_END):
            raise UsageError(
                f"--quality {name}: unknown score{did_you_mean_or_known(name, OF_EMBEDDINGS)}; or an ONNX quality "
                "model, FILE.onnx"
            )
    return names


def read_score(name: str, device: str = "cpu", sha256: str | None = None) -> Norm | OnnxQuality:
    """The norm, or the model in a file.

    Raises:
        UsageError: options of the file that cannot be read.
        DataError: the file is missing or is not a quality model.
    """
    from vplface.data.pictures import Preprocessing
    from vplface.evaluation.quality import Norm, OnnxQuality

    if name == "norm":
        return Norm()
    stem, separator, given = name.rpartition(f"{_END}:")
    path = Path(stem + _END if separator else name)
    options: dict[str, Any] = {}
    for part in given.split(",") if separator else []:
        key, _, value = part.partition("=")
        if key not in _KEYS or key in options:
            raise UsageError(
                f"--quality {name}: {part!r}: expected {', '.join(f'{each}=…' for each in _KEYS)}, each once"
            )
        options[key] = value
    try:
        for key in ("mean", "std"):
            if key in options:
                numbers = tuple(map(float, options[key].split("/")))
                options[key] = numbers * 3 if len(numbers) == 1 else numbers
        if "size" in options:
            options["size"] = int(options["size"])
        preprocessing = Preprocessing(**options)
    except ValueError as error:
        raise UsageError(
            f"--quality {name}: {error}; mean and std are one number or three with / between, of pixels in 0..1"
        ) from error
    return OnnxQuality(path, preprocessing, device, sha256)
