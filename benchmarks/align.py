"""How near two sources of landmarks are to each other, and their crops to crops made before; and pictures a second.

Run: python benchmarks/align.py PHOTOS CROPS LANDMARKS MODEL [--workers 1] [--judge ONNX --mean a,b,c --std a,b,c]

PHOTOS and CROPS are folders with pictures of the same names, LANDMARKS lists the five points in PHOTOS, and MODEL is
YuNet's .onnx file. A judge is a face recognition model: it says how alike it finds the crops.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float

from vplface.cli.preprocessing import preprocessing_of
from vplface.data.align import Detector, Face, YuNet, align_folder, read_landmarks
from vplface.data.align.folder import Alignment
from vplface.data.pictures import decode, decode_whole
from vplface.embedder import Embedder


def grey_levels(ours: list[Path], theirs: list[Path]) -> Float[np.ndarray, " n"]:
    """Mean absolute difference of each crop from the one made before, 0 to 255."""
    crops, expected = ([decode(path.read_bytes(), str(path)) for path in paths] for paths in (ours, theirs))
    return np.abs(np.subtract(crops, expected, dtype=np.float64)).mean((1, 2, 3))


def distances(done: Alignment, listed: dict[str, list[Face]]) -> Float[np.ndarray, "n 5"]:
    """Pixels between the landmarks of the faces that were taken and those of the file."""
    taken = {record.name: record.face for record in done.records if record.crop and record.face is not None}
    apart = [face.landmarks - listed[name][0].landmarks for name, face in taken.items() if listed.get(name)]
    return np.linalg.norm(apart, axis=2)


def changed(photos: Path, listed: dict[str, list[Face]], detector: Detector) -> None:
    """What the detector finds in the photographs turned by quarters and shrunk, and in how many at the right places."""
    quarters = {0: "upright", 1: "turned left", 2: "upside down", 3: "turned right"}
    for quarter, shrink in [(0, 1.0), (1, 1.0), (2, 1.0), (3, 1.0), (0, 3.9), (0, 5.2), (0, 6.25), (0, 7.8)]:
        scores, sides, right = [], [], 0
        for name, (face, *_) in listed.items():
            picture = decode_whole((photos / name).read_bytes(), name)
            height, width = picture.shape[:2]
            size = round(width / shrink), round(height / shrink)
            small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
            found = detector(np.ascontiguousarray(np.rot90(small, quarter)))
            sides.append(face.side / shrink)
            if found:
                scores.append(max(other.score for other in found))
                points = face.landmarks / shrink
                for _ in range(quarter):  # np.rot90 takes (x, y) to (y, width - 1 - x)
                    points = np.stack([points[:, 1], size[0] - 1 - points[:, 0]], 1)
                    size = size[::-1]
                eyes = np.linalg.norm(points[0] - points[1])
                apart = min(np.linalg.norm(other.landmarks - points, axis=1).mean() for other in found)
                right += bool(apart < eyes / 4)
        print(
            f"  {quarters[quarter]}, crops of {np.median(sides):.0f} pixels: {len(scores)} found, {right} with points "
            f"within a quarter of the eyes' distance; {np.sum(np.array(scores) > 0.8)} scores above 0.8"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("photos", "crops", "landmarks", "model"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--judge", type=Path)
    parser.add_argument("--mean")
    parser.add_argument("--std")
    options = parser.parse_args()
    listed = read_landmarks(options.landmarks)
    sources: dict[str, Detector | dict[str, list[Face]]] = {"landmark file": listed, "YuNet": YuNet(options.model)}
    judge = options.judge and Embedder.load(options.judge, "cpu", preprocessing_of(None, options.mean, options.std))
    for name, faces in sources.items():
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "faces"
            done = align_folder(
                options.photos, target, faces, choice="center", picture_format="png", workers=options.workers
            )
            pictures = done.outcomes.total()
            print(f"{name}: {done.crops} of {pictures} aligned, {pictures / done.seconds:.0f} pictures/s")
            apart = distances(done, listed)
            print(
                f"  landmarks: {np.median(apart):.2f} pixels from the file's (median of all points; 90 % of the "
                f"pictures have a mean below {np.quantile(apart.mean(1), 0.9):.2f})"
            )
            taken = [record for record in done.records if record.crop]
            ours, theirs = [target / record.crop for record in taken], [options.crops / record.name for record in taken]
            levels = grey_levels(ours, theirs)
            print(f"  crops: {levels.mean():.2f} grey levels from those made before (largest {levels.max():.2f})")
            if judge:
                alike = (judge(ours, "sum") * judge(theirs, "sum")).sum(1)
                print(f"  judge: cosine {alike.mean():.4f} with those made before (smallest {alike.min():.4f})")
        if not isinstance(faces, dict):
            changed(options.photos, listed, faces)


if __name__ == "__main__":
    main()
