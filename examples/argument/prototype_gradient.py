"""What a prototype's gradient is made of: features absorbed and eliminated, for shallow and deep classes.

The gradient of class j with respect to the prototype u_j that a step compares with is a weighted sum of features x_i:

    dL/du_j = s/B · ( Σ_{y_i≠j} p_ij·x_i  −  Σ_{y_i=j} (1 − p_iy)·t'(cos θ_i)·x_i )

p the softmax, t the margin. A class absorbs its own pictures with weight (1 − p)·t', and eliminates others' with p. The
command measures both weights in the steps of real training, plain and with VPL, on 40 people of 20 pictures and 240 of
two, and checks the sum against autograd's gradient of W.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from figure import PLAIN, SOFT, VPL, options, present
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from small_network import BATCH, generate, train
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from vplface import ArcFace, PrototypeHead, Variational
from vplface.backbones import build
from vplface.margins import Margin
from vplface.training.schedules import LearningRate

DEEP, DEEP_EACH, SHALLOW, SHALLOW_EACH, DIM, STEPS, STAGES = 40, 20, 240, 2, 64, 400, 16
MARGIN, LAM = ArcFace(64.0, 0.5), 0.15
ARMS = {"plain": PLAIN, "VPL, λ = 0.15": VPL}
KINDS = {
    "shallow": f"{SHALLOW} shallow classes, {SHALLOW_EACH} pictures",
    "deep": f"{DEEP} deep classes, {DEEP_EACH} pictures",
}
QUANTILES = (0.1, 0.5, 0.9)


class Weights(NamedTuple):
    """Weights of features in the gradients of prototypes."""

    absorb: Float[Tensor, " batch"]  # (1 − p_iy)·t'(cos θ_i), of each sample in its own class
    eliminate: Float[Tensor, "batch classes"]  # p_ij, 0 in its own class


def weights(
    features: Float[Tensor, "batch dim"],
    labels: Int[Tensor, " batch"],
    prototypes: Float[Tensor, "classes dim"],
    margin: Margin,
) -> Weights:
    """The weights of unit features x in the gradients of unit prototypes u."""
    own = one_hot(labels, len(prototypes)).bool()
    cosine = features @ prototypes.T
    with torch.enable_grad():
        on_target = cosine[own].detach().requires_grad_()
        target = margin.target(on_target)
        (slope,) = torch.autograd.grad(target.sum(), on_target)
    share = (margin.scale * cosine.masked_scatter(own, target.detach())).softmax(dim=1)
    # 1 − p_y is the sum of the others: the difference would lose what is left of it when p_y is nearly 1.
    others = share.masked_fill(own, 0.0)
    return Weights(others.sum(dim=1) * slope, others)


def gradient_of_weight(
    features: Float[Tensor, "batch dim"], labels: Int[Tensor, " batch"], head: PrototypeHead
) -> Float[Tensor, "classes dim"]:
    """dL/dW of the step to come, from the weighted sums of features alone.

    With g = dL/du as above and Z = (1−λ)v + λM where a memory is alive (else u = v = Z): dL/dv = (1−λ)(g − (g·u)u)/‖Z‖,
    dL/dW = (dL/dv − (dL/dv·v)v)/‖W‖.
    """
    drawn, plain = head.variational_prototypes().detach(), normalize(head.weight.detach(), dim=1)
    absorb, eliminate = weights(features, labels, drawn, head.margin)
    signed = eliminate - one_hot(labels, len(drawn)) * absorb.unsqueeze(1)
    gradient = head.margin.scale / len(labels) * signed.T @ features
    if head.variational is not None and head.memory is not None and head.timer is not None:
        lam, alive = head.variational.lam, (head.timer > 0).unsqueeze(1)
        length = ((1 - lam) * plain + lam * head.memory).norm(dim=1, keepdim=True)
        through = (1 - lam) / length * (gradient - (gradient * drawn).sum(dim=1, keepdim=True) * drawn)
        gradient = torch.where(alive, through, gradient)
    tangent = gradient - (gradient * plain).sum(dim=1, keepdim=True) * plain
    return tangent / head.weight.detach().norm(dim=1, keepdim=True)


def disagreement(features: Tensor, labels: Tensor, head: PrototypeHead) -> float:
    """Largest difference of the weighted sums from autograd's gradient of W, in shares of its largest entry."""
    expected = gradient_of_weight(features, labels, head)
    head.weight.grad = None
    head(features, labels).backward()
    assert head.weight.grad is not None
    return float((head.weight.grad - expected).abs().max() / head.weight.grad.abs().max())


