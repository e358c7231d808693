"""A class as a point and as a distribution, on the sphere of a three-dimensional embedding.

A very small network with embeddings of three dimensions is trained on six generated people, with VPL in the second half
of the run. Drawn is the end of training: each picture (dot) beside its prototype v (disc), to which alone a plain
softmax compares it; then what VPL compares it with, the prototypes u (stars) of the last steps, each drawn towards the
feature M (ring) that the class remembered at the time; and one class close up, unrolled around its prototype.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from figure import HUES, INK, SOFT, options, present
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from small_network import embed, generate, train
from torch.nn.functional import normalize

from vplface import ArcFace, PrototypeHead, Variational
from vplface.backbones import build
from vplface.report.record import Sphere
from vplface.report.sphere import geodesic, unrolled, viewpoint
from vplface.training.schedules import LearningRate

PEOPLE, EACH, STEPS, LAM, LAST = 6, 30, 240, 0.3, 8


class Seen(NamedTuple):
    """The end of training: memories and prototypes of the last steps, oldest first, and where all pictures lie."""

    features: Float[np.ndarray, "n 3"]
    labels: Int[np.ndarray, " n"]
    prototypes: Float[np.ndarray, "classes 3"]
    memories: Float[np.ndarray, "steps classes 3"]
    drawn: Float[np.ndarray, "steps classes 3"]
    timer: Int[np.ndarray, " classes"]


def watch(steps: int, seed: int) -> Seen:
    """Train; M and u of the last steps."""
    torch.manual_seed(seed)
    faces = generate(PEOPLE, EACH, seed)
    backbone = build("tiny", 3, width=8)
    head = PrototypeHead(PEOPLE, 3, margin=ArcFace(16.0, 0.2), variational=Variational(LAM, 30, steps // 2), seed=seed)
    schedule = LearningRate("cosine", steps, warmup=steps // 20)
    memories, drawn = [], []
    for step in train(backbone, head, faces, schedule, seed, name="sphere", rate=0.05):
        if step.number >= steps - LAST:
            drawn.append(head.variational_prototypes().detach())
            assert head.memory is not None
            memories.append(head.memory.clone())
    assert head.timer is not None
    tensors = (
        embed(backbone, faces), faces.labels, normalize(head.weight.detach(), dim=1), torch.stack(memories),
        torch.stack(drawn), head.timer,
    )  # fmt: skip
    return Seen(*(tensor.numpy() for tensor in tensors))


def degrees(cosine: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Angles from cosines."""
    return np.rad2deg(np.arccos(np.clip(cosine, -1.0, 1.0)))


def main(argv: list[str] | None = None) -> None:
    """Compute, print and draw."""
    asked = options(__doc__ or "", STEPS, argv)
    torch.set_num_threads(1)
    seen = watch(asked.steps, asked.seed)
    own = seen.prototypes[seen.labels]
    angles = {
        "picture, own prototype v": float(degrees((seen.features * own).sum(axis=1)).mean()),
        "memory M, prototype v": float(degrees((seen.memories[-1] * seen.prototypes).sum(axis=1)).mean()),
        "drawn u, prototype v": float(degrees((seen.drawn[-1] * seen.prototypes).sum(axis=1)).mean()),
        "two u of a class, a step apart": float(degrees((seen.drawn[1:] * seen.drawn[:-1]).sum(axis=2)).mean()),
    }
    numbers = {"mean_angle_degrees": angles, **{name: part.tolist() for name, part in seen._asdict().items()}}
    text = "\n".join(["Mean angle between", *(f"  {name:32}{angle:6.1f}°" for name, angle in angles.items())])
    present(asked, numbers, text, lambda figure: _draw(figure, seen))


def _draw(figure: Figure, seen: Seen) -> None:
    figure.set_size_inches(9.6, 4.1)
    point, distribution, close = figure.subplots(1, 3)
    view = viewpoint(
        Sphere(seen.features, seen.labels, seen.prototypes, seen.memories[-1], seen.timer, seen.drawn[-1], LAM)
    )
    for axis in (point, distribution):
        _globe(axis, view)
        for label in range(PEOPLE):
            _dots(axis, seen.features[seen.labels == label] @ view.T, HUES[label])
    for label, prototype in enumerate(seen.prototypes):
        colour = HUES[label]
        for feature in seen.features[(seen.labels == label) & (seen.features @ view[2] >= 0)]:
            _line(point, geodesic(feature, prototype, 6) @ view.T, colour, 0.5)
        _mark(point, prototype @ view.T, "o", 60, colour)
        for age, (memory, drawn) in enumerate(zip(seen.memories[::-1, label], seen.drawn[::-1, label], strict=True)):
            newest = age == 0
            if newest:
                _line(distribution, geodesic(prototype, memory, 12) @ view.T, colour, 1.2)
            _mark(distribution, memory @ view.T, "o", 50 if newest else 18, colour, hollow=True)
            _mark(distribution, drawn @ view.T, "*", 110 if newest else 32, colour)
        _mark(distribution, prototype @ view.T, "o", 26, colour)
    point.set_title("A class is a point", loc="center")
    distribution.set_title("A class is a distribution", loc="center")
    _close_up(close, seen)
    marks: list[Any] = [
        close.scatter([], [], marker=marker, s=size, facecolors=face, edgecolors=INK, linewidths=1.2, label=label)
        for marker, size, face, label in (
            (".", 22, INK, "picture x"), ("o", 30, INK, "prototype v"), ("o", 40, "none", "remembered M"),
            ("*", 80, INK, "drawn prototype u"),
        )
    ]  # fmt: skip
    figure.legend(handles=marks, loc="outside lower center", ncols=4)


