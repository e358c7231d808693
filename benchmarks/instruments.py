"""What the instruments of injection cost: their share of the time that a run takes.

The clock is around the instruments themselves, within a run that has them: drift of the probe, the figures of a closer
look, ages counted in every step. A share is that time over the rest of the same block, as many steps as lie between two
measurements of drift, so that a machine that slows down slows both. Pictures are loaded before the clock starts: the
share is of the steps alone, and larger than in a run that waits for its pictures.

Run: python benchmarks/instruments.py [RECIPE] [KEY=VALUE ...] [--blocks 8]
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch

from vplface.config import read_config
from vplface.data.batches import Batch, load_batches
from vplface.training import trainer
from vplface.training.distributed import DistributedContext
from vplface.training.run_state import RunState, build_run

LOG_EVERY = 20
PARTS = ("drift", "closer look", "ages")


class Clock:
    """Seconds of calls, by name."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = dict.fromkeys(PARTS, 0.0)

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            began = self.now()
            try:
                return function(*arguments)
            finally:
                self.seconds[name] += self.now() - began

        return timed


def block(run: RunState, clock: Clock, batches: list[Batch]) -> dict[str, float]:
    """Seconds of each instrument, and of all else."""
    clock.seconds = dict.fromkeys(PARTS, 0.0)
    steps, began = trainer.Trainer(run, DistributedContext()), clock.now()
    for batch in batches:
        logs, looks = (run.step + 1) % LOG_EVERY == 0, (run.step + 1) % run.drift.every == 0
        steps.train_step(batch, log=logs, inspect=looks)
        run.step += 1
        run.drift.step(run.memory_encoder)
        if looks:
            run.head.cosine_by_age()
    whole = clock.now() - began
    return {**clock.seconds, "steps": whole - sum(clock.seconds.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="quickstart")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--blocks", type=int, default=8, help="how many are counted, after one that is not")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        chosen = [f"output={folder}", "drift_every=null", "variational.start=0", *options.overrides]
        config = read_config(options.recipe, chosen)
        run = build_run(config)
        every, clock = run.drift.every, Clock(run.device)
        steps = (options.blocks + 1) * every
        source = iter(load_batches(run.pictures, run.batches, config.data.augmentation, config.seed, 0, steps, 0))
        print(
            f"{run.head.num_classes:,} classes, batch {config.batch_size}, {config.backbone.name} on {run.device},"
            f" Δt {run.head.delta_t}, drift every {every} steps of {len(run.drift.pictures)} pictures"
        )
        run.drift.step = clock.around("drift", run.drift.step)
        trainer.measure = clock.around("closer look", trainer.measure)
        run.head.cosine_by_age = clock.around("ages", run.head.cosine_by_age)
        run.head.by_age.update = clock.around("ages", run.head.by_age.update)
        print("| block | a step, ms | " + " | ".join(PARTS) + " | share |\n|" + "---|" * (len(PARTS) + 3))
        shares = []
        for number in range(options.blocks + 1):
            seconds = block(run, clock, list(itertools.islice(source, every)))
            if number:  # the first warms up
                parts = [seconds[part] / seconds["steps"] for part in PARTS]
                shares.append(sum(parts))
                told = " | ".join(f"{part:.2%}" for part in (*parts, shares[-1]))
                print(f"| {number} | {1000 * seconds['steps'] / every:.2f} | {told} |", flush=True)
        print(f"median share: {statistics.median(shares):.2%}, least {min(shares):.2%}, most {max(shares):.2%}")


if __name__ == "__main__":
    main()
