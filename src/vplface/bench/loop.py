"""Time of a training step by its parts, in vplface and in a conventional loop, in one run.

All loops begin with the same weights and are checked to compute the same losses. They take turns, so that a machine
that slows down slows them all.
"""

from __future__ import annotations

import copy
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module
from torch.utils.data import DataLoader, RandomSampler

from vplface.backbones import build
from vplface.bench.head_arms import EagerHead, head_of
from vplface.bench.machine import synchronize
from vplface.bench.problem import LR, MOMENTUM, WEIGHT_DECAY, Problem, Setting, problem_of
from vplface.bench.streaming import streamed
from vplface.bench.train import LR as BACKBONE_LR
from vplface.bench.usual_loader import UsualFolder, generated_faces
from vplface.data.augment import Augmentation
from vplface.data.batches import load_batches
from vplface.data.formats.image_folder import ImageFolder
from vplface.data.formats.recordio import RecordIO, RecordIOWriter
from vplface.data.pictures import SIZE, Preprocessing
from vplface.data.samplers import ShuffledBatches
from vplface.errors import VplfaceError
from vplface.footprint import operation_counter
from vplface.progress import progress
from vplface.softmax.product import product

USUAL = "as usual"
"""Float32 and NCHW throughout; PIL and a DataLoader over a folder; all logits, by autograd; torch's SGD."""

PARTS = ("load", "input", "forward", "head", "backward", "update")
"""A step, in order: waiting for pictures, making them a network's input, the backbone, the head forward and backward
(with the update of W where it takes place inside), backward through the backbone, what is left to be updated."""

CHECKED = {"float32": 3, "bfloat16": 1}
"""Steps whose losses are compared. Rounding to bfloat16 grows from one to the next."""

TOLERANCE = {"float32": 1e-3, "bfloat16": 2e-2}
"""Largest difference from the losses of the usual loop, relative to the first loss."""

PICTURES = 2048
PEAK_SIZE = {"cpu": 2048}
"""Rows and columns of the matrices whose product measures the peak speed, by kind of device."""
LARGE_PEAK_SIZE = 8192
"""The same for all other devices, which need more work to be saturated."""

Lap = Callable[[str], None]
"""Called at the end of each part, with its name."""


