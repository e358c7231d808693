"""Alignment of a folder of photographs in worker processes, resumable."""

from __future__ import annotations

import copy
import json
import re
import signal
import time
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from vplface.data.align.aligner import Aligner, Choice
from vplface.data.align.face import Detector, Face
from vplface.data.align.record import Record, append_records, read_records, write_records
from vplface.data.folder_scan import (
    PICTURE_TYPES,
    FolderScan,
    LeftOut,
    but_note,
    find_pictures,
    format_counts,
    identity_key,
)
from vplface.data.forking import configure_worker, worker_processes
from vplface.data.pictures import MIN_SIDE, SIZE, UnreadablePictureError, decode_whole, read_picture_file
from vplface.errors import DataError, import_extra
from vplface.files import claimed, replacing
from vplface.progress import progress
from vplface.reading import is_file, is_folder, kind_of, read_json

cv2 = import_extra("cv2", "train")

RECORDS = "align.csv"
OPTIONS = "align.json"

_CHUNK = 16


@dataclass(frozen=True, eq=False)
class Alignment:
    """Result of aligning a folder.

    Attributes:
        records: a row per face, and one per picture without a face, in the order of names.
        kept: number of pictures aligned by an earlier run.
        others: number of other files, by suffix.
        left_out: possible pictures among them.
        seconds: duration of this run.
    """

    records: list[Record]
    kept: int
    others: Counter[str]
    left_out: LeftOut
    seconds: float

    @property
    def outcomes(self) -> Counter[str]:
        """Number of pictures by outcome; a picture is aligned if one of its faces is."""
        found: dict[str, str] = {}
        for record in self.records:
            if record.outcome == "aligned" or record.name not in found:
                found[record.name] = record.outcome
        return Counter(found.values())

    @property
    def crops(self) -> int:
        """Number of crops of all pictures."""
        return sum(record.outcome == "aligned" for record in self.records)

    @property
    def several(self) -> int:
        """Number of pictures with several faces."""
        return len({record.name for record in self.records if record.faces > 1})


@dataclass(frozen=True)
class _Work:
    """Options that each worker needs."""

    source: Path
    target: Path
    aligner: Aligner
    picture_format: str
    quality: int


# size: independent options of one public function, all with defaults
def align_folder(
    source: Path | str,
    target: Path | str,
    faces: Detector | Mapping[str, Sequence[Face]],
    *,
    found_by: str = "",
    choice: Choice = "largest",
    size: int = SIZE,
    min_size: float = MIN_SIDE,
    picture_format: Literal["jpg", "png"] = "jpg",
    quality: int = 95,
    workers: int = 0,
) -> Alignment:
    """Write the aligned faces of every picture below ``source`` to the same places below ``target``.

    A picture IDENTITY/NAME.png becomes IDENTITY/NAME.jpg; with ``choice="all"``, its second face becomes
    IDENTITY/NAME.face2.jpg. ``align.csv`` records the outcome of each picture, ``align.json`` the options. Crops are
    written atomically. Repeat an interrupted run to complete it: existing crops are kept, other pictures tried again.

    Args:
        source: folder of pictures, at any depth.
        target: output folder, created if missing.
        faces: a detector, or the faces of each picture by its path below ``source``.
        found_by: description of ``faces`` for ``align.json``.
        choice: faces to crop, as in :class:`~vplface.data.align.Aligner`.
        size: side of the crops, in pixels.
        min_size: see :class:`~vplface.data.align.Aligner`.
        picture_format: "jpg", or "png" (lossless).
        quality: JPEG quality, 1 to 100.
        workers: number of worker processes; 0 works in this process. The crops do not depend on it.

    Raises:
        DataError: the source has no pictures, the landmarks belong to other pictures, or the target is inside the
            source, holds something else, or cannot be written.
    """
    source, target = Path(source), Path(target)
    listed = faces if isinstance(faces, Mapping) else None
    detector = _finds_none if isinstance(faces, Mapping) else faces
    work = _Work(source, target, Aligner(detector, choice, size, min_size), picture_format, quality)
    _require_apart(source, target)
    with claimed(target):
        return _aligned(work, listed, found_by, workers)


