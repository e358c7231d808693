"""Types of single values that several sections of a recipe share."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from vplface import bounds

_LONGEST_NAME = 200
"""Bytes; file systems allow 255, and suffixes are added."""


def _require_folder_name(name: str) -> str:
    if (
        name in ("", ".", "..")
        or "/" in name
        or "\\" in name
        or len(name.encode(errors="surrogateescape")) > _LONGEST_NAME
    ):
        raise ValueError(
            f"must be the name of a folder: at most {_LONGEST_NAME} bytes, without slashes, not '.' or '..'"
        )
    return name


FolderName = Annotated[str, AfterValidator(_require_folder_name)]
Seed = Annotated[int, Field(ge=0, le=bounds.SEED)]
Positive = Annotated[float, Field(gt=0.0, le=bounds.LARGEST)]
NonNegative = Annotated[float, Field(ge=0.0, le=bounds.LARGEST)]