@dataclass
class Loop:
    """A training loop.

    Attributes:
        pictures: batches as they are loaded.
        prepare: from those to a network's input.
        network: the backbone.
        head: from embeddings and labels to the loss.
        optimizers: of both.
        problem: where it runs, and in which precision.
        labels: one batch of class ids after the other, the same in all loops.
    """

    pictures: Iterator[Tensor]
    prepare: Callable[[Tensor], Tensor]
    network: Callable[[Tensor], Tensor]
    head: Callable[[Tensor, Tensor], Tensor]
    optimizers: Sequence[torch.optim.Optimizer]
    problem: Problem
    labels: Iterator[Tensor]

    def step(self, lap: Lap) -> float:
        """Load a batch and learn from it."""
        pictures = next(self.pictures)
        lap("load")
        inputs = self.prepare(pictures)
        lap("input")
        return self.learn(inputs, lap)

    def learn(self, inputs: Tensor, lap: Lap = lambda part: None) -> float:
        """Forward, backward and update. The backward pass is cut in two at the embeddings, to time its halves."""
        labels = next(self.labels)
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        with self.problem.autocast():
            embeddings = self.network(inputs)
        lap("forward")
        leaf = embeddings.detach().requires_grad_()
        with self.problem.autocast():
            loss = self.head(leaf, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        lap("head")
        embeddings.backward(leaf.grad)  # type: ignore[no-untyped-call]
        lap("backward")
        for optimizer in self.optimizers:
            optimizer.step()
        lap("update")
        return float(loss.detach())


def measure(
    setting: Setting, backbone: str, dtypes: Sequence[str], repeats: int, *, compiled: bool = False, workers: int = 0
) -> dict[str, Any]:
    """Time whole steps, medians over ``repeats`` rounds in which every loop takes one.

    Args:
        setting: the size of a step, and where it runs; of the usual loop, in float32.
        backbone: a key of ``BACKBONES``.
        dtypes: precisions in which vplface takes the step: ``"float32"``, ``"bfloat16"``.
        repeats: rounds, after one that is not counted.
        compiled: vplface's network is compiled by torch.compile.
        workers: processes that load pictures for vplface's loops in a last measurement; 0 leaves it out.

    Returns:
        The setting; ``parameters`` of the backbone; ``flops`` of a step, two a multiply-add; ``peak``: flops a second
        of a large matrix product in each precision; ``arms``: of each its ``seconds`` (median) and ``spread`` (least
        and most), ``pictures_per_second``, ``speedup`` over the usual loop (median of ratios within rounds), ``parts``
        (median seconds of each), ``of_peak``: its flops a second over the peak, ``losses`` of its first steps, and
        ``streamed``, see ``streaming.streamed``.

    Raises:
        ConfigError: if there is no such backbone.
        VplfaceError: if the losses of vplface differ from those of the usual loop.
    """
    torch.manual_seed(0)
    network, problem = build(backbone, setting.dim).to(setting.device), problem_of(setting)
    precisions = dict(zip((USUAL, *(f"vplface, {dtype}" for dtype in dtypes)), ("float32", *dtypes), strict=True))
    steps = repeats + 1
    with tempfile.TemporaryDirectory(prefix="vplface-bench-") as name:
        folder, records = _faces(Path(name))
        loops = {}
        for arm, dtype in precisions.items():
            given = replace(problem, setting=replace(setting, dtype=dtype))  # type: ignore[arg-type]  # a type's name
            if arm == USUAL:
                loops[arm] = _usual(folder, copy.deepcopy(network), given, steps)
            else:
                loops[arm] = _ours(records, copy.deepcopy(network), given, steps, compiled)
        losses = _losses(loops, setting)
        _require_equal(losses, precisions)
        rounds, products = _rounds(loops, precisions, repeats, setting, backbone)
        parts = {
            arm: {part: statistics.median(each[part] for each in rounds[arm][1:]) for part in PARTS} for arm in loops
        }
        with_workers = {
            arm: streamed(loop, records, parts[arm], workers, f"{backbone}, {arm}")
            for arm, loop in loops.items()
            if workers and arm != USUAL
        }
    flops = _flops(network, setting)
    peak = {dtype: 2 * _peak_size(setting) ** 3 / statistics.median(seconds[1:]) for dtype, seconds in products.items()}
    arms = {}
    for arm, dtype in precisions.items():
        seconds, usual = (np.array([sum(parts.values()) for parts in rounds[each][1:]]) for each in (arm, USUAL))
        median = float(np.median(seconds))
        arms[arm] = {
            "seconds": median,
            "spread": [float(seconds.min()), float(seconds.max())],
            "pictures_per_second": setting.batch / median,
            "speedup": float(np.median(usual / seconds)),
            "parts": parts[arm],
            "of_peak": flops / median / peak[dtype],
            "losses": losses[arm],
        }
        if arm in with_workers:
            arms[arm]["streamed"] = with_workers[arm]
    return {
        "backbone": backbone,
        **{key: value for key, value in asdict(setting).items() if key != "dtype"},
        "compiled": compiled,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "flops": flops,
        "peak": peak,
        "arms": arms,
    }


def _faces(root: Path) -> tuple[ImageFolder, RecordIO]:
    """The same generated faces as a folder and as records."""
    folder = generated_faces(root / "faces", PICTURES)
    with RecordIOWriter(root / "train.rec", folder.identities) as records:
        for index, label in enumerate(folder.labels.tolist()):
            records.add(folder.encoded(index), f"{index}.jpg", label)
    return folder, RecordIO(root / "train.rec")


def _usual(folder: ImageFolder, network: Module, problem: Problem, steps: int) -> Loop:
    setting = problem.setting
    dataset = UsualFolder(folder)
    order = RandomSampler(dataset, replacement=True, num_samples=steps * setting.batch)
    head = EagerHead(problem)
    optimizer = torch.optim.SGD(
        [
            {"params": list(network.parameters()), "lr": BACKBONE_LR},
            {"params": [head.weight], "lr": LR},
        ],
        momentum=MOMENTUM,
        weight_decay=WEIGHT_DECAY,
    )
    return Loop(
        (pictures for pictures, _ in DataLoader(dataset, setting.batch, sampler=order)),
        lambda pictures: pictures.to(setting.device),
        network,
        head,
        [optimizer],
        problem,
        _labels(setting),
    )


def _ours(
    records: RecordIO,
    network: Module,
    problem: Problem,
    steps: int,
    compiled: bool,
) -> Loop:
    setting, preprocessing = problem.setting, Preprocessing()
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's
    head = head_of(problem)
    optimizer = torch.optim.SGD(network.parameters(), BACKBONE_LR, MOMENTUM, weight_decay=WEIGHT_DECAY)
    batches = ShuffledBatches(len(records), setting.batch, seed=0)
    loaded = load_batches(records, batches, Augmentation(), 0, 0, steps, 0)
    return Loop(
        (batch.pictures for batch in loaded),
        lambda pictures: preprocessing(pictures.to(setting.device, non_blocking=True)),
        torch.compile(network) if compiled else network,
        head,
        [optimizer, *([head.optimizer] if head.optimizer is not None else [])],
        problem,
        _labels(setting),
    )


def _labels(setting: Setting) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    while True:
        yield torch.randint(setting.classes, (setting.batch,), generator=generator).to(setting.device)


def _losses(loops: Mapping[str, Loop], setting: Setting) -> dict[str, list[float]]:
    """Losses of the first steps, which all loops take with the same pictures."""
    found: dict[str, list[float]] = {}
    for arm, loop in loops.items():
        generator = torch.Generator().manual_seed(0)
        found[arm] = []
        for _ in range(max(CHECKED.values())):
            pictures = torch.randint(256, (setting.batch, SIZE, SIZE, 3), dtype=torch.uint8, generator=generator)
            inputs = Preprocessing()(pictures.to(setting.device))
            found[arm].append(loop.learn(inputs.contiguous() if arm == USUAL else inputs))
    return found


def _require_equal(losses: Mapping[str, Sequence[float]], precisions: Mapping[str, str]) -> None:
    for arm, dtype in precisions.items():
        pairs = list(zip(losses[arm], losses[USUAL], strict=True))[: CHECKED[dtype]]
        for step, (loss, usual) in enumerate(pairs, start=1):
            if not math.isclose(loss, usual, rel_tol=0.0, abs_tol=TOLERANCE[dtype] * abs(losses[USUAL][0])):
                raise VplfaceError(
                    f"{arm} has a loss of {loss} in step {step}, the usual loop has {usual}: they do not do the"
                    " same work"
                )


def _rounds(
    loops: Mapping[str, Loop], precisions: Mapping[str, str], repeats: int, setting: Setting, title: str
) -> tuple[dict[str, list[dict[str, float]]], dict[str, list[float]]]:
    """Seconds of every part, and of the product in each precision, round by round."""
    rounds: dict[str, list[dict[str, float]]] = {arm: [] for arm in loops}
    products: dict[str, list[float]] = {dtype: [] for dtype in precisions.values()}
    size = _peak_size(setting)
    operands = {dtype: torch.randn(size, size, device=setting.device).to(getattr(torch, dtype)) for dtype in products}
    with progress(title, (repeats + 1) * len(loops)) as advance:
        for _ in range(repeats + 1):
            for arm, loop in loops.items():
                rounds[arm].append(_timed(loop, setting.device))
                advance(1, arm)
            for dtype, operand in operands.items():
                synchronize(setting.device)
                began = time.perf_counter()
                product(operand, operand)
                synchronize(setting.device)
                products[dtype].append(time.perf_counter() - began)
    return rounds, products


def _peak_size(setting: Setting) -> int:
    return PEAK_SIZE.get(torch.device(setting.device).type, LARGE_PEAK_SIZE)


def _timed(loop: Loop, device: str) -> dict[str, float]:
    parts: dict[str, float] = {}
    synchronize(device)
    last = time.perf_counter()

    def lap(part: str) -> None:
        nonlocal last
        synchronize(device)
        now = time.perf_counter()
        parts[part], last = now - last, now

    loop.step(lap)
    return parts


def _flops(network: Module, setting: Setting) -> int:
    """Operations of a step: backbone forward and backward, counted on two pictures, and three products of the head."""
    pictures = torch.zeros(2, 3, SIZE, SIZE, device=setting.device)
    with operation_counter() as counter:
        network(pictures).sum().backward()
    return int(counter.get_total_flops()) * setting.batch // 2 + 6 * setting.batch * setting.classes * setting.dim
