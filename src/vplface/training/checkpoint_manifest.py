"""Manifests of checkpoints: format, names, checksums, and what the run was trained with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from vplface.config import Config, build_config
from vplface.data.pictures import PictureSet
from vplface.errors import DataError
from vplface.reading import read_json

FORMAT = 3
MANIFEST, COMMON = "manifest.json", "common.safetensors"


def checkpoint_name(step: int) -> str:
    """The name of the folder of a checkpoint."""
    return f"step-{step:08d}"


def has_checkpoints(folder: Path) -> bool:
    """Whether a folder holds a checkpoint, whole or damaged."""
    return bool(newest_first(folder))


def newest_checkpoint(folder: Path) -> tuple[Path | None, list[tuple[Path, str]]]:
    """The newest whole checkpoint of a run, and those that are newer, with what is wrong with them.

    Every file is read and compared with its checksum.
    """
    faults = []
    for path in newest_first(folder):
        try:
            verify_checkpoint(path)
        except DataError as error:
            faults.append((path, str(error)))
            continue
        return path, faults
    return None, faults


def read_manifest(path: Path) -> dict[str, Any]:
    """Read and check the manifest of a checkpoint.

    Raises:
        DataError: if it is missing, damaged, or of another format.
    """
    try:
        manifest = read_json(path / MANIFEST)
    except DataError as error:
        raise DataError(f"checkpoint {path}: {MANIFEST} cannot be read: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else None
        raise DataError(f"{path} is not a checkpoint of this program (format {found!r}, not {FORMAT})")
    if manifest.pop("sha256", None) != manifest_digest(manifest):
        raise DataError(f"checkpoint {path}: {MANIFEST} is damaged: its SHA-256 is not the one it was written with")
    try:
        names = [str(name) for name in manifest["files"]]
        rows = [(int(file["first"]), int(file["stop"])) for _, file in row_files(manifest)]
        int(manifest["notes"]["step"]), int(manifest["classes"]), int(manifest["dim"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(f"checkpoint {path}: {MANIFEST} is not a manifest: {error!r}") from error
    ends = [0, *(stop for _, stop in rows)]
    if COMMON not in names or [first for first, _ in rows] != ends[:-1] or ends[-1] != manifest["classes"]:
        raise DataError(f"checkpoint {path}: {MANIFEST} does not list all parts")
    for name in names:
        if Path(name).name != name:
            raise DataError(f"checkpoint {path}: {MANIFEST} names a file outside the checkpoint: {name!r}")
    return manifest


def recorded_config(path: Path) -> Config | None:
    """The configuration that a checkpoint was trained with; None if an earlier version wrote it.

    Raises:
        DataError: if the manifest cannot be read.
        ConfigError: if the recorded configuration is invalid.
    """
    written = read_manifest(path).get("config")
    return None if written is None else build_config(written, f"checkpoint {path}")


def newest_recorded_config(folder: Path) -> Config | None:
    """The configuration in the newest checkpoint with a readable manifest; tensors are not read."""
    for path in newest_first(folder):
        with suppress(DataError):
            return recorded_config(path)
    return None


def describe_run(config: Config, pictures: PictureSet) -> dict[str, Any]:
    """The entries of a manifest that record the configuration and the data of a run."""
    data = {"identities": digest_of_names(pictures.identities), "pictures": len(pictures)}
    return {"config": json.loads(json.dumps(config.model_dump(mode="json"))), "data": data}


def digest_of_names(names: Sequence[str]) -> str:
    """The SHA-256 of the names of identities, in their order."""
    return hashlib.sha256(json.dumps(list(names)).encode()).hexdigest()


def verify_checkpoint(path: Path) -> None:
    """Read every file of a checkpoint and compare it with its checksum.

    Raises:
        DataError: naming the file that is missing, damaged, or of another format.
    """
    for name, written in read_manifest(path)["files"].items():
        file = path / name
        try:
            size, digest = int(written["bytes"]), written["sha256"]
            found_size = file.stat().st_size
            if found_size != size:
                raise DataError(f"checkpoint {path}: {name} has {found_size:,} bytes instead of {size:,}")
            if file_digest(file) != digest:
                raise DataError(f"checkpoint {path}: {name} is damaged: its SHA-256 is not the one it was written with")
        except OSError as error:
            raise DataError(f"checkpoint {path}: {name} cannot be read: {error.strerror or error}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"checkpoint {path}: {MANIFEST} has no valid entry for {name}: {error!r}") from error


def file_digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """The SHA-256 of a manifest without its own entry ``sha256``."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def newest_first(folder: Path) -> list[Path]:
    """The checkpoints in a folder, whole or damaged, by descending step."""
    return sorted(folder.glob("step-*"), reverse=True)


def row_files(manifest: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Names and entries of the files that hold rows of the classes, in the order of the ranks that wrote them."""
    return sorted((name, file) for name, file in manifest["files"].items() if name != COMMON)
