"""The first half of ``make peers``: ONNX files of every backbone and precision, and what vplface embeds with them.

    python tests/integration/peers/insightface_export.py FOLDER

The networks are not trained, but their batch statistics are those of the pictures, so that embeddings differ as
those of a trained one do.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from vplface.backbones import build
from vplface.data.pictures import Preprocessing
from vplface.deploy.onnx import export
from vplface.embedder import Embedder
from vplface.stored_model import ModelCard, save_model
from vplface_synthetic import SyntheticFaces

FILES = (("tiny", "fp32"), ("tiny", "fp16"), ("tiny", "int8"), ("mobilefacenet", "fp32"), ("iresnet18", "fp32"))


def main(folder: Path) -> None:
    faces = SyntheticFaces(identities=20, pictures=4, seed=0)
    pictures = np.stack([faces.picture(index) for index in range(0, len(faces), 10)])
    x = Preprocessing()(torch.from_numpy(np.stack([faces.picture(index) for index in range(16)])))
    folder.mkdir(parents=True, exist_ok=True)
    for name, precision in FILES:
        torch.manual_seed(0)
        backbone = build(name, 64)
        for module in backbone.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.momentum = None
        with torch.no_grad():
            backbone.train()(x)
        save_model(folder / name, backbone, ModelCard(name, 64))
        file = folder / f"{name}-{precision}.onnx"
        export(folder / name, file, precision=precision, calibration=faces if precision == "int8" else None)
        embeddings = Embedder.load(file)(pictures)
        np.savez(file.with_suffix(".npz"), pictures=pictures, embeddings=embeddings)
        print(f"wrote {file}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
