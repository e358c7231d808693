"""The section ``finetune`` of a recipe: the parts of a backbone that move, and how fast."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from vplface.config.durations import DurationField
from vplface.config.fields import NonNegative
from vplface.config.section import Section

_ALL_BUT = re.compile(r"all but the last(?: (\d{1,4}))? blocks?")


class FinetuneConfig(Section):
    """The frozen parts of a backbone, how long they are frozen, and the learning rates of the rest."""

    freeze: str | list[str] | None = None
    until: DurationField | None = None
    batchnorm: Literal["train", "freeze", "reestimate"] = "train"
    layer_decay: float = Field(default=1.0, gt=0.0, le=1.0)
    l2_sp: NonNegative | None = None

    @field_validator("freeze")
    @classmethod
    def _is_a_choice(cls, value: str | list[str] | None) -> str | list[str] | None:
        if isinstance(value, str) and " " in value and not _ALL_BUT.fullmatch(value):
            raise ValueError(
                "must be 'backbone', 'all but the last block', 'all but the last 3 blocks', or names of parameters"
                " such as 'stem' or ['stages.0', '*.bias']"
            )
        if isinstance(value, list) and (not value or "" in value):
            raise ValueError("must hold the names of parameters, none of them empty; null freezes nothing")
        return value

    @model_validator(mode="after")
    def _until_needs_freeze(self) -> FinetuneConfig:
        if self.until is not None and self.freeze is None:
            raise ValueError("until says when frozen parameters begin to move; it needs freeze")
        return self

    @property
    def moving_blocks(self) -> int | None:
        """k of ``freeze: all but the last k blocks``; 0 for ``backbone``, None where parameters are named."""
        if self.freeze == "backbone":
            return 0
        match = _ALL_BUT.fullmatch(self.freeze) if isinstance(self.freeze, str) else None
        return None if match is None else int(match[1] or 1)

    @property
    def names(self) -> list[str]:
        """The names and patterns of frozen parameters, where they are named."""
        if self.freeze is None or self.moving_blocks is not None:
            return []
        return [self.freeze] if isinstance(self.freeze, str) else self.freeze
