"""Feature drift over training: when does a remembered feature become trustworthy?

A small network is trained on 200 generated people of six pictures each. Every tenth step two training pictures of each
person are embedded, and compared with what the same network made of them `lag` steps before:

    d(lag) = mean ‖f_t(I) − f_{t−lag}(I)‖²        0 … 4; 2 is what two unrelated embeddings give

The yardstick is the distance between the two pictures of a person at that moment. A memory that has drifted less than
that says of its class what another picture of the person would say; one that has drifted more says what the network
used to think. Below: the learning rate, constant after a short warm-up and divided by ten at half and at four fifths
of the run, and where the usual rules put the start of the injection (a third to a half of the run).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from figure import HUES, INK, PLAIN, SOFT, VPL, options, present
from matplotlib.figure import Figure
from small_network import BATCH, Faces, embed, generate, train
from torch import Tensor

from vplface import ArcFace, PrototypeHead
from vplface.backbones import build
from vplface.data.augment import Augmentation
from vplface.training.schedules import LearningRate

PEOPLE, EACH, DIM, STEPS, EVERY = 200, 6, 64, 600, 10
EPOCH = PEOPLE * EACH // BATCH
LAGS = (10, 20, 50, 100, 200)
RATE, MARGIN = 0.1, ArcFace(32.0, 0.3)
AUGMENTATION = Augmentation(flip=0.5, shift=0.04, scale=0.06, rotate=6.0, light=0.2)


def drift(now: Tensor, before: Tensor) -> float:
    """Mean ‖now − before‖² over rows."""
    return float((now - before).square().sum(dim=1).mean())


def measure(steps: int, seed: int, augmentation: Augmentation | None) -> dict[str, Any]:
    """Train; d for every lag at every tenth step, None where the run is younger than the lag."""
    torch.manual_seed(seed)
    faces = generate(PEOPLE, EACH, seed)
    probe = Faces(*(part.unflatten(0, (-1, EACH))[:, :2].flatten(0, 1) for part in faces))
    backbone = build("tiny", DIM, width=8)
    head = PrototypeHead(PEOPLE, DIM, margin=MARGIN, seed=seed)
    schedule = LearningRate("step", steps, warmup=steps // 20, milestones=(steps // 2, steps * 4 // 5))
    seen: list[Tensor] = []
    curves: dict[str, list[Any]] = {"step": [], "loss": [], "rate": [], "person": [], **{str(lag): [] for lag in LAGS}}
    losses = []
    for step in train(backbone, head, faces, schedule, seed, name="drift", rate=RATE, augmentation=augmentation):
        losses.append(step.loss)
        if (step.number + 1) % EVERY:
            continue
        seen.append(embed(backbone, probe))
        first, second = seen[-1].unflatten(0, (-1, 2)).unbind(1)
        curves["step"].append(step.number + 1)
        curves["loss"].append(float(np.mean(losses)))
        curves["rate"].append(RATE * schedule.factor(step.number))
        curves["person"].append(drift(first, second))
        for lag in LAGS:
            back = lag // EVERY
            curves[str(lag)].append(drift(seen[-1], seen[-1 - back]) if len(seen) > back else None)
        losses = []
    return {"milestones": list(schedule.milestones), "epoch": EPOCH, "curves": curves}


def trustworthy_from(curves: dict[str, list[Any]], lag: int) -> int | None:
    """The step from which on d(lag) stays below the distance of two pictures of a person; None if it never does."""
    since = None
    for step, moved, person in zip(curves["step"], curves[str(lag)], curves["person"], strict=True):
        if moved is None or moved >= person:
            since = None
        elif since is None:
            since = step
    return since


def main(argv: list[str] | None = None) -> None:
    """Compute, print and draw."""
    asked = options(__doc__ or "", STEPS, argv, unaugmented="train on the pictures as they are")
    torch.set_num_threads(1)
    numbers = measure(asked.steps, asked.seed, None if asked.unaugmented else AUGMENTATION)
    numbers["trustworthy_from"] = {str(lag): trustworthy_from(numbers["curves"], lag) for lag in LAGS}
    present(asked, numbers, _table(numbers), lambda figure: _draw(figure, numbers))


def _table(numbers: dict[str, Any]) -> str:
    curves, steps = numbers["curves"], numbers["curves"]["step"]
    stages = [*numbers["milestones"], steps[-1]]
    moments = [max(index for index, step in enumerate(steps) if step <= stage) for stage in stages]
    lines = [
        f"{'at the end of the stage with rate':36}" + "".join(f"{curves['rate'][moment]:10.2g}" for moment in moments)
    ]
    for lag in LAGS:
        said = "".join("       n/a" if curves[str(lag)][k] is None else f"{curves[str(lag)][k]:10.4f}" for k in moments)
        since = numbers["trustworthy_from"][str(lag)]
        lines.append(
            f"d({lag} steps)".ljust(36) + said + (f"   below the yardstick from step {since}" if since else "")
        )
    lines.append(
        f"{'two pictures of a person, yardstick':36}" + "".join(f"{curves['person'][k]:10.4f}" for k in moments)
    )
    return "\n".join([*lines, f"An epoch is {numbers['epoch']} steps."])


def _draw(figure: Figure, numbers: dict[str, Any]) -> None:
    figure.set_size_inches(9.2, 6.2)
    curves = numbers["curves"]
    steps = curves["step"]
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3.4, 1])
    shades = (HUES[0], PLAIN, HUES[4], HUES[3], VPL)
    for lag, colour in zip(LAGS, shades, strict=True):
        moved = [np.nan if value is None else value for value in curves[str(lag)]]
        label = f"lag {lag} steps" + (" (about an epoch)" if abs(lag - numbers["epoch"]) <= EVERY // 2 else "")
        above.plot(steps, moved, color=colour, label=label)
    above.plot(steps, curves["person"], color=INK, linestyle="--", label="two pictures of a person")
    above.set(yscale="log", ylabel="mean squared distance, 0 … 4")
    above.set_title("Feature drift: how far the embedding of the same picture has moved in a number of steps (lag)")
    below.plot(steps, curves["rate"], color=SOFT)
    below.set(yscale="log", ylabel="learning rate", xlabel="step", xlim=(0, steps[-1]))
    for axis in (above, below):
        axis.axvspan(steps[-1] / 3, steps[-1] / 2, color=SOFT, alpha=0.16, linewidth=0)
    middle = steps[-1] * 5 / 12
    below.text(middle, curves["rate"][-1] * 1.5, "usual start", ha="center", va="bottom", fontsize=9)
    figure.legend(*above.get_legend_handles_labels(), loc="outside lower center", ncols=3)


if __name__ == "__main__":
    main()