def _aligned(work: _Work, listed: Mapping[str, Sequence[Face]] | None, found_by: str, workers: int) -> Alignment:
    began = time.monotonic()
    source, target, aligner = work.source, work.target, work.aligner
    names, found = _scan(source)
    if listed is not None and not any(name in listed for name in names):
        raise DataError(
            f"none of the {len(names)} pictures in {source} has landmarks in the list; the first name of the list is "
            f"{next(iter(listed))!r}, that of the folder {names[0]!r}"
        )
    options = {
        "schema": 1, "found_by": found_by, "faces": aligner.choice, "size": aligner.size,
        "min_size": aligner.min_size, "format": work.picture_format, "quality": work.quality,
    }  # fmt: skip
    _record_options(target, options)
    done = _done(target, listed)
    for name, owner in _owners(names, aligner.choice).items():
        if name != owner:
            reason = f"its crop would have the same name as one of {owner}; rename one of them"
            done[name] = [Record(name, "name taken", reason=reason)]
    done = {name: done[name] for name in names if name in done}
    kept = sum(records[0].outcome != "name taken" for records in done.values())
    write_records(target / RECORDS, (record for records in done.values() for record in records))
    missing = [(name, None if listed is None else listed.get(name, ())) for name in names if name not in done]
    chunks = [missing[start : start + _CHUNK] for start in range(0, len(missing), _CHUNK)]
    with (
        progress("aligning", len(missing)) as advance,
        closing(_results(work, chunks, workers)) as parts,  # the workers stop, even after an error
    ):
        for results in parts:
            append_records(target / RECORDS, (record for records in results for record in records))
            done |= {records[0].name: records for records in results}
            advance(len(results))
    everything = [record for name in names for record in done[name]]
    write_records(target / RECORDS, everything)
    return Alignment(everything, kept, found.others, found.left_out, time.monotonic() - began)


