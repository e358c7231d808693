"""What the instruments of injection cost: the same run, block by block with them and without.

A block is as many steps as lie between two measurements of drift. Blocks alternate, and neighbours are compared, so
that a machine that slows down slows both. Pictures are loaded before the clock starts: the share is of the steps alone,
and larger than in a run that waits for its pictures.

Run: python benchmarks/instruments.py [RECIPE] [KEY=VALUE ...] [--pairs 8]
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time

import torch

from vplface.data.batches import Batch, load_batches
from vplface.data.pictures import Preprocessing
from vplface.prototypes import CosineByAge
from vplface.training.config import read_config
from vplface.training.loop import _step
from vplface.training.state import Training, prepare
from vplface.training.world import World

LOG_EVERY = 20


def block(run: Training, batches: list[Batch], instruments: bool) -> float:
    """Seconds a step."""
    prepare_input, every = Preprocessing(), run.drift.every
    run.head.by_age = CosineByAge() if instruments else None
    began = time.perf_counter()
    for batch in batches:
        logs, looks = (run.step + 1) % LOG_EVERY == 0, instruments and (run.step + 1) % every == 0
        _step(run, World(), run.backbone, prepare_input, batch, logs, looks)
        run.step += 1
        if instruments:
            run.drift.step(run.remembering)
            if looks:
                run.head.cosine_by_age()
    if run.device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / len(batches)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="quickstart")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--pairs", type=int, default=8, help="blocks with the instruments, and as many without")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        chosen = [f"output={folder}", "drift_every=null", "variational.start=0", *options.overrides]
        config = read_config(options.recipe, chosen)
        run = prepare(config)
        every = run.drift.every
        steps = 2 * (options.pairs + 1) * every
        source = iter(load_batches(run.pictures, run.batches, config.data.augmentation, config.seed, 0, steps, 0))
        print(
            f"{run.head.num_classes:,} classes, batch {config.batch_size}, {config.backbone.name} on {run.device},"
            f" Δt {run.head.delta_t}, drift every {every} steps of {len(run.drift.pictures)} pictures"
        )
        print("| pair | without, ms a step | with | ratio |\n|---|---|---|---|")
        pairs = []
        for number in range(options.pairs + 1):
            seconds = {}
            for instruments in (False, True) if number % 2 else (True, False):
                seconds[instruments] = block(run, list(itertools.islice(source, every)), instruments)
            if number:  # the first pair warms up
                pairs.append((seconds[False], seconds[True]))
                plain, measured = (1000 * each for each in pairs[-1])
                print(f"| {number} | {plain:.2f} | {measured:.2f} | {measured / plain:.4f} |", flush=True)
        without, with_them = (1000 * statistics.median(each) for each in zip(*pairs, strict=True))
        ratio = statistics.median(measured / plain for plain, measured in pairs)
        print(f"| median | {without:.2f} | {with_them:.2f} | {ratio:.4f} |")


if __name__ == "__main__":
    main()
