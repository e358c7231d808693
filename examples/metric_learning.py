"""Variational prototypes in pytorch-metric-learning: its ArcFaceLoss, its trainer, its way of making optimisers.

    python examples/metric_learning.py

The line that matters is marked. Needs ``vplface[train,metric-learning]``.
"""

from __future__ import annotations

import math
import warnings

import torch
from pytorch_metric_learning.losses import ArcFaceLoss
from pytorch_metric_learning.trainers import MetricLossOnly
from torch.utils.data import TensorDataset
from tqdm import tqdm

from vplface import ArcFace, PrototypeHead, Variational, plug
from vplface.backbones import build
from vplface.data.pictures import Preprocessing
from vplface_synthetic import SyntheticFaces

IDENTITIES, PICTURES, BATCH, STEPS = 24, 4, 24, 48
SCALE, MARGIN = 16, 11.5  # pytorch-metric-learning has its margins in degrees
VARIATIONAL = Variational(lam=0.15, delta_t=IDENTITIES * PICTURES // BATCH, start=20)
REMEMBERED = ("memory", "timer", "step_count")


def main() -> None:
    """Train for a moment, then compare the loss with that of ``PrototypeHead``."""
    warnings.filterwarnings("ignore", module="pytorch_metric_learning")
    torch.manual_seed(0)
    faces = SyntheticFaces(IDENTITIES, PICTURES, seed=0)
    pictures = torch.stack([torch.from_numpy(faces.picture(index)) for index in range(len(faces))])
    dataset = TensorDataset(Preprocessing()(pictures), torch.from_numpy(faces.labels))

    backbone = build("tiny", embedding_dim=64, width=8)
    loss_func = ArcFaceLoss(IDENTITIES, 64, margin=MARGIN, scale=SCALE)
    optimizers = {
        "trunk_optimizer": torch.optim.SGD(backbone.parameters(), lr=0.05, momentum=0.9),
        "metric_loss_optimizer": torch.optim.SGD(loss_func.parameters(), lr=0.05, momentum=0.9),
    }
    handle = plug(loss_func, "W", VARIATIONAL)  # this one

    def report(trainer: MetricLossOnly) -> None:
        if handle.step_count % 12 == 0:
            loss = float(trainer.losses["metric_loss"])
            tqdm.write(f"step {handle.step_count:3d}   loss {loss:6.3f}   coverage {handle.coverage():.0%}")

    trainer = MetricLossOnly(
        models={"trunk": backbone, "embedder": torch.nn.Identity()},
        optimizers=optimizers,
        batch_size=BATCH,
        loss_funcs={"metric_loss": loss_func},
        dataset=dataset,
        iterations_per_epoch=STEPS,
        dataloader_num_workers=0,
        data_device="cpu",
        end_of_iteration_hook=report,
    )
    trainer.train()

    assert handle.coverage() > 0, "no memory is alive: has the start been reached?"
    compare(loss_func, backbone(dataset.tensors[0][:BATCH]).detach(), dataset.tensors[1][:BATCH])


def compare(loss_func: ArcFaceLoss, embeddings: torch.Tensor, labels: torch.Tensor) -> None:
    """The same weights and the same memory in a ``PrototypeHead`` give the same loss."""
    head = PrototypeHead(IDENTITIES, 64, margin=ArcFace(SCALE, math.radians(MARGIN)), variational=VARIATIONAL)
    state = loss_func.state_dict()
    head.load_state_dict({"weight": state["W"].t()} | {name: state[f"W_{name}"] for name in REMEMBERED})
    ours, theirs = head(embeddings, labels).item(), loss_func(embeddings, labels).item()
    plain = loss_func.eval()(embeddings, labels).item()
    print(f"ArcFaceLoss, plugged {theirs:.5f}   PrototypeHead {ours:.5f}   without injection {plain:.5f}")
    assert math.isclose(ours, theirs, rel_tol=1e-4)
    assert not math.isclose(plain, theirs, rel_tol=1e-2)


if __name__ == "__main__":
    main()
