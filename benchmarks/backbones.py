"""Every backbone: parameters, multiply-adds of a picture, and pictures a second on this machine's CPU.

Parameters and multiply-adds are counted, by running the network on tensors without data: those of convolutions and
matrix products, as papers do, and not those of normalisations, activations and sums. Pictures a second are measured, in
float32: forward in evaluation, and forward and backward in training. The backbones take turns, so that a machine that
slows down slows all; a figure is the median of its turns. Nothing else should run meanwhile.

Run: python benchmarks/backbones.py [NAME ...] [--rounds 5] [--batch 8] [--threads 1] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vplface.backbones import BACKBONES, build
from vplface.progress import progress


def count(name: str, embedding_dim: int = 512) -> tuple[int, int]:
    """Parameters, and multiply-adds of one 112×112 picture in evaluation."""
    with FakeTensorMode(), torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        backbone = build(name, embedding_dim).eval()
        with FlopCounterMode(display=False) as counter:
            backbone(torch.empty(1, 3, 112, 112))
    return sum(parameter.numel() for parameter in backbone.parameters()), counter.get_total_flops() // 2


def seconds(backbone: torch.nn.Module, pictures: torch.Tensor, training: bool) -> float:
    backbone.train(training)
    began = time.perf_counter()
    with torch.set_grad_enabled(training):
        embeddings = backbone(pictures)
        if training:
            embeddings.sum().backward()
    taken = time.perf_counter() - began
    backbone.zero_grad(set_to_none=True)
    return taken


def measure(names: list[str], rounds: int, batch: int) -> dict[str, dict[str, float]]:
    """Pictures a second, by backbone, of ``forward`` and ``both``."""
    taken: dict[str, dict[str, list[float]]] = {name: {"forward": [], "both": []} for name in names}
    backbones = {name: build(name).to(memory_format=torch.channels_last) for name in names}
    pictures = torch.rand(batch, 3, 112, 112).to(memory_format=torch.channels_last) * 2 - 1
    with progress("measuring", (rounds + 1) * len(names)) as advance:
        for turn in range(rounds + 1):
            for name, backbone in backbones.items():
                forward, both = (seconds(backbone, pictures, training) for training in (False, True))
                if turn:  # the first turn warms up
                    taken[name]["forward"].append(forward)
                    taken[name]["both"].append(both)
                advance(1)
    return {name: {kind: batch / statistics.median(times) for kind, times in of.items()} for name, of in taken.items()}


def rows(names: list[str], rounds: int, batch: int) -> list[dict[str, Any]]:
    speeds = measure(names, rounds, batch) if rounds else {}
    counts = {name: count(name) for name in names}
    return [
        {"name": name, "parameters": parameters, "multiply_adds": multiply_adds, **speeds.get(name, {})}
        for name, (parameters, multiply_adds) in counts.items()
    ]


def cells(row: dict[str, Any]) -> list[str]:
    parameters = f"{row['parameters'] / 1e6:.2f} M"
    multiply_adds = f"{row['multiply_adds'] / 1e9:.2f} G"
    return [
        f"`{row['name']}`",
        parameters,
        multiply_adds,
        *(f"{row[kind]:.3g}" for kind in ("forward", "both") if kind in row),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="backbones, timm:NAME too; all of vplface without one")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each backbone; 0 counts and measures nothing")
    parser.add_argument("--batch", type=int, default=8, help="pictures at a time, at least 2")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = rows(options.names or list(BACKBONES), options.rounds, options.batch)
    if options.json:
        said = {key: getattr(options, key) for key in ("rounds", "batch", "threads")}
        print(json.dumps({"torch": torch.__version__, **said, "embedding_dim": 512, "backbones": table}, indent=2))
        return
    heads = [
        "backbone",
        "parameters",
        "multiply-adds",
        *["forward, pictures/s", "with backward"][: 2 * bool(options.rounds)],
    ]
    print(f"| {' | '.join(heads)} |\n|---{'|--:' * (len(heads) - 1)}|")
    for row in table:
        print(f"| {' | '.join(cells(row))} |")


if __name__ == "__main__":
    main()
