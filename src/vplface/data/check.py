"""What is wrong with the pictures of a set, as far as bytes and pixels tell; who is shown is for a model to say."""

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

from vplface.data.forking import work_alone, worker_processes
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
"""What nobody wants to train on: these go onto the list of pictures to drop, unless it is said which."""

LEAST_CONTRAST = 4.0
"""Standard deviation of the grey values, of 0..255, below which a picture shows nothing."""

_CHUNK = 128
_FAULTS: dict[str, Kind] = {"the file is cut short": "truncated", "too small": "tiny"}
_LOOKED_AT = np.dtype([("sha256", "V16"), ("hashes", "<u8", 5), ("height", "<u4"), ("width", "<u4"), ("fault", "u1")])


@dataclass(frozen=True)
class Finding:
    """Something about a picture.

    Attributes:
        index: of the picture in its set.
        kind: what it is.
        reason: the same in words, with figures and names.
        other: index of the picture that it is compared with, if there is one.
    """

    index: int
    kind: Kind
    reason: str
    other: int | None = None


def check(pictures: StoredPictures, workers: int = 0) -> list[Finding]:
    """Look at every picture of a set: all findings but "label", ordered by picture.

    - unreadable, truncated, tiny (a side shorter than 16 pixels), constant: it cannot be trained on;
    - duplicate: the same bytes as an earlier picture of its identity;
    - duplicate-across: the same bytes under two identities, all of them, since the bytes do not say whose they are;
    - near-duplicate, near-duplicate-across: the same for one photograph in other bytes, see
      :mod:`vplface.data.near_duplicates`;
    - size: not 112 x 112, so resized when it is read;
    - single: the only picture of its identity.

    Of a picture that cannot be trained on nothing else is said, but "single".

    Args:
        pictures: the set.
        workers: worker processes; 0 looks in this one.
    """
    looked_at, reasons = _look_at_all(pictures, workers)
    labels = np.asarray(pictures.labels)
    findings = [Finding(index, KINDS[looked_at["fault"][index] - 1], reason) for index, reason in reasons.items()]
    sound = np.flatnonzero(looked_at["fault"] == 0)

    distinct, copies = _duplicates(looked_at["sha256"], labels, sound)
    for index, other in copies:
        across = labels[index] != labels[other]
        kind: Kind = "duplicate-across" if across else "duplicate"
        whose = f", which is of {pictures.identities[labels[other]]}" if across else ""
        findings.append(Finding(index, kind, f"same bytes as {pictures.name(other)}{whose}", other))

    within, beyond = near_duplicates(np.ascontiguousarray(looked_at["hashes"][distinct]), labels[distinct])
    alike: tuple[tuple[Kind, Int64[np.ndarray, " k"]], ...] = (
        ("near-duplicate", within),
        ("near-duplicate-across", beyond),
    )
    for kind, found in alike:
        for place in np.flatnonzero(found >= 0).tolist():
            index, other = int(distinct[place]), int(distinct[found[place]])
            whose = f" of {pictures.identities[labels[other]]}" if kind == "near-duplicate-across" else ""
            findings.append(Finding(index, kind, f"looks like {pictures.name(other)}{whose}", other))

    height, width = looked_at["height"][sound], looked_at["width"][sound]
    for place in np.flatnonzero((height != SIZE) | (width != SIZE)).tolist():
        reason = f"{width[place]}x{height[place]}, not {SIZE}x{SIZE}"
        findings.append(Finding(int(sound[place]), "size", reason))

    alone = np.bincount(labels, minlength=len(pictures.identities)) == 1
    for index in np.flatnonzero(alone[labels]).tolist():
        findings.append(Finding(index, "single", f"the only picture of {pictures.identities[labels[index]]}"))
    return sorted(findings, key=lambda finding: (finding.index, KINDS.index(finding.kind)))


def undecodable(findings: Iterable[Finding]) -> list[int]:
    """Indices of the pictures that have no pixels to look at."""
    return [finding.index for finding in findings if finding.kind in ("unreadable", "truncated", "tiny")]


def dropped(pictures: StoredPictures, findings: Iterable[Finding], kinds: Collection[Kind] = DROPPED) -> dict[str, str]:
    """The findings of some kinds as a list for :func:`vplface.data.drop.write_drop`, a line a picture."""
    listed: dict[str, str] = {}
    for finding in findings:
        if finding.kind in kinds:
            name, reason = pictures.name(finding.index), f"{finding.kind}: {finding.reason}"
            listed[name] = f"{listed[name]}; {reason}" if name in listed else reason
    return listed


def _look_at_all(pictures: StoredPictures, workers: int) -> tuple[np.ndarray, dict[int, str]]:
    """What is kept of each picture, and of those that cannot be trained on, why."""
    looked_at = np.zeros(len(pictures), _LOOKED_AT)
    reasons: dict[int, str] = {}
    chunks = [range(first, min(first + _CHUNK, len(pictures))) for first in range(0, len(pictures), _CHUNK)]
    with ExitStack() as stack:
        done: Iterable[tuple[range, np.ndarray, dict[int, str]]]
        if workers == 0:
            done = (_look_at(pictures, chunk) for chunk in chunks)
        else:
            context = stack.enter_context(worker_processes())
            pool = ProcessPoolExecutor(workers, context, _start_worker, (pictures,))
            stack.callback(pool.shutdown, cancel_futures=True)
            # Submitted before the progress bar starts its thread: a fork should find one thread only.
            futures = [pool.submit(_look_at_own, chunk) for chunk in chunks]
            done = (future.result() for future in as_completed(futures))
        advance = stack.enter_context(progress("looking at pictures", len(pictures)))
        try:
            for chunk, part, faults in done:
                looked_at[chunk.start : chunk.stop] = part
                reasons |= faults
                advance(len(chunk))
        except BrokenProcessPool as error:
            raise VplfaceError(
                "a process that looks at pictures has died, most likely for want of memory: use fewer workers"
            ) from error
    return looked_at, reasons


def _start_worker(pictures: StoredPictures) -> None:
    global _own
    _own = pictures
    work_alone()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process answers it


_own: StoredPictures
"""A worker's set: under fork it is shared with the main process, and no chunk carries it along."""


def _look_at_own(chunk: range) -> tuple[range, np.ndarray, dict[int, str]]:
    return _look_at(_own, chunk)


def _look_at(pictures: StoredPictures, chunk: range) -> tuple[range, np.ndarray, dict[int, str]]:
    rows = np.zeros(len(chunk), _LOOKED_AT)
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
            if contrast < LEAST_CONTRAST:
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
    """The first picture of each content; and of each copy, its index and that of the one it is a copy of."""
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
