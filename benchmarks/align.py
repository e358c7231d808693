"""How near two sources of landmarks are to each other and to crops made before, and how fast pictures are aligned.

Run: python benchmarks/align.py PHOTOS CROPS LANDMARKS MODEL [--workers 1]

PHOTOS and CROPS are folders with pictures of the same names, LANDMARKS lists the five points in PHOTOS, and MODEL is
YuNet's .onnx file.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from jaxtyping import Float

from vplface.data.align import Detector, Face, YuNet, align_folder, read_landmarks
from vplface.data.align.folder import Alignment
from vplface.data.pictures import decode


def differences(done: Alignment, target: Path, crops: Path) -> Float[np.ndarray, " n"]:
    """Mean absolute difference of grey levels, 0 to 255, of each crop from the one made before."""
    found = []
    for record in done.records:
        if record.crop and (crops / record.name).exists():
            ours, theirs = (
                decode(path.read_bytes(), str(path)) for path in (target / record.crop, crops / record.name)
            )
            found.append(np.abs(ours.astype(float) - theirs).mean())
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("photos", "crops", "landmarks", "model"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    listed = read_landmarks(options.landmarks)
    sources: dict[str, Detector | dict[str, list[Face]]] = {"landmark file": listed, "YuNet": YuNet(options.model)}
    for name, faces in sources.items():
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "faces"
            done = align_folder(
                options.photos, target, faces, choice="center", picture_format="png", workers=options.workers
            )
            apart = differences(done, target, options.crops)
        print(
            f"{name}: {done.crops} of {done.outcomes.total()} aligned, {done.outcomes.total() / done.seconds:.0f} "
            f"pictures/s with {options.workers} workers; crops differ by {apart.mean():.2f} grey levels "
            f"(median {np.median(apart):.2f}, largest {apart.max():.2f})"
        )
        between = [
            np.linalg.norm(record.face.landmarks - listed[record.name][0].landmarks, axis=1)
            for record in done.records
            if record.face is not None and record.crop and listed.get(record.name)
        ]
        each = np.stack(between)
        print(
            f"  landmarks lie {np.median(each):.2f} pixels from the file's (median of all; mean of the five of a picture: "
            f"median {np.median(each.mean(1)):.2f}, 90 % below {np.quantile(each.mean(1), 0.9):.2f})"
        )


if __name__ == "__main__":
    main()
