"""Variational prototypes in a training loop of your own: plain PyTorch, generated faces, no configuration.

    python examples/plain_loop.py

The two lines that matter are marked. Needs ``vplface[train]`` for the pictures alone; the head itself needs only torch.
"""

from __future__ import annotations

import torch

from vplface import ArcFace, PrototypeHead, Variational
from vplface.backbones import build
from vplface.data.pictures import Preprocessing
from vplface.data.samplers import ShuffledBatches
from vplface_synthetic import SyntheticFaces

IDENTITIES, PICTURES, BATCH, STEPS, START = 24, 4, 24, 40, 20


def main() -> float:
    """Train for a moment; returns the coverage at the end."""
    torch.manual_seed(0)
    faces = SyntheticFaces(IDENTITIES, PICTURES, seed=0)
    pictures = torch.stack([torch.from_numpy(faces.picture(index)) for index in range(len(faces))])
    labels = torch.from_numpy(faces.labels)
    batches = ShuffledBatches(len(faces), BATCH, seed=0)
    prepare = Preprocessing()

    backbone = build("tiny", embedding_dim=64, width=8)
    variational = Variational(lam=0.15, delta_t=len(batches), start=START)
    head = PrototypeHead(len(faces.identities), 64, margin=ArcFace(16.0, 0.2), variational=variational)  # one
    optimizer = torch.optim.SGD([*backbone.parameters(), *head.parameters()], lr=0.05, momentum=0.9)

    for step in range(STEPS):
        _, rows = batches.batch(step)
        optimizer.zero_grad()
        loss = head(backbone(prepare(pictures[rows])), labels[rows])  # two
        loss.backward()
        optimizer.step()
        if (step + 1) % 10 == 0:
            print(f"step {step + 1:3d}   loss {loss.item():6.3f}   coverage {head.coverage():.0%}")

    assert head.coverage() > 0, "no memory is alive: has the start been reached?"
    return head.coverage()


if __name__ == "__main__":
    main()
