"""How long the search for near duplicates takes.

Run: python benchmarks/near_duplicates.py [--pictures 1000000]

The hashes are as unevenly spread as those of aligned faces: each is the hash of one of 2,000 generated faces, every bit
of which is flipped with probability 0.15. Some are then copied with two bits flipped, and have to be found.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np

from vplface.data.near_duplicates import difference_hashes, near_duplicates
from vplface_synthetic import SyntheticFaces


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1_000_000)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    faces = SyntheticFaces(200, 10)
    centres = np.array([difference_hashes(faces.picture(index)) for index in range(2000)])
    hashes = centres[rng.integers(0, 2000, options.pictures)]
    for part in np.array_split(hashes, max(1, options.pictures // 100_000)):  # a view
        part ^= np.packbits(rng.random((len(part), 320)) < 0.15, axis=1).view(np.uint64)
    copies = options.pictures // 100
    hashes[-copies:] = hashes[:copies]
    hashes[-copies:, 0] ^= np.uint64(3)
    labels = rng.integers(0, max(1, options.pictures // 20), options.pictures)
    began = time.perf_counter()
    within, across = near_duplicates(hashes, labels)
    took = time.perf_counter() - began
    found = int(((within >= 0) | (across >= 0))[-copies:].sum())
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{options.pictures:,} pictures: {took:.0f} s; {found:,} of {copies:,} copies found; {memory:.1f} GiB at most"
    )


if __name__ == "__main__":
    main()