def _results(
    work: _Work, chunks: list[list[tuple[str, Sequence[Face] | None]]], workers: int
) -> Generator[list[list[Record]], None, None]:
    if workers == 0:
        for chunk in chunks:
            yield _align(work, chunk)
        return
    with (
        worker_processes() as context,
        ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(work,)) as pool,
    ):
        futures = [pool.submit(_align_in_worker, chunk) for chunk in chunks]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise DataError(
                "a worker process died, perhaps for lack of memory; try fewer --workers. Repeat the command to resume"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


_of_worker: _Work


def _start_worker(work: _Work) -> None:
    global _of_worker
    configure_worker()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process stops the workers
    # A network built before the fork cannot be used after it; a copy loads its own.
    _of_worker = replace(work, aligner=replace(work.aligner, detector=copy.copy(work.aligner.detector)))


def _align_in_worker(chunk: list[tuple[str, Sequence[Face] | None]]) -> list[list[Record]]:
    return _align(_of_worker, chunk)


def _align(work: _Work, chunk: list[tuple[str, Sequence[Face] | None]]) -> list[list[Record]]:
    return [_align_picture(work, name, faces) for name, faces in chunk]


def _align_picture(work: _Work, name: str, faces: Sequence[Face] | None) -> list[Record]:
    path = work.source / name
    try:
        picture = decode_whole(read_picture_file(path), str(path))
    except UnreadablePictureError as error:
        return [Record(name, "unreadable", reason=error.reason)]
    if faces is None:
        faces = work.aligner.detector(picture)
    if not faces:
        return [Record(name, "no face")]
    height, width = picture.shape[:2]
    records: list[Record] = []
    crops = 0
    for face, verdict in work.aligner.judge(faces, height, width):
        crop = reason = ""
        if verdict == "aligned":
            crops += 1
            crop = f"{_crop_name(name)}{'' if crops == 1 else f'.face{crops}'}.{work.picture_format}"
            _write(work, crop, work.aligner.crop(picture, face))
        elif verdict == "too small":
            reason = f"{face.side:.1f} pixels a side, needs {work.aligner.min_size:g}"
        elif verdict == "outside":
            reason = f"the landmarks lie outside the picture of {width}x{height}; were they made at another size?"
        records.append(Record(name, verdict, len(faces), face, crop, reason))
    return records


def _write(work: _Work, crop: str, picture: UInt8[np.ndarray, "size size 3"]) -> None:
    options = [] if work.picture_format == "png" else [cv2.IMWRITE_JPEG_QUALITY, work.quality]
    data = cv2.imencode(f".{work.picture_format}", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)[1]
    with replacing(work.target / crop) as path:
        path.write_bytes(data.tobytes())


def _finds_none(picture: UInt8[np.ndarray, "h w 3"]) -> list[Face]:
    """Stand-in for the detector if faces are listed."""
    return []


def _crop_name(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _owners(names: list[str], choice: Choice) -> dict[str, str]:
    """For each picture, the picture that owns the name of its crop: the first one to claim it."""
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(_crop_name(name), name)
    if choice == "all":  # the crop of NAME.face2 has the name of the second face of NAME
        for wanted in first:
            whole = re.sub(r"\.face[0-9]+$", "", wanted)
            first[wanted] = first.get(whole, first[wanted])
    return {name: first[_crop_name(name)] for name in names}


def _done(target: Path, listed: Mapping[str, Sequence[Face]] | None) -> dict[str, list[Record]]:
    """Records of an earlier run, for pictures whose crops all exist and whose listed faces are unchanged."""
    if kind_of(target / RECORDS) is None:
        return {}
    found: dict[str, list[Record]] = {}
    for record in read_records(target / RECORDS):
        found.setdefault(record.name, []).append(record)
    return {name: records for name, records in found.items() if _complete(target, records, listed)}


def _complete(target: Path, records: list[Record], listed: Mapping[str, Sequence[Face]] | None) -> bool:
    crops = [target / record.crop for record in records if record.crop]
    if not crops or len(records) != records[0].faces or not all(map(is_file, crops)):
        return False
    then = sorted(record.face.landmarks.tolist() for record in records if record.face is not None)
    return listed is None or then == sorted(face.landmarks.tolist() for face in listed.get(records[0].name, ()))


def _require_apart(source: Path, target: Path) -> None:
    if not is_folder(source):
        raise DataError(f"{source}: {'does not exist' if kind_of(source) is None else 'is a file, not a folder'}")
    if kind_of(target) not in (None, "folder"):
        raise DataError(f"{target}: is a file, not a folder")
    here, there = source.resolve(), target.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise DataError(f"{target}: must be outside {source}, and not contain it; choose another folder for the crops")


def _scan(root: Path) -> tuple[list[str], FolderScan]:
    """Names of the pictures below ``root``, in order, and the scan of the folder."""
    found = find_pictures(root)
    if not found.pictures:
        held = but_note(found.left_out or format_counts(found.others))
        raise DataError(f"{root}: holds no pictures of type {', '.join(PICTURE_TYPES)}{held}")
    return sorted(found.pictures, key=identity_key), found


def _record_options(target: Path, options: dict[str, object]) -> None:
    """Write align.json, or check that the existing one has the same options."""
    path = target / OPTIONS
    if kind_of(path) is None:
        if is_folder(target) and any(target.iterdir()):
            raise DataError(f"{target}: holds other files and no {OPTIONS}; choose an empty or a new folder")
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(options, indent=1) + "\n", encoding="utf-8")
        return
    try:
        found = read_json(path)
    except DataError as error:
        raise DataError(f"{path}: not a record of aligned pictures ({error}); choose another folder") from error
    if found != options:
        changed = [key for key in options if not isinstance(found, dict) or found.get(key) != options[key]]
        was = {} if not isinstance(found, dict) else found
        changes = ", ".join(f"{key} {was.get(key)!r}, now {options[key]!r}" for key in changed)
        raise DataError(
            f"{path}: this folder was aligned with other settings ({changes}); choose another folder, or delete this "
            "one first"
        )
