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


def test_card_round_trip():
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


def test_card_of_a_later_minor_version_is_read():
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
def test_card_with_a_wrong_value(change, words):
    text = json.dumps(json.loads(CARD.to_json()) | change)
    with pytest.raises(DataError, match=rf"^where/model.json.*{words}"):
        ModelCard.from_json(text, "where/model.json")


@pytest.mark.parametrize("key", ["backbone", "embedding_dim", "preprocessing"])
def test_card_without_a_key(key):
    values = json.loads(CARD.to_json())
    del values[key]
    with pytest.raises(DataError, match=f"lacks '{key}'"):
        ModelCard.from_json(json.dumps(values), "model.json")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '"model"'])
def test_card_that_is_none(text):
    with pytest.raises(DataError, match=r"^model\.json"):
        ModelCard.from_json(text, "model.json")


def test_model_round_trip(tmp_path, backbone):
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


def test_a_model_states_the_digest_of_its_weights_and_knows_what_was_loaded(tmp_path, backbone):
    save_model(tmp_path, backbone, CARD)
    weights, card = tmp_path / "model.safetensors", tmp_path / "model.json"
    assert json.loads(card.read_text())["weights"] == digest(weights)
    embedder = Embedder.load(tmp_path)
    assert embedder.files == {str(weights): digest(weights), str(card): digest(card)}
    loaded = embedder.weights
    save_model(tmp_path, tiny(1), CARD)
    assert embedder.weights == loaded != digest(weights)


def test_weights_of_one_version_with_the_card_of_another_are_refused(tmp_path, backbone):
    save_model(tmp_path / "a", backbone, CARD)
    save_model(tmp_path / "b", tiny(1), CARD)
    (tmp_path / "b" / "model.safetensors").replace(tmp_path / "a" / "model.safetensors")
    with pytest.raises(
        DataError, match=r"model\.safetensors: damaged, or of another version than model\.json beside it"
    ):
        load_model(tmp_path / "a")


def test_a_model_of_an_earlier_version_states_no_digest_and_loads(tmp_path, backbone):
    save_model(tmp_path, backbone, CARD)
    card = json.loads((tmp_path / "model.json").read_text())
    del card["weights"]
    (tmp_path / "model.json").write_text(json.dumps(card))
    assert load_model(tmp_path)[1].weights == Embedder.load(tmp_path).weights == digest(tmp_path / "model.safetensors")


def test_a_model_that_is_saved_while_it_is_loaded_is_loaded_whole(tmp_path, backbone, monkeypatch):
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


def test_the_end_of_a_save_is_waited_for(tmp_path, backbone):
    save_model(tmp_path, backbone, CARD)
    save_model(tmp_path / "later", tiny(1), dataclasses.replace(CARD, step=2))
    card = (tmp_path / "later" / "model.json").rename(tmp_path / ".model.json.tmp-0123456789ab.json")
    (tmp_path / "later" / "model.safetensors").replace(tmp_path / "model.safetensors")
    saver = threading.Timer(0.3, card.replace, [tmp_path / "model.json"])
    saver.start()
    assert load_model(tmp_path)[1].step == 2
    saver.join()


def test_frozen_scale_stays_frozen(tmp_path):
    save_model(tmp_path, build("iresnet18", 4), ModelCard("iresnet18", 4))
    assert not load_model(tmp_path)[0].features.weight.requires_grad


