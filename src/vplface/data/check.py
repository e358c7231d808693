"""Checks of the pictures of a set for damage, duplicates and size; :mod:`vplface.evaluation.labels` checks labels."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Collection, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Int64

from vplface.data.forking import configure_worker, worker_processes
from vplface.data.near_duplicates import difference_hashes, near_duplicates
from vplface.data.pictures import SIZE, StoredPictures, UnreadablePictureError, decode_whole
from vplface.errors import VplfaceError, import_extra
from vplface.progress import progress

cv2 = import_extra("cv2", "train")

Kind = Literal[
    "unreadable",
    "truncated",
    "tiny",
    "constant",
    "duplicate",
    "duplicate-across",
    "near-duplicate",
    "near-duplicate-across",
    "size",
    "single",
    "label",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
DROPPED: tuple[Kind, ...] = ("unreadable", "truncated", "tiny", "constant", "duplicate", "duplicate-across")
"""Default kinds for the list of pictures to drop, useless for training."""

MIN_CONTRAST = 4.0
"""Standard deviation of the grey values, of 0..255, below which a picture counts as constant."""

_CHUNK = 128
_FAULTS: dict[str, Kind] = {"the file is cut short": "truncated", "too small": "tiny"}
_INSPECTED = np.dtype([("sha256", "V16"), ("hashes", "<u8", 5), ("height", "<u4"), ("width", "<u4"), ("fault", "u1")])


@dataclass(frozen=True)
class Finding:
    """Problem found with a picture.

    Attributes:
        index: index of the picture in its set.
        kind: kind of the problem.
        reason: description, with figures and names.
        other: index of the picture it was compared with, if any.
    """

    index: int
    kind: Kind
    reason: str
    other: int | None = None


def check(pictures: StoredPictures, workers: int = 0) -> list[Finding]:
    """Check every picture of a set. Returns all findings except "label", ordered by picture.

    - unreadable, truncated, tiny (a side shorter than 16 pixels), constant: useless for training;
    - duplicate: the same bytes as an earlier picture of its identity;
    - duplicate-across: the same bytes under two identities; all of them are reported, since any may be wrong;
    - near-duplicate, near-duplicate-across: the same photograph in other bytes, see
      :mod:`vplface.data.near_duplicates`;
    - size: not 112 x 112, so resized on reading;
    - single: the only picture of its identity.

    Pictures useless for training have no other findings except "single".

    Args:
        pictures: the set.
        workers: number of worker processes; 0 checks in this process.
    """
    inspected, reasons = _inspect_all(pictures, workers)
    labels = np.asarray(pictures.labels)
    findings = [Finding(index, KINDS[inspected["fault"][index] - 1], reason) for index, reason in reasons.items()]
    sound = np.flatnonzero(inspected["fault"] == 0)

    distinct, copies = _duplicates(inspected["sha256"], labels, sound)
    for index, other in copies:
        across = labels[index] != labels[other]
        kind: Kind = "duplicate-across" if across else "duplicate"
        whose = f", which is of {pictures.identities[labels[other]]}" if across else ""
        findings.append(Finding(index, kind, f"same bytes as {pictures.name(other)}{whose}", other))

    within, beyond = near_duplicates(np.ascontiguousarray(inspected["hashes"][distinct]), labels[distinct])
    alike: tuple[tuple[Kind, Int64[np.ndarray, " k"]], ...] = (
        ("near-duplicate", within),
        ("near-duplicate-across", beyond),
    )
    for kind, found in alike:
        for place in np.flatnonzero(found >= 0).tolist():
            index, other = int(distinct[place]), int(distinct[found[place]])
            whose = f" of {pictures.identities[labels[other]]}" if kind == "near-duplicate-across" else ""
            findings.append(Finding(index, kind, f"looks like {pictures.name(other)}{whose}", other))

    height, width = inspected["height"][sound], inspected["width"][sound]
    for place in np.flatnonzero((height != SIZE) | (width != SIZE)).tolist():
        reason = f"{width[place]}x{height[place]}, not {SIZE}x{SIZE}"
        findings.append(Finding(int(sound[place]), "size", reason))

    alone = np.bincount(labels, minlength=len(pictures.identities)) == 1
    for index in np.flatnonzero(alone[labels]).tolist():
        findings.append(Finding(index, "single", f"the only picture of {pictures.identities[labels[index]]}"))
    return sorted(findings, key=lambda finding: (finding.index, KINDS.index(finding.kind)))


def undecodable(findings: Iterable[Finding]) -> list[int]:
    """Indices of the pictures that cannot be decoded."""
    return [finding.index for finding in findings if finding.kind in ("unreadable", "truncated", "tiny")]


def dropped(pictures: StoredPictures, findings: Iterable[Finding], kinds: Collection[Kind] = DROPPED) -> dict[str, str]:
    """Reasons by picture name of the findings of some kinds, for :func:`vplface.data.drop.write_drop`."""
    listed: dict[str, str] = {}
    for finding in findings:
        if finding.kind in kinds:
            name, reason = pictures.name(finding.index), f"{finding.kind}: {finding.reason}"
            listed[name] = f"{listed[name]}; {reason}" if name in listed else reason
    return listed


def _inspect_all(pictures: StoredPictures, workers: int) -> tuple[np.ndarray, dict[int, str]]:
    """Digest, hashes, size and fault of each picture, and the reasons of the faults by index."""
    inspected = np.zeros(len(pictures), _INSPECTED)
    reasons: dict[int, str] = {}
    chunks = [range(first, min(first + _CHUNK, len(pictures))) for first in range(0, len(pictures), _CHUNK)]
    with ExitStack() as stack:
        done: Iterable[tuple[range, np.ndarray, dict[int, str]]]
        if workers == 0:
            done = (_inspect(pictures, chunk) for chunk in chunks)
        else:
            context = stack.enter_context(worker_processes())
            pool = ProcessPoolExecutor(workers, context, _start_worker, (pictures,))
            stack.callback(pool.shutdown, cancel_futures=True)
            # Submitted before the progress bar starts its thread: a fork should find one thread only.
            futures = [pool.submit(_inspect_in_worker, chunk) for chunk in chunks]
            done = (future.result() for future in as_completed(futures))
        advance = stack.enter_context(progress("checking pictures", len(pictures)))
        try:
            for chunk, part, faults in done:
                inspected[chunk.start : chunk.stop] = part
                reasons |= faults
                advance(len(chunk))
        except BrokenProcessPool as error:
            raise VplfaceError("a worker process died, probably because memory ran out; use fewer workers") from error
    return inspected, reasons


def _start_worker(pictures: StoredPictures) -> None:
    global _worker_pictures
    _worker_pictures = pictures
    configure_worker()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process answers it


_worker_pictures: StoredPictures
"""The set in a worker process: shared under fork, and not pickled with each chunk."""


def _inspect_in_worker(chunk: range) -> tuple[range, np.ndarray, dict[int, str]]:
    return _inspect(_worker_pictures, chunk)


def _inspect(pictures: StoredPictures, chunk: range) -> tuple[range, np.ndarray, dict[int, str]]:
    rows = np.zeros(len(chunk), _INSPECTED)
    reasons = {}
    for row, index in zip(rows, chunk, strict=True):
        fault: Kind | None = None
        try:
            encoded = pictures.encoded(index)
            picture = decode_whole(encoded, pictures.where(index))
        except UnreadablePictureError as error:
            fault = next((kind for start, kind in _FAULTS.items() if error.reason.startswith(start)), "unreadable")
            reasons[index] = error.reason
        else:
            grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
            mean, contrast = (float(value[0, 0]) for value in cv2.meanStdDev(grey))  # without a copy in float64
            if contrast < MIN_CONTRAST:
                fault = "constant"
                reasons[index] = f"grey values of standard deviation {contrast:.1f} around {mean:.0f}"
            row["sha256"] = hashlib.sha256(encoded).digest()[:16]
            row["hashes"] = difference_hashes(picture)
            row["height"], row["width"] = picture.shape[:2]
        row["fault"] = 0 if fault is None else KINDS.index(fault) + 1
    return chunk, rows, reasons


def _duplicates(
    digests: np.ndarray, labels: Int64[np.ndarray, " n"], sound: Int64[np.ndarray, " m"]
) -> tuple[Int64[np.ndarray, " k"], list[tuple[int, int]]]:
    """The first picture of each content, and for each copy its index and that of the original."""
    words = np.frombuffer(digests[sound].tobytes(), np.uint64).reshape(-1, 2)
    _, first, content, counts = np.unique(words, axis=0, return_index=True, return_inverse=True, return_counts=True)
    content = content.reshape(-1)
    repeated = np.flatnonzero(counts[content] > 1)
    order = repeated[np.argsort(content[repeated], kind="stable")]
    starts = np.flatnonzero(np.diff(content[order], prepend=-1))
    copies = []
    for group in np.split(sound[order], starts[1:]) if len(order) else []:
        others = labels[group] != labels[group[0]]
        if not others.any():
            copies += [(int(index), int(group[0])) for index in group[1:]]
        else:
            stranger = group[np.argmax(others)]
            pairs = zip(group.tolist(), others.tolist(), strict=True)
            copies += [(index, int(group[0] if other else stranger)) for index, other in pairs]
    return np.sort(sound[first]), copies
