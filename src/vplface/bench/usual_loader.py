"""The usual way to load pictures in PyTorch, for comparison: PIL, one tensor per picture, a DataLoader's dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vplface.data.formats.image_folder import ImageFolder
from vplface.data.synthetic_folder import write_synthetic
from vplface.errors import import_extra
from vplface_synthetic import SyntheticFaces


def generated_faces(root: Path, pictures: int) -> ImageFolder:
    """Generated faces, about as many as given, written as a folder of JPEGs."""
    write_synthetic(root, SyntheticFaces(identities=max(2, pictures // 10), pictures=10), "jpg")
    return ImageFolder(root)


class UsualFolder(Dataset[tuple[Tensor, int]]):
    """A folder read in the usual way for PyTorch: PIL decodes and flips, each picture becomes a tensor of its own."""

    def __init__(self, folder: ImageFolder) -> None:
        self.image: Any = import_extra("PIL.Image", "bench")
        self.samples = [(str(folder.path(index)), label) for index, label in enumerate(folder.labels.tolist())]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.samples[index]
        with Path(path).open("rb") as file:
            picture = self.image.open(file).convert("RGB")
        if torch.rand(1) < 0.5:
            picture = picture.transpose(self.image.Transpose.FLIP_LEFT_RIGHT)
        floats = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous().to(torch.float32).div(255)
        mean = std = torch.full((3, 1, 1), 0.5)
        return floats.sub_(mean).div_(std), label
