"""How long the intervals of an evaluation take: a list of the shape of LFW's View 2, and all pairs of a set.

Run: python benchmarks/bootstrap.py [--replicates 1000] [--pictures 6000]

The list has 6,000 pairs of 4,281 people in ten folds, on made-up embeddings; times are without embedding pictures.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from vplface.data.pairs import Pairs
from vplface.evaluation import evaluate_all_pairs_embedded, evaluate_pairs_embedded


class Names:
    """As much of a picture set as an evaluation of embeddings needs."""

    def __init__(self, labels: np.ndarray) -> None:
        self.labels = labels
        self.identities = [str(label) for label in range(labels.max() + 1)]

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        return f"{self.labels[index]}/{index}.jpg"

    def picture(self, index: int) -> np.ndarray:
        raise NotImplementedError("embeddings are evaluated, no pictures are opened")


def embeddings_of(labels: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.normal(size=(labels.max() + 1, 128))[labels] + rng.normal(size=(len(labels), 128))).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--pictures", type=int, default=6000)
    chosen = parser.parse_args()

    rng = np.random.default_rng(0)
    labels = np.r_[np.arange(4281), np.arange(3420)]  # the first 3,420 people have two pictures
    people = Names(labels)
    x = embeddings_of(labels)
    twice = rng.integers(3420, size=3000)
    first, second = rng.integers(4281, size=3000), rng.integers(4280, size=3000)
    left, right = np.r_[twice, first], np.r_[twice + 4281, (first + 1 + second) % 4281]
    names = [[people.name(index) for index in side] for side in (left, right)]
    pairs = Pairs(*names, same=labels[left] == labels[right], fold=np.arange(6000) % 10)
    many = Names(np.arange(chosen.pictures) // 4)
    of_many = embeddings_of(many.labels)
    for words, evaluate in (
        ("list of 6,000 pairs", lambda n: evaluate_pairs_embedded(x, people, pairs, flip="none", bootstrap=n)),
        (
            f"all pairs of {chosen.pictures:,} pictures",
            lambda n: evaluate_all_pairs_embedded(of_many, many, flip="none", bootstrap=n),
        ),
    ):
        seconds = []
        for replicates in (0, chosen.replicates):
            began = time.perf_counter()
            evaluate(replicates)
            seconds.append(time.perf_counter() - began)
        print(f"{words}: {seconds[0]:.2f} s, with {chosen.replicates:,} resamples {seconds[1]:.2f} s")


if __name__ == "__main__":
    main()
