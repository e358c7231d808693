"""The section ``distill`` of a recipe: a frozen teacher, and how its embeddings are followed."""

from __future__ import annotations

from pathlib import Path

from pydantic import model_validator

from vplface.config.fields import NonNegative
from vplface.config.section import Section
from vplface.config.sections import PreprocessingField

KINDS = ("cosine", "distance", "angle")
"""The losses of distillation, by their keys."""


class DistillConfig(Section):
    """A teacher, and the weight of each loss between its embeddings and those of the network."""

    teacher: Path
    preprocessing: PreprocessingField | None = None
    cosine: NonNegative | None = None
    distance: NonNegative | None = None
    angle: NonNegative | None = None

    @model_validator(mode="after")
    def _some_loss_counts(self) -> DistillConfig:
        if not self.weights:
            raise ValueError(f"the weights of all losses are 0; give one of {', '.join(KINDS)}, or leave distill out")
        return self

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each loss that counts; cosine alone, with weight 1, where none is given."""
        given = {kind: getattr(self, kind) for kind in KINDS}
        if all(weight is None for weight in given.values()):
            return {"cosine": 1.0}
        return {kind: weight for kind, weight in given.items() if weight}
