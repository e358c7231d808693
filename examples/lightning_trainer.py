"""Variational prototypes in Lightning: an ``nn.Linear`` as classifier, its trainer and its checkpoints.

    python examples/lightning_trainer.py

The two lines that matter are marked. Needs ``vplface[train,lightning]``.
"""

from __future__ import annotations

import logging
import math
import tempfile
import warnings
from pathlib import Path

import lightning
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, normalize
from torch.utils.data import DataLoader, TensorDataset

from vplface import NormSoftmax, PrototypeHead, Variational, plug
from vplface.backbones import build
from vplface.data.pictures import Preprocessing
from vplface_synthetic import SyntheticFaces

IDENTITIES, PICTURES, BATCH, EPOCHS, SCALE = 24, 4, 24, 12, 16.0
VARIATIONAL = Variational(lam=0.15, delta_t=IDENTITIES * PICTURES // BATCH, start=20)
REMEMBERED = ("memory", "timer", "step_count")


class Faces(lightning.LightningModule):
    """A softmax over cosines, as many a project has it."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = build("tiny", embedding_dim=64, width=8)
        self.classifier = nn.Linear(64, IDENTITIES, bias=False)
        self.plugged = plug(self.classifier, "weight", VARIATIONAL)  # one

    def loss(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy over s·cosθ."""
        cosines = linear(normalize(embeddings, dim=1), normalize(self.classifier.weight, dim=1))
        return cross_entropy(SCALE * cosines, labels)

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        """One batch."""
        pictures, labels = batch
        embeddings = self.backbone(pictures)
        loss = self.loss(embeddings, labels)
        self.plugged.remember(embeddings, labels)  # two
        if self.plugged.step_count % 12 == 0:
            coverage = self.plugged.coverage()
            print(f"step {self.plugged.step_count:3d}   loss {loss.item():6.3f}   coverage {coverage:.0%}")
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD, of the backbone and of the classifier."""
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def main() -> None:
    """Train for a moment, save, load, and compare the loss with that of ``PrototypeHead``."""
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    torch.manual_seed(0)
    faces = SyntheticFaces(IDENTITIES, PICTURES, seed=0)
    pictures = torch.stack([torch.from_numpy(faces.picture(index)) for index in range(len(faces))])
    dataset = TensorDataset(Preprocessing()(pictures), torch.from_numpy(faces.labels))

    with tempfile.TemporaryDirectory() as folder:
        trainer = lightning.Trainer(
            max_epochs=EPOCHS,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            default_root_dir=folder,
        )
        trained = Faces()
        trainer.fit(trained, DataLoader(dataset, BATCH, shuffle=True))
        trainer.save_checkpoint(Path(folder) / "faces.ckpt")
        loaded = Faces.load_from_checkpoint(Path(folder) / "faces.ckpt").train()

    assert trained.plugged.coverage() > 0, "no memory is alive: has the start been reached?"
    assert loaded.plugged.coverage() == trained.plugged.coverage()
    compare(loaded, loaded.backbone(dataset.tensors[0][:BATCH]).detach(), dataset.tensors[1][:BATCH])


def compare(model: Faces, embeddings: Tensor, labels: Tensor) -> None:
    """The same weights and the same memory in a ``PrototypeHead`` give the same loss."""
    head = PrototypeHead(IDENTITIES, 64, margin=NormSoftmax(SCALE), variational=VARIATIONAL)
    state = model.classifier.state_dict()
    head.load_state_dict({"weight": state["weight"]} | {name: state[f"weight_{name}"] for name in REMEMBERED})
    ours, theirs = head(embeddings, labels).item(), model.loss(embeddings, labels).item()
    plain = model.eval().loss(embeddings, labels).item()
    print(f"nn.Linear, plugged {theirs:.5f}   PrototypeHead {ours:.5f}   without injection {plain:.5f}")
    assert math.isclose(ours, theirs, rel_tol=1e-4)
    assert not math.isclose(plain, theirs, rel_tol=1e-2)


if __name__ == "__main__":
    main()