def measure(steps: int, seed: int) -> dict[str, Any]:
    """Train both arms; quantiles of the weights by stage, and the check at the end of the run."""
    faces = generate(DEEP, DEEP_EACH, seed) + generate(SHALLOW, SHALLOW_EACH, seed, first=100_000)
    people = DEEP + SHALLOW
    deep = torch.arange(people) < DEEP
    edges = np.linspace(0, steps, min(STAGES, steps // 4) + 1).round().astype(int)
    arms: dict[str, Any] = {}
    for name in ARMS:
        torch.manual_seed(seed)
        backbone = build("tiny", DIM, width=8)
        variational = Variational(LAM, delta_t=len(faces.labels) // BATCH + 1, start=steps // 3)
        head = PrototypeHead(
            people, DIM, margin=MARGIN, variational=None if name == "plain" else variational, seed=seed
        )
        schedule = LearningRate("cosine", steps, warmup=steps // 20)
        drawn = head.variational_prototypes().detach()
        curves: dict[str, list[list[float]]] = {
            f"{what} {kind}": [] for what in ("absorb", "eliminate") for kind in KINDS
        }
        absorbed: dict[str, list[Tensor]] = {kind: [] for kind in KINDS}
        eliminated = torch.zeros(people)
        losses: list[float] = []
        since = 0
        for step in train(backbone, head, faces, schedule, seed, name=name):
            absorb, eliminate = weights(step.features, step.labels, drawn, MARGIN)
            drawn = head.variational_prototypes().detach()
            absorbed["deep"].append(absorb[deep[step.labels]])
            absorbed["shallow"].append(absorb[~deep[step.labels]])
            eliminated += eliminate.sum(dim=0)
            losses.append(step.loss)
            if step.number + 1 not in edges:
                continue
            mean = eliminated / (step.number + 1 - since)
            for kind, members in (("deep", deep), ("shallow", ~deep)):
                curves[f"absorb {kind}"].append(_quantiles(torch.cat(absorbed[kind])))
                curves[f"eliminate {kind}"].append(_quantiles(mean[members]))
            absorbed, eliminated, since = {kind: [] for kind in KINDS}, torch.zeros(people), step.number + 1
        check = disagreement(step.features, step.labels, head)
        arms[name] = {"curves": curves, "disagreement": check, "last_loss": float(np.mean(losses[-20:]))}
    return {"stage_ends": edges[1:].tolist(), "start": steps // 3, "arms": arms}


def _quantiles(values: Tensor) -> list[float]:
    return torch.quantile(values, torch.tensor(QUANTILES)).tolist()


def main(argv: list[str] | None = None) -> None:
    """Compute, print and draw."""
    asked = options(__doc__ or "", STEPS, argv)
    torch.set_num_threads(1)
    numbers = measure(asked.steps, asked.seed)
    present(asked, numbers, _table(numbers), lambda figure: _draw(figure, numbers))


def _table(numbers: dict[str, Any]) -> str:
    ends = numbers["stage_ends"]
    stages = [0, len(ends) * 3 // 8, len(ends) * 5 // 8, len(ends) - 1]
    lines = ["Median weight by the end of step" + "".join(f"{ends[stage]:>12}" for stage in stages)]
    for name, arm in numbers["arms"].items():
        for what, curve in arm["curves"].items():
            lines.append(f"{name:14} {what:17}" + "".join(f"{curve[stage][1]:12.2g}" for stage in stages))
        lines.append(f"{name:14} loss of the last steps {arm['last_loss']:.3g}")
        lines.append(
            f"{name:14} weighted sum − autograd's gradient of W {arm['disagreement']:.0e} of its largest entry"
        )
    return "\n".join(lines)


def _draw(figure: Figure, numbers: dict[str, Any]) -> None:
    figure.set_size_inches(9.2, 6.6)
    axes = figure.subplots(2, 2, sharex=True, sharey="row")
    ends = np.array(numbers["stage_ends"])
    middles = ends - np.diff(ends, prepend=0) / 2
    for row, (what, axis_label) in enumerate(
        (
            ("absorb", "absorbed: (1 − p)·t′\nof each own picture"),
            ("eliminate", "eliminated: Σ p\nover others' pictures, a step"),
        )
    ):
        for column, (kind, title) in enumerate(KINDS.items()):
            axis = axes[row, column]
            for name, colour in ARMS.items():
                low, median, high = np.maximum(np.array(numbers["arms"][name]["curves"][f"{what} {kind}"]).T, 1e-12)
                axis.plot(middles, median, color=colour, label=name)
                for bound in (low, high):
                    axis.plot(middles, bound, color=colour, linestyle=":", linewidth=1.1)
            axis.axvline(numbers["start"], color=SOFT, linewidth=0.8)
            axis.set_yscale("log")
            if row == 0:
                axis.set_title(title)
            else:
                axis.set_xlabel("step")
        axes[row, 0].set_ylabel(axis_label)
    axes[0, 0].annotate("injection\nstarts", (numbers["start"], 0.0), xycoords=("data", "axes fraction"),
        xytext=(-5, 5), textcoords="offset points", ha="right", fontsize=9,
    )  # fmt: skip
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    figure.suptitle(
        "Weights of features in the gradient of a prototype: median (dotted: 10 and 90 %)",
        x=0.01,
        ha="left",
        fontsize=11.5,
    )


if __name__ == "__main__":
    main()
