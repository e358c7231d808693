"""The section of a backbone of an ONNX file, from the file and without it."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from helpers.onnx_files import SIZE, node, written
from vplface.config import build_config
from vplface.data.pictures import Preprocessing
from vplface.errors import ConfigError
from vplface.stored_model import CARD_KEY, ModelCard
from vplface.strict_yaml import parse_yaml

W = np.ones((8, 3, 1, 1), np.float32)
NODES = [node("Conv", "x,W", "c"), node("GlobalAveragePool", "c", "p"), node("Flatten", "p")]
INSIGHTFACE = {"mean": [0.5, 0.5, 0.5]}


@pytest.fixture
def path(tmp_path):
    return written(tmp_path / "m.onnx", NODES, W=W)


def section(**backbone):
    raw = {"name": "run", "data": {"train": "faces"}, "backbone": {"name": "onnx", **backbone}}
    return build_config(raw, "recipe")


def test_BackboneConfig_has_graph_and_dimension_of_its_file(path):
    config = section(weights=str(path), preprocessing={"color": "bgr", "std": ["0.25", 0.25, 0.25]})
    assert config.backbone.embedding_dim == 8
    assert config.backbone.preprocessing == Preprocessing(color="bgr", std=(0.25, 0.25, 0.25))
    path.unlink()
    assert build_config(parse_yaml(config.to_yaml(), "config.yaml"), "config.yaml") == config


def test_BackboneConfig_takes_the_preprocessing_of_a_card(path):
    model = onnx.load(path)
    card = ModelCard("tiny", 8, preprocessing=Preprocessing(color="bgr"))
    model.metadata_props.add(key=CARD_KEY, value=card.to_json())
    onnx.save(model, path)
    assert section(weights=path).backbone.preprocessing == Preprocessing(color="bgr")
    assert section(weights=path, preprocessing={}).backbone.preprocessing == Preprocessing()
    assert section(weights=path, embedding_dim=16).backbone.embedding_dim == 8


@pytest.mark.parametrize(
    ("backbone", "match"),
    [
        ({}, "set backbone.weights to an .onnx file"),
        ({"weights": "absent.onnx"}, "weights: absent.onnx: no such file"),
        ({"weight": "absent.onnx"}, "weight.*did you mean 'weights'"),
        ({"weights": "PATH"}, "no model card.*backbone.preprocessing="),
        ({"weights": "PATH", "preprocessing": {"colour": "rgb"}}, "'backbone.preprocessing.colour'; did you mean"),
        ({"weights": "PATH", "preprocessing": {"color": "grey"}}, "backbone.preprocessing.color"),
        ({"weights": "PATH", "preprocessing": {"size": 96}}, "size must be 112.*got 96"),
        ({"weights": "PATH", "preprocessing": INSIGHTFACE, "options": {"norm": "layer"}}, "options.norm"),
        ({"weights": "PATH", "preprocessing": INSIGHTFACE, "options": {"width": 8}}, "not an option of onnx"),
    ],
)
def test_BackboneConfig_of_onnx_says_what_is_wrong(backbone, match, path):
    given = {key: str(path) if value == "PATH" else value for key, value in backbone.items()}
    with pytest.raises(ConfigError, match=match):
        section(**given)


def test_BackboneConfig_asks_for_pixels_where_the_file_takes_uint8(path):
    nodes = [node("Cast", "x", "f", to=TensorProto.FLOAT), node("Conv", "f,W", "c"), *NODES[1:]]
    written(path, nodes, kind=TensorProto.UINT8, shape=("b", 3, SIZE, SIZE), W=W)
    with pytest.raises(ConfigError, match="takes uint8 pixels"):
        section(weights=path, preprocessing=INSIGHTFACE)
    pixels = {"mean": [0, 0, 0], "std": [1 / 255] * 3}
    assert section(weights=path, preprocessing=pixels).backbone.preprocessing.keeps_uint8
