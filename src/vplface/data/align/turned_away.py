"""Aligned faces that are turned away after the alignment, for a reason that is recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from vplface.data.align.record import Record, write_records
from vplface.data.pictures import decode_whole, read_picture_file
from vplface.progress import progress

TOO_POOR = "too poor"

_BATCH_SIZE = 64


def turn_away(
    target: Path,
    table: str,
    records: Sequence[Record],
    judge: Callable[[Sequence[UInt8[np.ndarray, "size size 3"]]], Sequence[str]],
) -> list[Record]:
    """Delete the crops that are judged too poor, and record it.

    A crop is deleted before the record is written: after an interruption its picture counts as not aligned, and the
    next run aligns and judges it again.

    Args:
        target: folder of the crops.
        table: name of the record in it.
        records: of all faces.
        judge: the reason why each of some crops is turned away; empty for one that is kept.

    Raises:
        UnreadablePictureError: a crop has been damaged.
    """
    found = list(records)
    rows = [row for row, record in enumerate(found) if record.crop]
    with progress("judging quality", len(rows)) as advance:
        for start in range(0, len(rows), _BATCH_SIZE):
            some = rows[start : start + _BATCH_SIZE]
            paths = [target / found[row].crop for row in some]
            reasons = judge([decode_whole(read_picture_file(path), str(path)) for path in paths])
            for row, path, reason in zip(some, paths, reasons, strict=True):
                if reason:
                    path.unlink()
                    found[row] = replace(found[row], outcome=TOO_POOR, crop="", reason=reason)
            advance(len(some))
    write_records(target / table, found)
    return found
