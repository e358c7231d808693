"""The second half of ``make peers``: insightface loads the files that vplface exported, and embeds as vplface does.

    python tests/integration/peers/insightface_load.py FOLDER

Run where insightface is installed and vplface need not be. insightface takes a file for a face-recognition model by
the shape of its input and the number of its outputs, and chooses mean and standard deviation by the names of the first
nodes.
"""

import os
import sys
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before insightface imports onnxruntime; vplface need not be there

import numpy as np
from insightface.model_zoo import ArcFaceONNX, get_model

AGREES = 0.9999
DIFFERS = 0.999


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def fault(file: Path) -> str:
    """What is wrong with a file, or nothing."""
    model = get_model(str(file))
    if not isinstance(model, ArcFaceONNX):
        return f"taken for {type(model).__name__}, not for ArcFaceONNX"
    if (model.input_mean, model.input_std, model.input_size) != (127.5, 127.5, (112, 112)):
        return f"mean {model.input_mean}, std {model.input_std}, size {model.input_size}"
    with np.load(file.with_suffix(".npz")) as stored:
        pictures, ours = stored["pictures"], stored["embeddings"]
    bgr = [np.ascontiguousarray(picture[..., ::-1]) for picture in pictures]  # insightface takes OpenCV's order
    same = cosines(model.get_feat(bgr), ours)
    swapped = cosines(model.get_feat(list(pictures)), ours)
    others = cosines(ours, np.roll(ours, 1, axis=0))
    print(
        f"{file.name}: least cosine to vplface {same.min():.6f}; with red and blue swapped {swapped.max():.4f}, "
        f"between people {others.max():.4f}"
    )
    if same.min() < AGREES:
        return f"cosine to vplface's embedding {same.min():.6f}, below {AGREES}"
    if max(swapped.max(), others.max()) > DIFFERS:
        return "embeds unlike pictures alike, so that agreement would prove nothing"
    return ""


def main(folder: Path) -> int:
    files = sorted(folder.glob("*.onnx"))
    faults = {file.name: told for file in files if (told := fault(file))}
    for name, told in faults.items():
        print(f"{name}: {told}", file=sys.stderr)
    if not files:
        print(f"{folder}: no ONNX files there", file=sys.stderr)
    return 1 if faults or not files else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
