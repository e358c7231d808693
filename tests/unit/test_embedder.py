from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import threading

import cv2
import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from onnx import TensorProto, helper

from vplface import progress
from vplface import stored_model as stored_model_module
from vplface.backbones import build
from vplface.data.pictures import Preprocessing, UnreadablePictureError
from vplface.embedder import Embedder, read_picture
from vplface.errors import DataError, VplfaceError
from vplface.reading import read_bytes
from vplface.stored_model import CARD_KEY, ModelCard, load_model, save_model

CARD = ModelCard("tiny", 16, {"width": 8})


def tiny(seed=0):
    """A backbone in training mode whose running statistics are not the initial ones."""
    torch.manual_seed(seed)
    backbone = build("tiny", 16, width=8)
    backbone(torch.rand(8, 3, 112, 112) * 2 - 1)
    return backbone


def random_pictures(count, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 7, 7, 3), np.uint8)
    return coarse.repeat(16, axis=1).repeat(16, axis=2)


def by_hand(backbone, pictures, flip=False):
    """f(x)/|f(x)| in the simplest way, picture by picture."""
    backbone.eval()
    rows = []
    with torch.no_grad():
        for picture in pictures:
            x = torch.from_numpy((picture.astype(np.float32) - 127.5) / 127.5).permute(2, 0, 1)[None]
            y = backbone(x)[0]
            if flip:
                y = y + backbone(torch.flip(x, [3]))[0]
            rows.append((y / y.norm()).numpy())
    backbone.train()
    return np.stack(rows)


class FakeSet:
    identities = ("a", "b")

    def __init__(self, pictures):
        self.pictures = pictures
        self.labels = np.arange(len(pictures)) % 2

    def __len__(self):
        return len(self.pictures)

    def picture(self, index):
        if self.pictures[index] is None:
            raise UnreadablePictureError(self.name(index), "the file is empty")
        return self.pictures[index]

    def name(self, index):
        return f"a/{index}.png"


@pytest.fixture(scope="module")
def backbone():
    return tiny()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, backbone):
    path = tmp_path_factory.mktemp("model") / "run" / "best"
    save_model(path, backbone, CARD)
    return path


# --- the card and the folder


def test_ModelCard_round_trips_through_json():
    card = ModelCard(
        backbone="iresnet18",
        embedding_dim=512,
        backbone_options={"dropout": 0.4},
        preprocessing=Preprocessing(color="bgr", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        training_data="Gesichter aus Köln",
        identities=4038,
        pictures=9525,
        step=1200,
        margin="ArcFace(scale=64, margin=0.5)",
        variational="Variational(lam=0.15)",
        evaluation={"lfw": {"accuracy": {"value": 0.99, "ci95": [0.98, 1.0]}}},
    )
    text = card.to_json()
    assert json.loads(text)["preprocessing"] == {
        "size": 112,
        "color": "bgr",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }
    assert ModelCard.from_json(text, "model.json") == card


def test_ModelCard_from_json_ignores_unknown_keys():
    values = json.loads(CARD.to_json()) | {"colour_of_the_sky": "grey"}
    assert ModelCard.from_json(json.dumps(values), "here") == CARD


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 2}, "upgrade vplface"),
        ({"schema": None}, "no 'schema'"),
        ({"embedding_dim": "many"}, "'embedding_dim'.*'many'"),
        ({"embedding_dim": None}, "'embedding_dim'.*None"),
        ({"backbone_options": []}, "'backbone_options'"),
        ({"evaluation": 3}, "'evaluation'"),
        ({"preprocessing": "rgb"}, "'preprocessing'"),
        ({"preprocessing": {"size": 112}}, "preprocessing must have"),
        ({"step": 1.5}, "'step'.*1.5"),
    ],
)
def test_ModelCard_from_json_names_the_file_and_the_wrong_value(change, words):
    text = json.dumps(json.loads(CARD.to_json()) | change)
    with pytest.raises(DataError, match=rf"^where/model.json.*{words}"):
        ModelCard.from_json(text, "where/model.json")


@pytest.mark.parametrize("key", ["backbone", "embedding_dim", "preprocessing"])
def test_ModelCard_from_json_names_a_missing_key(key):
    values = json.loads(CARD.to_json())
    del values[key]
    with pytest.raises(DataError, match=f"lacks '{key}'"):
        ModelCard.from_json(json.dumps(values), "model.json")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '"model"'])
def test_ModelCard_from_json_refuses_text_that_is_not_a_card(text):
    with pytest.raises(DataError, match=r"^model\.json"):
        ModelCard.from_json(text, "model.json")


