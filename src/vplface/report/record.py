"""Contents of a run folder, read once and checked; any part may be missing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from vplface.arrays import parse_arrays
from vplface.errors import DataError
from vplface.paths import argument
from vplface.reading import TEXT_LIMIT, decoded, is_file, is_folder, parse_json, read_bytes
from vplface.run_folder import REPORTED, RunFolder
from vplface.strict_yaml import parse_yaml

_LARGEST = 2**31
_WEIGHTS = RunFolder.weights.name


@dataclass(frozen=True)
class Sphere:
    """A three-dimensional embedding, whose classes can be drawn, to illustrate the method.

    All points have unit norm. ``variational`` is u = normalise((1 − λ)v + λM) where the timer runs, else v.
    """

    embeddings: Float[np.ndarray, "n 3"]
    labels: Int[np.ndarray, " n"]
    prototypes: Float[np.ndarray, "c 3"]
    memory: Float[np.ndarray, "c 3"]
    timer: Int[np.ndarray, " c"]
    variational: Float[np.ndarray, "c 3"]
    lam: float


@dataclass(frozen=True)
class RunRecord:
    """One run, read from its folder; a part that the folder lacks is empty."""

    folder: Path
    name: str
    config: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict)
    """``model.json``: backbone, embedding size, training data, preprocessing."""
    training: Sequence[Mapping[str, Any]] = ()
    """The training lines of ``metrics.jsonl``, by increasing step."""
    validation: Sequence[Mapping[str, Any]] = ()
    """Its validation lines: {"step", "validation": {set: {metric: value}}}."""
    truncated: bool = False
    """The last line of ``metrics.jsonl`` is incomplete: the run was killed while it was writing."""
    evaluations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """{set name: ``Evaluation.to_dict()``}."""
    finetuning: Mapping[str, Any] = field(default_factory=dict)
    """``finetuning.json``: the comparison with the model that the run started from."""
    sphere: Sphere | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    """{path inside the folder: SHA-256}."""
    seeds: Sequence[int] = ()
    """The seeds whose figures are averaged in ``evaluations``; all other fields are those of the first."""

    def series(self, key: str) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
        """Steps and values of one logged quantity; lines that lack it are left out, NaN stays as a gap."""
        points = [(line["step"], line[key]) for line in self.training if _is_number(line.get(key))]
        steps, values = zip(*points, strict=True) if points else ((), ())
        return np.array(steps, dtype=np.float64), np.array(values, dtype=np.float64)

    def last(self, key: str) -> float | None:
        """The last finite value of one logged quantity."""
        values = self.series(key)[1]
        values = values[np.isfinite(values)]
        return float(values[-1]) if len(values) else None


def read_run(folder: str | Path) -> RunRecord:
    """Read a run folder; every file in it is optional, but the folder must hold at least one of them.

    Raises:
        DataError: the folder is missing or holds nothing of a run, or a file in it is damaged (named with its
            line). An incomplete last line of ``metrics.jsonl``, as a killed run leaves it, is not an error.
    """
    folder = Path(folder)
    if not is_folder(folder):
        raise DataError(f"{folder}: no such run folder")
    present = [name for name in REPORTED if is_file(folder / name)]
    if not present:
        inside = sorted({str(found.parent) for name in REPORTED[:4] for found in folder.glob(f"*/{name}")})
        raise DataError(
            f"{folder}: not a run folder: it holds none of {', '.join(REPORTED[:4])}; "
            f"give {' '.join(map(argument, inside)) or 'the folder that `vplface train` wrote'}"
        )
    # Each file is read once: training may replace it meanwhile, and digests are of what the page shows.
    contents = {
        name: read_bytes(folder / name, TEXT_LIMIT if name.endswith(("json", "yaml")) else _LARGEST)
        for name in present
        if not name.endswith(_WEIGHTS)
    }
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    for name in present:
        if name.endswith(_WEIGHTS):
            stated = _mapping(folder, name.replace(_WEIGHTS, RunFolder.card.name), contents).get("weights")
            digests[name] = stated if isinstance(stated, str) else _sha256(folder / name)
    training, validation, truncated = _metrics(RunFolder(folder).metrics, contents.get(RunFolder.metrics.name, b""))
    return RunRecord(
        folder=folder,
        name=folder.resolve().name,
        config=_mapping(folder, RunFolder.config.name, contents),
        environment=_mapping(folder, RunFolder.environment.name, contents),
        card=_mapping(folder, RunFolder.card.name, contents),
        training=training,
        validation=validation,
        truncated=truncated,
        evaluations={
            name: value
            for name, value in _mapping(folder, RunFolder.evaluation.name, contents).items()
            if isinstance(value, dict)
        },
        finetuning=_mapping(folder, RunFolder.finetuning.name, contents),
        sphere=_sphere(RunFolder(folder).sphere, contents.get(RunFolder.sphere.name)),
        files={name: digests[name] for name in present},
    )


def read_comparison(runs: Sequence[RunRecord]) -> Mapping[str, Mapping[str, Any]]:
    """The paired differences that lie next to the arms, {set: {metric: {...}}}; empty if there are none."""
    parents = {run.folder.resolve().parent for run in runs}
    if len(parents) != 1 or len(runs) < 2:
        return {}
    path = parents.pop() / "comparison.json"
    entries = _mapping(path.parent, path.name, {path.name: read_bytes(path)} if is_file(path) else {})
    return {name: value for name, value in entries.items() if isinstance(value, dict)}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _mapping(folder: Path, name: str, contents: Mapping[str, bytes]) -> dict[str, Any]:
    """The mapping in a file whose bytes are among ``contents``; empty if they are not."""
    if name not in contents:
        return {}
    path, data = folder / name, contents[name]
    content = parse_yaml(decoded(data, path), str(path)) if path.suffix == ".yaml" else parse_json(data, str(path))
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a mapping at the top level, found {type(content).__name__}")
    return {str(key): value for key, value in content.items()}


def _metrics(path: Path, data: bytes) -> tuple[list[dict[str, Any]], list[dict[str, Any]], bool]:
    lines = data.split(b"\n")
    training: list[dict[str, Any]] = []
    validation: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = parse_json(line, f"{path}, line {number}")
            if not isinstance(entry, dict) or not _is_number(entry.get("step")):
                raise DataError(f'{path}, line {number}: expected an object with a number under "step"')
        except DataError as error:
            if number == len(lines):  # no newline after it: the writer was stopped within the line
                return training, validation, True
            raise DataError(f"{error}; fix or delete this line") from error
        kind = validation if "validation" in entry else training
        # A resumed run repeats the steps after its checkpoint: the last record of a step counts.
        while kind and kind[-1]["step"] >= entry["step"]:
            kind.pop()
        kind.append(entry)
    return training, validation, False


def _sphere(path: Path, data: bytes | None) -> Sphere | None:
    if data is None:
        return None
    found = parse_arrays(data, path)
    names = ("embeddings", "labels", "prototypes", "memory", "timer", "variational", "lam")
    if missing := [name for name in names if name not in found]:
        raise DataError(f"{path}: lacks the array {missing[0]!r}; it holds {', '.join(found) or 'nothing'}")
    n, c = len(found["embeddings"]), len(found["prototypes"])
    shapes = dict(zip(names, ((n, 3), (n,), (c, 3), (c, 3), (c,), (c, 3), ()), strict=True))
    for name, shape in shapes.items():
        if found[name].shape != shape:
            raise DataError(f"{path}: {name!r} has shape {found[name].shape}, expected {shape}")
    labels = found["labels"]
    if n and not (labels.min() >= 0 and labels.max() < c):
        raise DataError(f"{path}: 'labels' must lie in 0 … {c - 1}, the rows of 'prototypes'")
    vectors = {name: _unit(found[name]) for name in ("embeddings", "prototypes", "memory", "variational")}
    return Sphere(**vectors, labels=labels, timer=found["timer"], lam=float(found["lam"]))


def _unit(points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    norms = np.linalg.norm(points, axis=1, keepdims=True)
    return np.asarray(points / np.where(norms > 0, norms, 1.0), dtype=np.float64)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