def test_failed_save_leaves_the_old_model(tmp_path, backbone, monkeypatch):
    save_model(tmp_path, backbone, CARD)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full_disk(state):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save", full_disk)
    with pytest.raises(VplfaceError, match="No space left"):
        save_model(tmp_path, tiny(1), dataclasses.replace(CARD, step=5))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_missing_folder(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such folder"):
        Embedder.load(tmp_path / "nowhere")


def test_folder_without_a_model(tmp_path, backbone):
    with pytest.raises(DataError, match=re.escape(f"{tmp_path}: no model.json there; a model folder is")):
        Embedder.load(tmp_path)
    save_model(tmp_path / "best", backbone, CARD)
    with pytest.raises(DataError, match="there is one in its folder 'best'"):
        Embedder.load(tmp_path)
    save_model(tmp_path / "arm", backbone, CARD)
    with pytest.raises(DataError, match="there is one in its folders 'arm', 'best'"):
        Embedder.load(tmp_path)


def test_file_of_a_folder(folder):
    with pytest.raises(DataError, match="give the model's folder"):
        Embedder.load(folder / "model.safetensors")


@pytest.mark.parametrize("content", [b"", b"\x08\x00\x00\x00\x00\x00\x00\x00{}", b"what is this" * 9])
def test_damaged_weights(tmp_path, backbone, content):
    save_model(tmp_path, backbone, CARD)
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(DataError, match=r"model\.safetensors"):
        load_model(tmp_path)


def test_card_in_another_encoding(tmp_path, backbone):
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
def test_card_that_does_not_fit_the_weights(tmp_path, backbone, card, words):
    save_model(tmp_path, backbone, card)
    with pytest.raises(DataError, match=words):
        load_model(tmp_path)


# --- embeddings


@pytest.mark.parametrize("flip", ["none", "sum"])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_embeddings_are_those_computed_by_hand(folder, backbone, flip, count):
    pictures = random_pictures(count)
    embeddings = Embedder.load(folder)(pictures, flip)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(embeddings, by_hand(backbone, pictures, flip == "sum"), atol=2e-6)
    assert count == 1 or not np.allclose(embeddings[0], embeddings[1], atol=1e-2)


def test_flip_sum_ignores_mirroring_and_none_does_not(folder):
    picture = random_pictures(1)[0]
    embedder = Embedder.load(str(folder))
    mirrored = np.ascontiguousarray(picture[:, ::-1])
    np.testing.assert_allclose(embedder(picture, "sum"), embedder(mirrored, "sum"), atol=1e-6)
    assert np.abs(embedder(picture) - embedder(mirrored)).max() > 1e-3


def test_bgr_model_sees_the_colours_turned_round(folder, backbone):
    pictures = random_pictures(3)
    embedder = Embedder.load(folder, preprocessing=Preprocessing(color="bgr"))
    np.testing.assert_allclose(embedder(pictures), by_hand(backbone, pictures[..., ::-1]), atol=2e-6)


def test_files_arrays_and_mixtures(folder, tmp_path):
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


def test_many_pictures_are_cut_into_batches(folder):
    pictures = random_pictures(130)
    embedder = Embedder.load(folder)
    together = embedder(pictures)
    np.testing.assert_allclose(together[[0, 63, 64, 129]], embedder(pictures[[0, 63, 64, 129]]), atol=1e-6)


def test_no_pictures(folder):
    assert Embedder.load(folder)([]).shape == (0, 16)


def test_unreadable_files_are_named(folder, tmp_path):
    embedder = Embedder.load(folder)
    with pytest.raises(UnreadablePictureError, match=r"absent\.jpg"):
        embedder(tmp_path / "absent.jpg")
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(UnreadablePictureError, match=r"text\.jpg"):
        embedder([tmp_path / "text.jpg"])


@pytest.mark.parametrize(
    "picture", [np.zeros((112, 112, 3), np.float32), np.zeros((64, 64, 3), np.uint8), np.zeros((112, 112), np.uint8)]
)
def test_wrong_arrays(folder, picture):
    with pytest.raises(ValueError, match="uint8 RGB"):
        Embedder.load(folder)([picture])


def test_wrong_flip(folder):
    with pytest.raises(ValueError, match="none, sum"):
        Embedder.load(folder)([], flip="both")


def test_missing_device(folder):
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(VplfaceError, match="use device cpu"):
        Embedder.load(folder, device="cuda")


@pytest.mark.parametrize("name", ["gpu", "meter"])
def test_a_device_that_is_none_is_named(folder, name):
    with pytest.raises(VplfaceError, match=rf"device {name}: .*; use device cpu"):
        Embedder.load(folder, device=name)


@pytest.mark.parametrize("workers", [0, 2])
def test_embed_set_keeps_the_order(folder, workers):
    pictures = random_pictures(9)
    embedder = Embedder.load(folder)
    expected = embedder(pictures, "sum")
    whole = embedder.embed_set(FakeSet(pictures), flip="sum", batch_size=4, workers=workers)
    np.testing.assert_allclose(whole, expected, atol=1e-6)
    chosen = np.array([7, 0, 0, 3])
    some = embedder.embed_set(FakeSet(pictures), chosen, flip="sum", batch_size=3, workers=workers)
    np.testing.assert_allclose(some, expected[chosen], atol=1e-6)


def test_embed_set_can_keep_the_norms(folder, backbone):
    pictures = FakeSet(random_pictures(3))
    raw = Embedder.load(folder).embed_set(pictures, unit=False)
    with torch.inference_mode():
        prepared = Preprocessing()(torch.from_numpy(np.stack([pictures.picture(index) for index in range(3)])))
        np.testing.assert_allclose(raw, backbone.eval()(prepared).numpy(), rtol=1e-4, atol=1e-5)


def test_embed_set_names_the_unreadable(folder):
    pictures = [*random_pictures(3), None]
    with pytest.raises(DataError, match=r"a/3\.png"):
        Embedder.load(folder).embed_set(FakeSet(pictures), batch_size=2)


@pytest.mark.parametrize(
    ("value", "words"), [(float("nan"), "not finite"), (float("inf"), "not finite"), (0.0, "zero")]
)
def test_bad_embeddings_are_refused_and_named(value, words):
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


def test_huge_embeddings_are_normalised():
    embedder = Embedder(lambda x: torch.full((len(x), 4), 1e30), ModelCard("tiny", 4))
    np.testing.assert_allclose(embedder(random_pictures(1)), 0.5)


def test_dimension_other_than_the_cards():
    embedder = Embedder(lambda x: torch.ones(len(x), 5), ModelCard("tiny", 4))
    with pytest.raises(DataError, match=r"shape \(2, 5\), its card says \(2, 4\)"):
        embedder(random_pictures(2))


def test_a_backbone_in_training_is_left_as_it_was(backbone):
    backbone.train()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    pictures = random_pictures(4)
    np.testing.assert_allclose(Embedder.from_backbone(backbone, CARD)(pictures), by_hand(backbone, pictures), atol=2e-6)
    assert all(module.training for module in backbone.modules())
    assert all(before[name].equal(tensor) for name, tensor in backbone.state_dict().items())
    backbone(torch.rand(2, 3, 112, 112)).sum().backward()  # no inference tensors have crept in


def test_long_work_shows_a_bar(folder, monkeypatch, capsys):
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
def test_foreign_onnx_with_its_preprocessing(tmp_path, batch):
    path = mean_colour_model(tmp_path / "foreign.onnx", batch)
    preprocessing = Preprocessing(color="bgr", mean=(0.1, 0.2, 0.3), std=(0.2, 0.3, 0.4))
    embedder = Embedder.load(path, preprocessing=preprocessing)
    pictures = random_pictures(5)
    bgr = pictures[..., ::-1].reshape(5, -1, 3).mean(1) / 255
    expected = (bgr - [0.1, 0.2, 0.3]) / [0.2, 0.3, 0.4]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(embedder(pictures), expected, atol=1e-5)
    assert embedder.dim == 3


def test_foreign_onnx_without_preprocessing(tmp_path):
    with pytest.raises(DataError, match=r"no model card.*--color, --mean and --std"):
        Embedder.load(mean_colour_model(tmp_path / "foreign.onnx"))


def test_onnx_of_another_dimension_than_its_card(tmp_path):
    path = mean_colour_model(tmp_path / "m.onnx", card=ModelCard("tiny", 4).to_json())
    with pytest.raises(DataError, match=r"dimension \[3\], its card says 4"):
        Embedder.load(path)


def test_onnx_of_another_input(tmp_path):
    path = mean_colour_model(tmp_path / "m.onnx", size=64, card=ModelCard("tiny", 3).to_json())
    with pytest.raises(DataError, match=r"takes pictures of shape.*expected \[batch, 3, 112, 112\]"):
        Embedder.load(path)


def test_onnx_that_takes_bytes(tmp_path):
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


def test_damaged_and_missing_onnx(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"not an onnx file")
    with pytest.raises(DataError, match=r"bad\.onnx: onnxruntime cannot load it"):
        Embedder.load(tmp_path / "bad.onnx")
    with pytest.raises(DataError, match=r"none\.onnx: no such file"):
        Embedder.load(tmp_path / "none.onnx")


def test_a_run_that_kept_no_best_model_is_said_to_have_none(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.json").touch()
    with pytest.raises(DataError, match="kept no best model"):
        load_model(tmp_path / "run" / "best")
