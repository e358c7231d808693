"""Generated faces as files: an identity/picture folder, written by worker processes, that a later run can complete."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vplface.data.forking import configure_worker, worker_processes
from vplface.errors import DataError, import_extra
from vplface.files import claimed
from vplface.progress import progress
from vplface.reading import kind_of, read_json

if TYPE_CHECKING:
    from vplface_synthetic import SyntheticFaces

cv2 = import_extra("cv2", "train")

RECORD = "synth.json"
GENERATOR = 1
"""Increased whenever the same options give different pictures."""

_PATIENCE = 3600.0
"""Seconds to wait for another process that writes the same faces."""

_CHUNK = 64


def write_synthetic(
    root: Path | str, faces: SyntheticFaces, picture_format: Literal["png", "jpg"] = "png", workers: int = 0
) -> int:
    """Write every picture of ``faces`` to ``root``/identity/number.format, and the options to ``root``/synth.json.

    If several processes write at once, such as the runs of a study, one writes and the others wait for it.

    A file gets its name only when it is complete, so a run that was killed is completed by repeating it.
    synth.json also names the mislabelled pictures and the identities that they show.

    Args:
        root: the folder, created if it does not exist.
        faces: what to write.
        picture_format: "png" (exact) or "jpg" (quality 95; the names end in .jpg then).
        workers: worker processes; 0 writes in this process.

    Returns:
        How many pictures were written now (not counting those of an earlier run).

    Raises:
        DataError: if the folder holds something else or cannot be written, or the disk is full.
    """
    with claimed(Path(root), _PATIENCE):
        return _write_missing(Path(root), faces, picture_format, workers)


def _write_missing(root: Path, faces: SyntheticFaces, picture_format: Literal["png", "jpg"], workers: int) -> int:
    try:
        _record(root, faces, picture_format)
        paths = [root / Path(faces.name(k)).with_suffix(f".{picture_format}") for k in range(len(faces))]
        missing = [k for k, path in enumerate(paths) if not path.exists()]
        for folder in {paths[k].parent for k in missing}:
            folder.mkdir(exist_ok=True)
    except OSError as error:
        raise _unwritable(error, root) from error
    chunks = [[(k, str(paths[k])) for k in missing[i : i + _CHUNK]] for i in range(0, len(missing), _CHUNK)]
    if workers == 0:
        with progress("generating faces", len(missing)) as advance:
            for chunk in chunks:
                advance(_write(faces, chunk))
        return len(missing)
    with worker_processes() as context, ProcessPoolExecutor(workers, context, initializer=configure_worker) as pool:
        # Submitted before the progress bar starts its thread: a fork should find one thread only.
        futures = [pool.submit(_write, faces, chunk) for chunk in chunks]
        try:
            with progress("generating faces", len(missing)) as advance:
                for future in as_completed(futures):
                    advance(future.result())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return len(missing)


def _write(faces: SyntheticFaces, chunk: list[tuple[int, str]]) -> int:
    for index, name in chunk:
        path = Path(name)
        coded = cv2.imencode(
            path.suffix,
            cv2.cvtColor(faces.picture(index), cv2.COLOR_RGB2BGR),
            [cv2.IMWRITE_PNG_COMPRESSION, 3] if path.suffix == ".png" else [cv2.IMWRITE_JPEG_QUALITY, 95],
        )[1]
        try:
            _replace(path, coded.tobytes())
        except OSError as error:
            raise _unwritable(error, path) from error
    return len(chunk)


def _replace(path: Path, data: bytes) -> None:
    """Write the data to ``path`` atomically: a reader finds all of it or nothing."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    part.replace(path)


def _record(root: Path, faces: SyntheticFaces, picture_format: str) -> None:
    """Write synth.json, or check that the existing one has the same options."""
    record = {
        "schema": 1,
        "generator": GENERATOR,
        "options": faces.options,
        "format": picture_format,
        "mislabelled": {
            Path(faces.name(k)).with_suffix(f".{picture_format}").as_posix(): faces.identities[int(faces.shown[k])]
            for k in faces.mislabelled.nonzero()[0].tolist()
        },
    }
    path = root / RECORD
    if kind_of(path) is not None:
        try:
            found = read_json(path)
        except DataError as error:
            raise DataError(f"{path}: not a record of generated faces ({error}); choose another folder") from error
        if found != record:
            raise DataError(
                f"{path}: this folder was generated with other settings ({_difference(found, record)}); choose another "
                "folder, or delete this one first"
            )
        return
    root.mkdir(parents=True, exist_ok=True)
    if any(root.iterdir()):
        raise DataError(f"{root}: holds other files and no {RECORD}; choose an empty or a new folder")
    _replace(path, (json.dumps(record, indent=1) + "\n").encode())


def _difference(found: object, record: dict[str, object]) -> str:
    if not isinstance(found, dict):
        return "it is not a record"
    old = {**found, **(found.get("options") or {})}
    new = {**record, **record["options"]}  # type: ignore[dict-item]
    changed = [key for key in new if key not in ("options", "mislabelled") and old.get(key) != new[key]]
    return ", ".join(f"{key} {old.get(key)!r}, now {new[key]!r}" for key in changed) or "the mislabelled pictures"


def _unwritable(error: OSError, path: Path) -> DataError:
    where = error.filename or path
    return DataError(
        f"{where}: cannot be written ({error.strerror}); free some space or choose another folder, then repeat the "
        "command: it keeps the pictures that are complete"
    )
