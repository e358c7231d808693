"""Two things that the tiled softmax rests on: who computes a float32 product, and what new memory costs.

    python benchmarks/products.py

Times the product of a tile by torch's own choice of library and by the one that vplface asks, and counts the pages that
a step faults in, for the eager head and for ours.
"""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable

import torch

from vplface.bench.head_arms import ARMS
from vplface.bench.problem import Setting, problem_of
from vplface.softmax.product import product

CLASSES, DIM, TILE = 100_000, 512, 2048


def seconds(run: Callable[[], object], repeats: int = 9) -> float:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; one product over {CLASSES:,} classes")
    weight = torch.randn(TILE, DIM)
    for batch in (128, 512):
        features = torch.randn(batch, DIM)
        tiles = CLASSES / TILE
        by_torch = seconds(lambda: torch.mm(weight, features.t())) * tiles  # noqa: B023 - run at once
        ours = seconds(lambda: product(weight, features)) * tiles  # noqa: B023 - run at once
        print(
            f"  B {batch}: torch.mm {1e3 * by_torch:.0f} ms, vplface {1e3 * ours:.0f} ms: {by_torch / ours:.1f} times"
        )
    print(f"pages faulted in, and kernel time, of a step at {CLASSES:,} classes, B 128, bfloat16")
    problem = problem_of(Setting(CLASSES, 128, DIM, "bfloat16"))
    for name in ("eager", "vplface"):
        step = ARMS[name].make(problem)
        for _ in range(2):
            step()
        before = resource.getrusage(resource.RUSAGE_SELF)
        step()
        after = resource.getrusage(resource.RUSAGE_SELF)
        faults, kernel = after.ru_minflt - before.ru_minflt, after.ru_stime - before.ru_stime
        print(f"  {name}: {faults:,} pages, {kernel:.2f} s")


if __name__ == "__main__":
    main()