def test_load_model_restores_the_backbone_and_the_card_of_save_model(tmp_path, backbone):
    backbone.to(memory_format=torch.channels_last)  # whose weights are not contiguous
    save_model(tmp_path / "run", backbone, CARD)
    loaded, card = load_model(tmp_path / "run")
    assert card == CARD
    assert not loaded.training
    for name, tensor in backbone.state_dict().items():
        assert loaded.state_dict()[name].equal(tensor), name
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["model.json", "model.safetensors"]


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_Embedder_load_reports_the_digests_of_the_files_that_it_loaded(tmp_path, backbone):
    save_model(tmp_path, backbone, CARD)
    weights, card = tmp_path / "model.safetensors", tmp_path / "model.json"
    assert json.loads(card.read_text())["weights"] == digest(weights)
    embedder = Embedder.load(tmp_path)
    assert embedder.files == {str(weights): digest(weights), str(card): digest(card)}
    loaded = embedder.weights
    save_model(tmp_path, tiny(1), CARD)
    assert embedder.weights == loaded != digest(weights)


def test_load_model_refuses_weights_that_do_not_match_the_digest_in_the_card(tmp_path, backbone):
    save_model(tmp_path / "a", backbone, CARD)
    save_model(tmp_path / "b", tiny(1), CARD)
    (tmp_path / "b" / "model.safetensors").replace(tmp_path / "a" / "model.safetensors")
    with pytest.raises(
        DataError, match=r"model\.safetensors: damaged, or of another version than model\.json beside it"
    ):
        load_model(tmp_path / "a")


def test_load_model_computes_the_digest_that_an_old_card_lacks(tmp_path, backbone):
    save_model(tmp_path, backbone, CARD)
    card = json.loads((tmp_path / "model.json").read_text())
    del card["weights"]
    (tmp_path / "model.json").write_text(json.dumps(card))
    assert load_model(tmp_path)[1].weights == Embedder.load(tmp_path).weights == digest(tmp_path / "model.safetensors")


def test_read_model_reads_a_consistent_model_while_another_is_saved(tmp_path, backbone, monkeypatch):
    save_model(tmp_path, backbone, CARD)
    later, pending = dataclasses.replace(CARD, step=2), [tiny(1)]

    def read(path, *limits):
        if str(path).endswith(".safetensors") and pending:
            save_model(tmp_path, pending.pop(), later)
        return read_bytes(path, *limits)

    monkeypatch.setattr(stored_model_module, "read_bytes", read)
    stored = stored_model_module.read_model(tmp_path)
    assert stored.card.step == 2
    assert stored.card.weights == hashlib.sha256(stored.weights).hexdigest() == digest(tmp_path / "model.safetensors")


def test_load_model_waits_for_a_save_in_progress(tmp_path, backbone):
    save_model(tmp_path, backbone, CARD)
    save_model(tmp_path / "later", tiny(1), dataclasses.replace(CARD, step=2))
    card = (tmp_path / "later" / "model.json").rename(tmp_path / ".model.json.tmp-0123456789ab.json")
    (tmp_path / "later" / "model.safetensors").replace(tmp_path / "model.safetensors")
    saver = threading.Timer(0.3, card.replace, [tmp_path / "model.json"])
    saver.start()
    assert load_model(tmp_path)[1].step == 2
    saver.join()


def test_load_model_keeps_a_frozen_parameter_frozen(tmp_path):
    save_model(tmp_path, build("iresnet18", 4), ModelCard("iresnet18", 4))
    assert not load_model(tmp_path)[0].features.weight.requires_grad


