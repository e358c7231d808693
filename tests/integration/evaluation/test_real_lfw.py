"""A published network on real faces, where a copy of LFW lies beside the repository.

Another scorer, with flipped embeddings summed and exact thresholds, gets 99.48 ± 0.29 % on all of View 2. All of it
takes minutes and is run where VPLFACE_LONG is set; 4 % of the pairs of each fold are run everywhere.
"""

from __future__ import annotations

import os

import cv2
import numpy as np
import onnxruntime
import pytest

from helpers.paths import SHARED
from vplface.data.formats.image_folder import ImageFolder
from vplface.data.pair_lists import read_pairs
from vplface.data.pairs import Pairs
from vplface.data.pictures import Preprocessing
from vplface.embedder import Embedder
from vplface.evaluation import evaluate_pairs

MODEL, FACES, PAIRS = (
    SHARED / part for part in ("models/mobilefacenet_foamliu.onnx", "data/lfw112", "data/lfw_protocol/pairs.txt")
)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
pytestmark = pytest.mark.skipif(
    not (MODEL.is_file() and FACES.is_dir() and PAIRS.is_file()),
    reason="no real faces and network beside the repository (shared/data/lfw112, lfw_protocol, shared/models)",
)


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder.load(MODEL, preprocessing=Preprocessing(mean=MEAN, std=STD))


def similarity_otherwise(left: str, right: str) -> float:
    """The same cosine from OpenCV and onnxruntime alone."""
    session = onnxruntime.InferenceSession(MODEL)
    embedded = []
    for name in (left, right):
        rgb = cv2.imread(str(FACES / f"{name}.jpg"))[:, :, ::-1]
        x = (((rgb / 255.0) - MEAN) / STD).transpose(2, 0, 1).astype(np.float32)
        both = [
            session.run(None, {session.get_inputs()[0].name: side[None].copy()})[0][0] for side in (x, x[..., ::-1])
        ]
        embedded.append(sum(both))
    a, b = embedded
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_evaluate_pairs_on_part_of_each_LFW_fold_has_the_expected_accuracy(embedder: Embedder) -> None:
    everything = read_pairs(PAIRS)
    position = np.arange(len(everything)) % 600
    chosen = np.flatnonzero(position % 300 < 12)
    some = Pairs(
        [everything.left[i] for i in chosen],
        [everything.right[i] for i in chosen],
        everything.same[chosen],
        everything.fold[chosen],
    )
    evaluation = evaluate_pairs(embedder, ImageFolder(FACES), some, fars=[1e-2, 1e-3], bootstrap=200)
    counts = [evaluation.protocol[key] for key in ("pairs", "genuine", "impostors", "folds")]
    assert counts == [240, 120, 120, 10]
    accuracy = evaluation.metrics["accuracy"]
    assert accuracy["value"] >= 0.985
    low, high = accuracy["ci95"]
    assert low <= accuracy["value"] <= high
    assert 0.2 < accuracy["threshold"] < 0.4
    assert evaluation.metrics["tar@far=1e-2"]["value"] > 0.97
    assert evaluation.metrics["tar@far=1e-3"]["value"] is None  # 120 impostor pairs
    for kind in ("genuine", "impostor"):
        worst = evaluation.worst[kind][0]
        names = [worst[side].removesuffix(".jpg") for side in ("left", "right")]
        assert worst["similarity"] == pytest.approx(similarity_otherwise(*names), abs=1e-4)


@pytest.mark.skipif("VPLFACE_LONG" not in os.environ, reason="takes minutes; set VPLFACE_LONG=1 to run it")
def test_evaluate_pairs_on_LFW_View_2_agrees_with_another_scorer(embedder: Embedder) -> None:
    evaluation = evaluate_pairs(embedder, ImageFolder(FACES), read_pairs(PAIRS))
    accuracy = evaluation.metrics["accuracy"]
    assert accuracy["value"] == pytest.approx(0.9948, abs=0.0002)
    assert accuracy["std"] == pytest.approx(0.0029, abs=0.0002)
    low, high = accuracy["ci95"]
    assert 0.99 < low < accuracy["value"] < high < 1
