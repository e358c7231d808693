"""How young the memory of a class is when one of its pictures comes, for each order of pictures: from the orders alone.

Run: python benchmarks/memory_coverage.py [--classes 90000] [--pictures 50] [--batch 512] [--delta-t 100]
     python benchmarks/memory_coverage.py --data SET [--max-pictures 4] [--batch 64] [--delta-t 100]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from vplface.data.formats import open_pictures
from vplface.data.samplers import SAMPLERS, Sampler, visits
from vplface.data.selection import narrow
from vplface.prototypes import simulate_memory


def class_sizes(classes: int, mean: float, spread: float, seed: int) -> np.ndarray:
    """Log-normal sizes of this mean and this standard deviation of the logarithm, at least 1; equal for spread 0."""
    drawn = np.random.default_rng(seed).normal(np.log(mean) - spread**2 / 2, spread, classes)
    return np.maximum(np.rint(np.exp(drawn)), 1).astype(np.int64)


def report(name: str, sampler: Sampler, labels: np.ndarray, batch: int, delta_t: int) -> None:
    began = time.process_time()
    batches = sampler.batches(labels, batch, seed=0)
    batches.batch(0)
    drawn = time.process_time() - began
    # What is counted follows an epoch, so that the memory is as full as it will be.
    begin, end = len(batches), 2 * len(batches)
    if end - begin < 4 * delta_t:  # an epoch of the balanced order is a pass over the classes
        end = begin + 4 * delta_t
    steps, indices = visits(batches, 0, end)
    memory = simulate_memory(steps, labels[indices], int(labels.max()) + 1, delta_t, begin)
    print(
        f"| {name} | {len(batches):,} | {memory.own:.1%} | {memory.age:.1f} | {memory.coverage:.1%} | {drawn:.1f} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=90_000, help="N")
    parser.add_argument("--pictures", type=float, default=50, help="of a class, in the mean")
    parser.add_argument("--spread", type=float, default=0.8, help="of the logarithm of the class sizes")
    parser.add_argument("--batch", type=int, default=512, help="B")
    parser.add_argument("--delta-t", type=int, default=100, help="lifetime of a memory, steps")
    parser.add_argument("--data", type=Path, help="a set whose classes are taken, in place of generated sizes")
    parser.add_argument("--max-pictures", type=int, help="of a class of --data, at most")
    options = parser.parse_args()
    if options.data is None:
        sizes = class_sizes(options.classes, options.pictures, options.spread, seed=0)
    else:
        sizes = np.bincount(narrow(open_pictures(options.data), max_pictures=options.max_pictures).labels)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    print(
        f"{len(sizes):,} classes, {len(labels):,} pictures ({sizes.min()} to {sizes.max()} a class),"
        f" B {options.batch}, Δt {options.delta_t}\n"
    )
    print("| order | steps an epoch | own memory alive | its age, steps | coverage | s to draw an epoch |")
    print("|---|---|---|---|---|---|")
    delta_t = options.delta_t
    orders: dict[str, Sampler] = {
        "shuffled": SAMPLERS["shuffled"](),
        "sharded": SAMPLERS["sharded"](),
        "balanced, per_class 4": SAMPLERS["balanced"](4),
        f"proximity, within {delta_t}": SAMPLERS["proximity"](delta_t),
        f"proximity, within {max(delta_t // 10, 1)}": SAMPLERS["proximity"](max(delta_t // 10, 1)),
    }
    for name, sampler in orders.items():
        report(name, sampler, np.random.default_rng(1).permutation(labels), options.batch, delta_t)


if __name__ == "__main__":
    main()