def _globe(axis: Axes, view: Float[np.ndarray, "3 3"]) -> None:
    turn = np.linspace(0, 2 * np.pi, 97)
    axis.plot(np.cos(turn), np.sin(turn), color=SOFT, linewidth=1)
    for angle in np.deg2rad(np.arange(0, 180, 30)):
        circle = np.stack([np.cos(turn) * np.cos(angle), np.cos(turn) * np.sin(angle), np.sin(turn)], axis=1)
        _line(axis, circle @ view.T, SOFT, 0.3)
        level = angle - np.pi / 2
        around = np.stack([np.cos(turn), np.sin(turn), np.zeros_like(turn)], axis=1) * np.cos(level)
        _line(axis, (around + np.array([0.0, 0.0, np.sin(level)])) @ view.T, SOFT, 0.3)
    axis.set(xlim=(-1.06, 1.06), ylim=(-1.06, 1.06), aspect="equal")
    axis.axis("off")


def _line(axis: Axes, seen: Float[np.ndarray, "k 3"], colour: str, width: float) -> None:
    """The half of a line that faces us."""
    x, y = np.where(seen[:, 2] >= 0, seen[:, :2].T, np.nan)
    axis.plot(x, y, color=colour, linewidth=width, alpha=0.7)


def _dots(axis: Axes, seen: Float[np.ndarray, "k 3"], colour: str) -> None:
    front = seen[:, 2] >= 0
    axis.scatter(*seen[front, :2].T, s=7, color=colour, linewidths=0)


def _mark(
    axis: Axes, seen: Float[np.ndarray, " 3"], shape: str, size: float, colour: str, hollow: bool = False
) -> None:
    if seen[2] >= 0:
        face = "none" if hollow else colour
        axis.scatter(
            seen[0], seen[1], marker=shape, s=size, facecolors=face, edgecolors=colour, linewidths=1.4, zorder=3
        )


def _close_up(axis: Axes, seen: Seen) -> None:
    """The class whose memory lies farthest from its prototype, unrolled: angles and directions from v are true."""
    label = int(np.argmin((seen.memories[-1] * seen.prototypes).sum(axis=1)))
    colour, centre = HUES[label], seen.prototypes[label]
    flat = {
        name: np.rad2deg(unrolled(points, centre))
        for name, points in (
            ("own", seen.features[seen.labels == label]), ("memories", seen.memories[:, label]),
            ("drawn", seen.drawn[:, label]),
        )
    }  # fmt: skip
    everything = np.concatenate([*flat.values(), np.zeros((1, 2))])
    low, high = everything.min(axis=0), everything.max(axis=0)
    middle, reach = (low + high) / 2, 0.56 * (high - low).max()
    axis.scatter(*flat["own"].T, s=9, color=colour, linewidths=0)
    for memory in flat["memories"]:
        axis.plot([0, memory[0]], [0, memory[1]], color=colour, linewidth=0.7, alpha=0.6)
    for sizes, points, marker, face in (
        ((22, 55), flat["memories"], "o", "none"), ((45, 130), flat["drawn"], "*", colour),
    ):  # fmt: skip
        size = np.where(np.arange(len(points)) == len(points) - 1, sizes[1], sizes[0])
        axis.scatter(*points.T, s=size, marker=marker, facecolors=face, edgecolors=colour, linewidths=1.3, zorder=3)
    axis.scatter(0, 0, s=34, color=colour, zorder=4)
    (left, bottom), (right, top) = middle - reach, middle + reach
    axis.set(xlim=(left, right), ylim=(bottom, top), aspect="equal", xlabel="degrees from v")
    axis.set_title(f"One class, the last {len(flat['drawn'])} steps", loc="center")


if __name__ == "__main__":
    main()
