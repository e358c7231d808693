"""Pictures that are probably mislabelled, by a model's embeddings.

A picture is compared with the mean of the other pictures of its identity, and with the means of all other identities.
It is suspect if another identity is nearer by a margin. A wrong picture of somebody who is not in the set is usually
found too: it resembles nobody, so with many identities another one is nearer by chance. The result also contains faces
that the model cannot recognise (from the side, hidden, cut off) and one person under two labels. Of an identity with
two pictures it contains both, because nothing shows which is right.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int64

from vplface.data.check import Finding
from vplface.data.pictures import PictureSet
from vplface.progress import progress

MARGIN = 0.1
"""Margin by which another identity must be nearer, as a difference of cosines."""

_BLOCK_ELEMENTS = 1 << 24


def suspect_labels(
    pictures: PictureSet,
    indices: Int64[np.ndarray, " n"],
    embeddings: Float[np.ndarray, "n dim"],
    margin: float = MARGIN,
    device: str | torch.device = "cpu",
) -> list[Finding]:
    """The pictures that are nearer to another identity's mean than to their own, most suspect first.

    n pictures are compared with all N identities: 2·n·N·dim operations. An identity with one picture has no other to
    compare it with; it is never suspect, but others are compared with it.

    Args:
        pictures: the set.
        indices: the pictures that were embedded.
        embeddings: theirs, of unit norm.
        margin: see :data:`MARGIN`.
        device: where they are compared.
    """
    labels = np.asarray(pictures.labels)[indices]
    x = torch.as_tensor(embeddings, dtype=torch.float32, device=device)
    own_label = torch.as_tensor(labels, device=device)
    sums = torch.zeros(len(pictures.identities), x.shape[1], device=device).index_add_(0, own_label, x)
    means = torch.nn.functional.normalize(sums)
    counts = np.bincount(labels, minlength=len(pictures.identities))
    judged = counts[labels] > 1
    empty = torch.as_tensor(counts == 0, device=device)
    own = np.zeros(len(labels), np.float32)
    other, nearest = np.zeros_like(own), np.zeros(len(labels), np.int64)
    rows = max(1, _BLOCK_ELEMENTS // len(means))
    with progress("comparing with all identities", len(x)) as advance:
        for first in range(0, len(x), rows):
            part, its = x[first : first + rows], own_label[first : first + rows]
            without = torch.nn.functional.normalize(sums[its] - part)
            cosines = part @ means.T
            cosines[torch.arange(len(part), device=device), its] = -torch.inf
            cosines[:, empty] = -torch.inf
            best = cosines.max(dim=1)
            block = slice(first, first + len(part))
            own[block] = (part * without).sum(dim=1).cpu()
            other[block], nearest[block] = best.values.cpu(), best.indices.cpu()
            advance(len(part))
    suspects = np.flatnonzero(judged & (other - own > margin))
    findings = []
    for place in suspects[np.argsort(own[suspects] - other[suspects], kind="stable")].tolist():
        members = np.flatnonzero(labels == nearest[place])
        likest = members[int(np.argmax(embeddings[members] @ embeddings[place]))]
        name = pictures.identities[nearest[place]]
        reason = f"more like {name} ({other[place]:.2f}) than like its own others ({own[place]:.2f})"
        findings.append(Finding(int(indices[place]), "label", reason, int(indices[likest])))
    return findings
