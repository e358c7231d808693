"""Classes of two pictures: a loss of nothing while the two pictures of a person lie far apart, and what VPL changes.

Left above: a prototype midway between two pictures with x1·x2 = c has cos θ = √((1+c)/2) with both. The loss that this
leaves is a formula, and at c = 0, two pictures as unlike as strangers, it is nearly nothing. With variational
prototypes the prototype of one picture is drawn towards the other, and the same c costs something again.

The rest is measured: a small network is trained on 300 generated people of two pictures each, plain, with two strengths
λ, and with a control in which a class remembers the picture of another (right λ, wrong memory). All arms share the seed
and are one run until the injection starts. Held-out pairs are two pictures each of 300 people never trained on.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from figure import CONTROL, INK, PLAIN, SOFT, STRONG, VPL, options, present
from jaxtyping import Float
from matplotlib.figure import Figure
from small_network import BATCH, Faces, embed, generate, train
from torch import Tensor
from torch.nn.functional import normalize

from vplface import ArcFace, NormSoftmax, PrototypeHead, Variational
from vplface.backbones import build
from vplface.margins import Margin
from vplface.training.schedules import LearningRate

PEOPLE, STRANGERS, DIM, STEPS, POINTS = 300, 300, 64, 200, 14
MARGIN = ArcFace(64.0, 0.5)
FORMULA_CLASSES, FORMULA_DIM = 100_000, 512
FORMULAE: tuple[tuple[str, Margin, float], ...] = (
    ("no margin", NormSoftmax(64.0), 0.0),
    ("ArcFace, m = 0.5", MARGIN, 0.0),
    ("ArcFace, VPL λ = 0.15", MARGIN, 0.15),
)
ARMS: dict[str, tuple[float, bool]] = {
    "plain": (0.0, False),
    "VPL, λ = 0.15": (0.15, False),
    "VPL, λ = 0.3": (0.3, False),
    "wrong memory, λ = 0.15": (0.15, True),
}
COLOURS = dict(zip(ARMS, (PLAIN, VPL, STRONG, CONTROL), strict=True))
LINES = dict(zip(ARMS, ("-", "-", "-", "--"), strict=True))


def cosine_of_prototype(pair: Float[Tensor, "*shape"], lam: float = 0.0) -> Float[Tensor, "*shape"]:
    """Cosine of a picture with its class, whose prototype v is midway between two pictures with x1·x2 = ``pair``.

    cos θ = √((1+c)/2); with the memory M of the other picture, u = (1−λ)v + λM of length ‖Z‖, it is
    ((1−λ)cos θ + λc)/‖Z‖, with ‖Z‖² = (1−λ)² + λ² + 2λ(1−λ)cos θ.
    """
    cosine = ((1 + pair) / 2).sqrt()
    length = ((1 - lam) ** 2 + lam**2 + 2 * lam * (1 - lam) * cosine).sqrt()
    return ((1 - lam) * cosine + lam * pair) / length


def loss_of_pair(
    pair: Float[Tensor, "*shape"], margin: Margin, classes: int, lam: float = 0.0, dim: int | None = None
) -> Float[Tensor, "*shape"]:
    """The loss log(1 + (N−1)·E·exp(−s·target)), where E is the mean of exp(s cos θ_j) over the other classes.

    E = 1 with the others at right angles, the least there is while their mean cosine is 0; exp(s²/2d) with the others
    in random directions of d dimensions (cos θ_j nearly normal, of variance 1/d).
    """
    others = math.log(classes - 1) + (0.0 if dim is None else margin.scale**2 / (2 * dim))
    target = margin.target(cosine_of_prototype(pair, lam).flatten()).reshape(pair.shape)
    return torch.nn.functional.softplus(others - margin.scale * target)


def follow(trained: Faces, held_out: Faces, lam: float, another: bool, steps: int, seed: int, name: str) -> Any:
    """One run: loss and cosines of pairs at ``POINTS`` moments, and the held-out cosines at the end."""
    torch.manual_seed(seed)
    backbone = build("tiny", DIM, width=8)
    variational = Variational(lam, delta_t=len(trained.labels) // BATCH + 1, start=steps // 3) if lam else None
    head = PrototypeHead(PEOPLE, DIM, margin=MARGIN, variational=variational, seed=seed)
    schedule = LearningRate("cosine", steps, warmup=steps // 20)
    every, losses, curves, pairs = max(steps // POINTS, 1), [], [], None
    for step in train(backbone, head, trained, schedule, seed, name=name, remember_another=another):
        losses.append(step.loss)
        if (step.number + 1) % every and step.number + 1 < steps:
            continue
        first, second = embed(backbone, trained).unflatten(0, (-1, 2)).unbind(1)
        prototypes, middle = normalize(head.weight.detach(), dim=1), normalize(first + second, dim=1)
        unseen, other = embed(backbone, held_out).unflatten(0, (-1, 2)).unbind(1)
        pairs = unseen @ other.T
        curves.append(
            {
                "step": step.number + 1,
                "loss": float(np.mean(losses)),
                "sample_prototype": _mean(first, prototypes) / 2 + _mean(second, prototypes) / 2,
                "training_pair": _mean(first, second),
                "prototype_middle": _mean(prototypes, middle),
                "held_out_pair": float(pairs.diagonal().mean()),
                "strangers": float((pairs.sum() - pairs.trace()) / (pairs.numel() - len(pairs))),
            }
        )
        losses = []
    assert pairs is not None
    return {
        "curves": {key: [point[key] for point in curves] for key in curves[0]},
        "held_out": pairs.diagonal().tolist(),
        "tar@far=1e-2": _accepted(pairs),
    }


def _mean(left: Tensor, right: Tensor) -> float:
    return float((left * right).sum(dim=1).mean())


def _accepted(pairs: Float[Tensor, "n n"]) -> float:
    """The share of a person's own pairs above the threshold that 1 % of strangers' pairs pass."""
    strangers = pairs[~torch.eye(len(pairs), dtype=torch.bool)]
    return float((pairs.diagonal() > strangers.quantile(0.99)).float().mean())


def interval(difference: Float[np.ndarray, " people"], seed: int) -> tuple[float, float]:
    """95 % interval of a mean, by bootstrap over people."""
    rows = np.random.default_rng(seed).integers(0, len(difference), (2000, len(difference)))
    low, high = np.quantile(difference[rows].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def main(argv: list[str] | None = None) -> None:
    """Compute, print and draw."""
    asked = options(__doc__ or "", STEPS, argv)
    torch.set_num_threads(1)
    none = torch.zeros((), dtype=torch.float64)
    formula = {
        name: [float(loss_of_pair(none, margin, FORMULA_CLASSES, lam, dim)) for dim in (None, FORMULA_DIM)]
        for name, margin, lam in FORMULAE
    }
    trained = generate(PEOPLE, 2, asked.seed)
    held_out = generate(STRANGERS, 2, asked.seed, first=100_000)
    arms = {
        name: follow(trained, held_out, lam, another, asked.steps, asked.seed, name)
        for name, (lam, another) in ARMS.items()
    }
    for arm in arms.values():
        difference = np.subtract(arm["held_out"], arms["plain"]["held_out"])
        arm["held_out_minus_plain"] = [float(difference.mean()), *interval(difference, asked.seed)]
    numbers = {"loss_at_right_angles": formula, "arms": arms}
    present(asked, numbers, _table(formula, arms), lambda figure: _draw(figure, arms))


def _table(formula: dict[str, list[float]], arms: dict[str, Any]) -> str:
    columns = {"loss": 8, "cos θ": 8, "v·middle": 10, "x1·x2": 8, "held out": 10, "strangers": 11, "TAR@1e-2": 10}
    heading = "After training".ljust(25) + "".join(f"{name:>{width}}" for name, width in columns.items())
    lines = [
        f"Loss of two pictures at a right angle, prototype midway, s = 64, N = {FORMULA_CLASSES:,}; the other classes",
        f"{'':25}{'at right angles':>17}{f'random, d = {FORMULA_DIM}':>18}",
        *(f"{name:25}{least:17.2g}{random:18.2g}" for name, (least, random) in formula.items()),
        "",
        f"{heading}   held out − plain",
    ]
    for name, arm in arms.items():
        end = {key: values[-1] for key, values in arm["curves"].items()}
        mean, low, high = arm["held_out_minus_plain"]
        lines.append(
            f"{name:25}{end['loss']:8.4f}{end['sample_prototype']:8.3f}{end['prototype_middle']:10.3f}"
            f"{end['training_pair']:8.3f}{end['held_out_pair']:10.3f}{end['strangers']:11.3f}"
            f"{arm['tar@far=1e-2']:10.3f}"
            + ("" if arm is arms["plain"] else f"   {mean:+.3f} ({low:+.3f} – {high:+.3f})")
        )
    return "\n".join(lines)


def _draw(figure: Figure, arms: dict[str, Any]) -> None:
    figure.set_size_inches(9.2, 7.4)
    grid = figure.subplot_mosaic(
        [["formula", "loss"], ["plain", "trained"], ["plain", "held out"]], height_ratios=[2, 1, 1]
    )
    plain = arms["plain"]["curves"]
    start = plain["step"][-1] // 3

    axis = grid["formula"]
    pair = torch.linspace(-0.6, 1.0, 321, dtype=torch.float64)
    for (name, margin, lam), colour in zip(FORMULAE, (SOFT, PLAIN, VPL), strict=True):
        axis.plot(pair, loss_of_pair(pair, margin, FORMULA_CLASSES, lam), color=colour, label=name)
        random = loss_of_pair(pair, margin, FORMULA_CLASSES, lam, FORMULA_DIM)
        axis.plot(pair, random, color=colour, linestyle=":", linewidth=1.4)
    axis.axvline(0, color=SOFT, linewidth=0.8)
    axis.set(yscale="log", ylim=(1e-16, 1e6), xlim=(-0.6, 1.0))
    axis.set_xlabel("c = x₁·x₂, cosine of a person's two pictures")
    axis.set_ylabel("loss")
    axis.set_title(
        "Formula: what a pair costs, prototype midway,\ns = 64, N = 100,000 (dotted: others random, d = 512)"
    )
    axis.legend(loc="upper right")

    axis = grid["loss"]
    for name, arm in arms.items():
        axis.plot(arm["curves"]["step"], arm["curves"]["loss"], color=COLOURS[name], linestyle=LINES[name], label=name)
    axis.set(yscale="log", ylabel="training loss", xlabel="step")
    axis.set_ylim(top=2e3)
    axis.set_title(f"Measured: {PEOPLE} classes of two pictures,\nwith the injection from the vertical line on")
    axis.legend(loc="upper right")

    axis = grid["plain"]
    axis.plot(
        plain["step"], plain["prototype_middle"], color=INK, linestyle="--", label="prototype · middle of the pair"
    )
    axis.plot(plain["step"], plain["sample_prototype"], color=PLAIN, label="picture · prototype, cos θ")
    axis.plot(plain["step"], plain["training_pair"], color=VPL, label="picture · picture, x₁·x₂")
    expected = np.sqrt((1 + np.array(plain["training_pair"])) / 2)
    axis.plot(plain["step"], expected, color=SOFT, linestyle=":", label="√((1 + x₁·x₂)/2)")
    axis.set(ylim=(0, 1.02), ylabel="mean cosine", xlabel="step")
    axis.set_title("Plain: cosines of training pictures with their\nprototype and with each other")
    axis.legend(loc="lower right")

    for panel, key, title in (
        ("trained", "training_pair", "x₁·x₂ on training pairs"),
        ("held out", "held_out_pair", "x₁·x₂ on people never seen (dotted: strangers)"),
    ):
        axis = grid[panel]
        for name, arm in arms.items():
            axis.plot(arm["curves"]["step"], arm["curves"][key], color=COLOURS[name], linestyle=LINES[name])
        axis.set_title(title)
        axis.set_ylabel("mean cosine")
    grid["held out"].plot(plain["step"], plain["strangers"], color=SOFT, linestyle=":")
    grid["held out"].set_xlabel("step")
    for panel in ("loss", "trained", "held out"):
        grid[panel].axvline(start, color=SOFT, linewidth=0.8)


if __name__ == "__main__":
    main()
