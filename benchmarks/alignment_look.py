"""How often the look at the alignment of a set is wrong: aligned sets that are warned about, others that are not.

Run: python benchmarks/alignment_look.py --aligned SET ... --photos FOLDER --other SET ... --detector-model YUNET
     python benchmarks/alignment_look.py --reference SET ...   prints the table of vplface.data.align.mean_face

The photographs are looked at as they are, and as crops that are made of them: the detector's box with a margin of
44 pixels, resized to 160 x 160 (as facenet's sets are made), the box alone, and each picture cut at a random place.
Aligned sets are also cut to 112 x 96. From every set, 200 random subsets of each size are judged.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from vplface.data.align import YuNet
from vplface.data.align.look import FEWEST_OF_MEAN, judge_landmarks, judge_mean, landmarks_of, look_at
from vplface.data.align.mean_face import band_of, half_of_reference, locate
from vplface.data.formats import open_pictures
from vplface.data.pictures import decode_whole
from vplface_synthetic import SyntheticFaces

Picture = UInt8[np.ndarray, "h w 3"]

SUBSETS = 200
SIZES = (1, 4, 16, 48)
_SAMPLE = 600


def sample(path: Path, count: int = _SAMPLE, split: str | None = None) -> list[Picture]:
    """Some pictures of a set, as they are stored."""
    stored = open_pictures(path, split)
    chosen = np.random.default_rng(1).permutation(len(stored))[:count].tolist()
    return [decode_whole(stored.encoded(index), stored.where(index)) for index in chosen]


def boxed(picture: Picture, detector: YuNet, margin: int) -> Picture:
    """The box of the largest face, with half the margin on each side at 182 pixels, as 160 x 160."""
    face = max(detector(picture), key=lambda face: face.side)
    x, y, width, height = face.box or (0.0, 0.0, float(picture.shape[1]), float(picture.shape[0]))
    more = margin / 2 / (182 - margin)
    rows = slice(max(0, int(y - more * height)), int(y + (1 + more) * height))
    columns = slice(max(0, int(x - more * width)), int(x + (1 + more) * width))
    return cv2.resize(picture[rows, columns], (160, 160), interpolation=cv2.INTER_AREA)


def anywhere(picture: Picture, rng: np.random.Generator) -> Picture:
    """A square of 50 to 80 % of the sides at a random place."""
    side = int(rng.uniform(0.5, 0.8) * min(picture.shape[:2]))
    y, x = (int(rng.integers(0, length - side + 1)) for length in picture.shape[:2])
    return picture[y : y + side, x : x + side]


def report(name: str, pictures: Sequence[Picture], detector: YuNet) -> None:
    """A line for the shares of subsets that are warned about, by the detector and by the mean picture."""
    sizes = [(picture.shape[1], picture.shape[0]) for picture in pictures]
    landmarks = [landmarks_of(picture, detector) for picture in pictures]
    bands = [band_of(picture) for picture in pictures]

    def by_detector(chosen: Sequence[int]) -> bool:
        found = [points for index in chosen if (points := landmarks[index]) is not None]
        return judge_landmarks([sizes[index] for index in chosen], found).bad

    def by_mean(chosen: Sequence[int]) -> bool:
        face = locate([bands[index] for index in chosen]) if len(chosen) >= FEWEST_OF_MEAN else None
        return judge_mean([sizes[index] for index in chosen], face).bad

    judges: tuple[Callable[[Sequence[int]], bool], ...] = (by_detector, by_mean)
    shares = []
    for judge in judges:
        rng = np.random.default_rng(2)
        for size in SIZES:
            subsets = [rng.permutation(len(pictures))[:size].tolist() for _ in range(SUBSETS)]
            shares.append(np.mean([judge(subset) for subset in subsets]))
    found = np.mean([points is not None for points in landmarks])
    print(f"{name} | {found:.3f} | " + " | ".join(f"{100 * share:.1f} %" for share in shares), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in ("--aligned", "--other", "--reference"):
        parser.add_argument(option, type=Path, nargs="+", default=[])
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--detector-model", type=Path)
    options = parser.parse_args()
    if options.reference:
        bands = [band_of(picture) for path in options.reference for picture in sample(path, 10**9)]
        for row in half_of_reference(np.mean(bands, axis=0)).tolist():
            print(f"        {row},")
        return
    detector = YuNet(options.detector_model)
    print("set | with a face | " + " | ".join(f"{means}, {size}" for means in ("YuNet", "mean") for size in SIZES))
    for path in options.aligned:
        pictures = sample(path)
        report(path.name, pictures, detector)
        report(f"{path.name}, 112 x 96", [picture[:, 8:104] for picture in pictures], detector)
    faces = SyntheticFaces(identities=100, pictures=2, seed=5)
    report("generated faces", [faces.picture(index) for index in range(len(faces))], detector)
    if options.photos:
        photos = sample(options.photos)
        report("photographs", photos, detector)
        report("box with margin, 160 x 160", [boxed(picture, detector, 44) for picture in photos], detector)
        report("box, 160 x 160", [boxed(picture, detector, 0) for picture in photos], detector)
        rng = np.random.default_rng(3)
        report("cut at random places", [anywhere(picture, rng) for picture in photos for _ in range(2)], detector)
    for path in options.other:
        report(path.name, sample(path), detector)
    for path in options.aligned:
        seen = look_at(open_pictures(path), detector)
        print(f"{path.name}: {seen}")


if __name__ == "__main__":
    main()