def test_save_model_keeps_the_old_model_if_it_fails(tmp_path, backbone, monkeypatch):
    save_model(tmp_path, backbone, CARD)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full_disk(state):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save", full_disk)
    with pytest.raises(VplfaceError, match="No space left"):
        save_model(tmp_path, tiny(1), dataclasses.replace(CARD, step=5))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_Embedder_load_names_a_missing_folder(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such folder"):
        Embedder.load(tmp_path / "nowhere")


def test_Embedder_load_suggests_subfolders_that_hold_a_model(tmp_path, backbone):
    with pytest.raises(DataError, match=re.escape(f"{tmp_path}: no model.json there; a model folder is")):
        Embedder.load(tmp_path)
    save_model(tmp_path / "best", backbone, CARD)
    with pytest.raises(DataError, match="there is one in its folder 'best'"):
        Embedder.load(tmp_path)
    save_model(tmp_path / "arm", backbone, CARD)
    with pytest.raises(DataError, match="there is one in its folders 'arm', 'best'"):
        Embedder.load(tmp_path)


def test_Embedder_load_asks_for_the_folder_of_a_weights_file(folder):
    with pytest.raises(DataError, match="give the model's folder"):
        Embedder.load(folder / "model.safetensors")


@pytest.mark.parametrize("content", [b"", b"\x08\x00\x00\x00\x00\x00\x00\x00{}", b"what is this" * 9])
def test_load_model_names_damaged_weights(tmp_path, backbone, content):
    save_model(tmp_path, backbone, CARD)
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(DataError, match=r"model\.safetensors"):
        load_model(tmp_path)


def test_load_model_refuses_a_card_that_is_not_utf_8(tmp_path, backbone):
    save_model(tmp_path, backbone, CARD)
    (tmp_path / "model.json").write_bytes("Köln".encode("latin-1"))
    with pytest.raises(DataError, match=r"model\.json: not utf-8 text"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("card", "words"),
    [
        (ModelCard("tiny", 24, {"width": 8}), "do not fit tiny with embedding_dim 24"),
        (ModelCard("mobilefacenet", 16), "do not fit mobilefacenet"),
        (ModelCard("tinny", 16), "model.json: unknown backbone 'tinny'.*'tiny'"),
        (ModelCard("tiny", 16, {"size": 8}), "model.json: .*unknown option 'size'"),
    ],
)
def test_load_model_refuses_a_card_that_does_not_fit_the_weights(tmp_path, backbone, card, words):
    save_model(tmp_path, backbone, card)
    with pytest.raises(DataError, match=words):
        load_model(tmp_path)


# --- embeddings


@pytest.mark.parametrize("flip", ["none", "sum"])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_Embedder_matches_a_picture_by_picture_computation(folder, backbone, flip, count):
    pictures = random_pictures(count)
    embeddings = Embedder.load(folder)(pictures, flip)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(embeddings, by_hand(backbone, pictures, flip == "sum"), atol=2e-6)
    assert count == 1 or not np.allclose(embeddings[0], embeddings[1], atol=1e-2)


def test_Embedder_flip_sum_is_invariant_to_mirroring_and_none_is_not(folder):
    picture = random_pictures(1)[0]
    embedder = Embedder.load(str(folder))
    mirrored = np.ascontiguousarray(picture[:, ::-1])
    np.testing.assert_allclose(embedder(picture, "sum"), embedder(mirrored, "sum"), atol=1e-6)
    assert np.abs(embedder(picture) - embedder(mirrored)).max() > 1e-3


def test_Embedder_reverses_the_channels_for_a_bgr_model(folder, backbone):
    pictures = random_pictures(3)
    embedder = Embedder.load(folder, preprocessing=Preprocessing(color="bgr"))
    np.testing.assert_allclose(embedder(pictures), by_hand(backbone, pictures[..., ::-1]), atol=2e-6)


def test_Embedder_accepts_paths_arrays_and_mixtures(folder, tmp_path):
    pictures = random_pictures(3)
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    for path, picture in zip(paths, pictures, strict=True):
        cv2.imwrite(str(path), picture[..., ::-1])
    embedder = Embedder.load(folder)
    expected = embedder(pictures)
    for given in (paths, [str(path) for path in paths], [paths[0], pictures[1], str(paths[2])], list(pictures)):
        np.testing.assert_allclose(embedder(given), expected, atol=1e-6)
    np.testing.assert_allclose(embedder(str(paths[1])), expected[1:2], atol=1e-6)
    np.testing.assert_allclose(embedder(pictures[1]), expected[1:2], atol=1e-6)
    assert read_picture(paths[2]).tolist() == pictures[2].tolist()


def test_Embedder_result_does_not_depend_on_the_number_of_pictures(folder):
    pictures = random_pictures(130)
    embedder = Embedder.load(folder)
    together = embedder(pictures)
    np.testing.assert_allclose(together[[0, 63, 64, 129]], embedder(pictures[[0, 63, 64, 129]]), atol=1e-6)


def test_Embedder_returns_an_empty_array_for_no_pictures(folder):
    assert Embedder.load(folder)([]).shape == (0, 16)


def test_Embedder_names_unreadable_files(folder, tmp_path):
    embedder = Embedder.load(folder)
    with pytest.raises(UnreadablePictureError, match=r"absent\.jpg"):
        embedder(tmp_path / "absent.jpg")
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(UnreadablePictureError, match=r"text\.jpg"):
        embedder([tmp_path / "text.jpg"])


@pytest.mark.parametrize(
    "picture", [np.zeros((112, 112, 3), np.float32), np.zeros((64, 64, 3), np.uint8), np.zeros((112, 112), np.uint8)]
)
def test_Embedder_refuses_arrays_of_another_dtype_or_shape(folder, picture):
    with pytest.raises(ValueError, match="uint8 RGB"):
        Embedder.load(folder)([picture])


def test_Embedder_refuses_an_unknown_flip(folder):
    with pytest.raises(ValueError, match="none, sum"):
        Embedder.load(folder)([], flip="both")


def test_Embedder_load_suggests_the_cpu_if_cuda_is_missing(folder):
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(VplfaceError, match="use device cpu"):
        Embedder.load(folder, device="cuda")


@pytest.mark.parametrize("name", ["gpu", "meter"])
def test_Embedder_load_names_an_invalid_device(folder, name):
    with pytest.raises(VplfaceError, match=rf"device {name}: .*; use device cpu"):
        Embedder.load(folder, device=name)


@pytest.mark.parametrize("workers", [0, 2])
def test_Embedder_embed_set_keeps_the_order(folder, workers):
    pictures = random_pictures(9)
    embedder = Embedder.load(folder)
    expected = embedder(pictures, "sum")
    whole = embedder.embed_set(FakeSet(pictures), flip="sum", batch_size=4, workers=workers)
    np.testing.assert_allclose(whole, expected, atol=1e-6)
    chosen = np.array([7, 0, 0, 3])
    some = embedder.embed_set(FakeSet(pictures), chosen, flip="sum", batch_size=3, workers=workers)
    np.testing.assert_allclose(some, expected[chosen], atol=1e-6)


def test_Embedder_embed_set_without_unit_keeps_the_norms(folder, backbone):
    pictures = FakeSet(random_pictures(3))
    raw = Embedder.load(folder).embed_set(pictures, unit=False)
    with torch.inference_mode():
        prepared = Preprocessing()(torch.from_numpy(np.stack([pictures.picture(index) for index in range(3)])))
        np.testing.assert_allclose(raw, backbone.eval()(prepared).numpy(), rtol=1e-4, atol=1e-5)


def test_Embedder_embed_set_names_an_unreadable_picture(folder):
    pictures = [*random_pictures(3), None]
    with pytest.raises(DataError, match=r"a/3\.png"):
        Embedder.load(folder).embed_set(FakeSet(pictures), batch_size=2)


@pytest.mark.parametrize(
    ("value", "words"), [(float("nan"), "not finite"), (float("inf"), "not finite"), (0.0, "zero")]
)
def test_Embedder_names_the_picture_of_a_zero_or_non_finite_embedding(value, words):
    def forward(x):
        y = torch.ones(len(x), 4)
        y[x[:, 0, 0, 0] < 0] = value
        return y

    embedder = Embedder(forward, ModelCard("tiny", 4))
    pictures = np.full((6, 112, 112, 3), 255, np.uint8)
    assert embedder(pictures).shape == (6, 4)
    pictures[5] = 0
    with pytest.raises(DataError, match=rf"^picture 5: its embedding is {words}"):
        embedder(pictures)
    with pytest.raises(DataError, match=r"^five: "):
        embedder(pictures, names=["zero", "one", "two", "three", "four", "five"])
    with pytest.raises(DataError, match=r"^a/5\.png"):
        embedder.embed_set(FakeSet(pictures), np.array([1, 2, 5]), batch_size=2)


def test_Embedder_normalises_huge_embeddings():
    embedder = Embedder(lambda x: torch.full((len(x), 4), 1e30), ModelCard("tiny", 4))
    np.testing.assert_allclose(embedder(random_pictures(1)), 0.5)


def test_Embedder_refuses_embeddings_of_another_dimension_than_the_card():
    embedder = Embedder(lambda x: torch.ones(len(x), 5), ModelCard("tiny", 4))
    with pytest.raises(DataError, match=r"shape \(2, 5\), its card says \(2, 4\)"):
        embedder(random_pictures(2))


def test_Embedder_from_backbone_leaves_a_backbone_in_training_unchanged(backbone):
    backbone.train()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    pictures = random_pictures(4)
    np.testing.assert_allclose(Embedder.from_backbone(backbone, CARD)(pictures), by_hand(backbone, pictures), atol=2e-6)
    assert all(module.training for module in backbone.modules())
    assert all(before[name].equal(tensor) for name, tensor in backbone.state_dict().items())
    backbone(torch.rand(2, 3, 112, 112)).sum().backward()  # no inference tensors have crept in


def test_Embedder_embed_set_shows_progress_only_for_long_work(folder, monkeypatch, capsys):
    embedder = Embedder.load(folder)
    embedder.embed_set(FakeSet(random_pictures(6)), batch_size=2, description="faces of six")
    assert "faces of six" not in capsys.readouterr().err
    monkeypatch.setattr(progress, "PATIENCE", -1.0)
    embedder.embed_set(FakeSet(random_pictures(6)), batch_size=2, description="faces of six")
    captured = capsys.readouterr()
    assert "faces of six" in captured.err
    assert "6/6" in captured.err
    assert captured.out == ""


# --- ONNX files made by hand; those that vplface exports are tested in deploy/test_onnx.py


def mean_colour_model(path, batch="n", size=112, dim=3, card=None):
    """An ONNX file whose embedding is the mean of each channel (repeated or cut to ``dim``)."""
    nodes = [helper.make_node("GlobalAveragePool", ["x"], ["p"]), helper.make_node("Flatten", ["p"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, size, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, dim])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    if card is not None:
        helper.set_model_props(model, {CARD_KEY: card})
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("batch", ["n", 1, 4])
def test_Embedder_load_runs_a_foreign_onnx_file_with_the_given_preprocessing(tmp_path, batch):
    path = mean_colour_model(tmp_path / "foreign.onnx", batch)
    preprocessing = Preprocessing(color="bgr", mean=(0.1, 0.2, 0.3), std=(0.2, 0.3, 0.4))
    embedder = Embedder.load(path, preprocessing=preprocessing)
    pictures = random_pictures(5)
    bgr = pictures[..., ::-1].reshape(5, -1, 3).mean(1) / 255
    expected = (bgr - [0.1, 0.2, 0.3]) / [0.2, 0.3, 0.4]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(embedder(pictures), expected, atol=1e-5)
    assert embedder.dim == 3


def test_Embedder_load_requires_preprocessing_for_an_onnx_file_without_a_card(tmp_path):
    with pytest.raises(DataError, match=r"no model card.*--color, --mean and --std"):
        Embedder.load(mean_colour_model(tmp_path / "foreign.onnx"))


def test_Embedder_load_refuses_an_onnx_file_of_another_dimension_than_its_card(tmp_path):
    path = mean_colour_model(tmp_path / "m.onnx", card=ModelCard("tiny", 4).to_json())
    with pytest.raises(DataError, match=r"dimension \[3\], its card says 4"):
        Embedder.load(path)


def test_Embedder_load_refuses_an_onnx_file_of_another_input_size(tmp_path):
    path = mean_colour_model(tmp_path / "m.onnx", size=64, card=ModelCard("tiny", 3).to_json())
    with pytest.raises(DataError, match=r"takes pictures of shape.*expected \[batch, 3, 112, 112\]"):
        Embedder.load(path)


def test_Embedder_load_requires_matching_preprocessing_for_a_uint8_onnx_file(tmp_path):
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("GlobalAveragePool", ["f"], ["p"]),
        helper.make_node("Flatten", ["p"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.UINT8, ["n", 3, 112, 112])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])
    graph = helper.make_graph(nodes, "g", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "m.onnx")
    with pytest.raises(DataError, match=r"m\.onnx: takes uint8 pixels .* --mean 0,0,0 --std 0\.0039215686,"):
        Embedder.load(tmp_path / "m.onnx", preprocessing=Preprocessing())
    std = (0.0039215686,) * 3
    embedder = Embedder.load(tmp_path / "m.onnx", preprocessing=Preprocessing(mean=(0, 0, 0), std=std))
    pictures = random_pictures(3)
    expected = pictures.reshape(3, -1, 3).mean(1)
    np.testing.assert_allclose(embedder(pictures), expected / np.linalg.norm(expected, axis=1)[:, None], atol=1e-6)


def test_Embedder_load_names_damaged_and_missing_onnx_files(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"not an onnx file")
    with pytest.raises(DataError, match=r"bad\.onnx: onnxruntime cannot load it"):
        Embedder.load(tmp_path / "bad.onnx")
    with pytest.raises(DataError, match=r"none\.onnx: no such file"):
        Embedder.load(tmp_path / "none.onnx")


def test_load_model_explains_that_a_run_kept_no_best_model(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.json").touch()
    with pytest.raises(DataError, match="kept no best model"):
        load_model(tmp_path / "run" / "best")
