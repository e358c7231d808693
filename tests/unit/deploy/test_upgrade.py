"""Upgrades of a gallery to another model: from kept pictures, by hash, with what is missing, interrupted or changed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from helpers.painted import InTiles, landmarks, photograph, write
from vplface.backbones import build
from vplface.cli.app import app
from vplface.deploy import faces as faces_module
from vplface.deploy import upgrade as module
from vplface.deploy.enrolment import enrol
from vplface.deploy.faces import FaceReader
from vplface.deploy.gallery import EmbedderFingerprint
from vplface.deploy.gallery_folder import change_gallery, load_gallery, remove_people
from vplface.deploy.upgrade import _overlap, upgrade_gallery
from vplface.embedder import Embedder
from vplface.errors import DataError
from vplface.stored_model import ModelCard, save_model


@pytest.fixture(autouse=True)
def detector(monkeypatch):
    monkeypatch.setattr(faces_module, "YuNet", InTiles)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two models, of 16 and of 24 dimensions."""
    folder = tmp_path_factory.mktemp("models")
    for name, dim in (("old", 16), ("new", 24)):
        torch.manual_seed(dim)
        backbone = build("tiny", dim, width=8)
        backbone(torch.rand(8, 3, 112, 112) * 2 - 1)
        save_model(folder / name, backbone, ModelCard("tiny", dim, {"width": 8}))
    return folder


def maker(path):
    embedder = Embedder.load(path)
    return EmbedderFingerprint.of(path, embedder, "sum"), embedder


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    root = tmp_path / "photos"
    for name in ("Ada/1.png", "Ada/2.png", "Zoë/1.png"):
        write(root / name, rng.integers(0, 256, (8, 8, 3), np.uint8).repeat(14, 0).repeat(14, 1))
    group = np.concatenate([photograph(landmarks(1.0)), photograph(landmarks(1.6), radius=9)], axis=1)
    write(root / "Grace" / "party.png", group)
    return root


@pytest.fixture
def people(tmp_path, models, photos):
    folder = tmp_path / "people"
    fingerprint, embedder = maker(models / "old")
    sources = [(path.parent.name, path) for path in sorted(photos.glob("*/*.png"))]
    enrol(folder, fingerprint, embedder, FaceReader(), sources)
    enrol(folder, fingerprint, embedder, FaceReader(), [("Small", photos / "Grace" / "party.png")], face=2)
    return folder


def state(gallery):
    """What an upgrade keeps of each face."""
    names = [gallery.names[person] for person in gallery.person]
    return list(zip(names, gallery.keys, gallery.files, gallery.records.enrolled.tolist(), strict=True))


def test_upgrade_gallery_gives_the_embeddings_of_a_new_enrolment_and_keeps_the_rest(people, models, photos, tmp_path):
    old = load_gallery(people)
    fingerprint, embedder = maker(models / "new")
    done = upgrade_gallery(people, fingerprint, embedder)
    assert (done.stored, done.missing, done.must_come_again) == (True, [], [])
    assert done.pictures == {"Ada": 2, "Grace": 1, "Zoë": 1, "Small": 1}
    new = load_gallery(people)
    assert state(new) == state(old)
    assert new.fingerprint == fingerprint
    sources = [(path.parent.name, path) for path in sorted(photos.glob("*/*.png"))]
    enrol(tmp_path / "anew", fingerprint, embedder, FaceReader(), sources)
    enrol(tmp_path / "anew", fingerprint, embedder, FaceReader(), [("Small", photos / "Grace" / "party.png")], face=2)
    anew = load_gallery(tmp_path / "anew")
    np.testing.assert_allclose(new.embeddings, anew.embeddings, atol=1e-6)
    np.testing.assert_allclose(new.records.norm, anew.records.norm, rtol=1e-5)
    assert list(new.records.paths) == list(anew.records.paths)


def test_upgrade_gallery_finds_moved_pictures_by_their_hash_alone(people, models, photos, tmp_path):
    pictures = sorted(photos.glob("*/*.png"))
    elsewhere = tmp_path / "archive"
    elsewhere.mkdir()
    for number, path in enumerate(pictures):
        shutil.move(path, elsewhere / f"{number}.png")
    shutil.copy(elsewhere / "2.png", pictures[0])  # another picture under a name that is enrolled
    done = upgrade_gallery(people, *maker(models / "new"), sorted(elsewhere.iterdir()))
    assert done.stored
    assert {path.parent for path in map(elsewhere.__class__, load_gallery(people).records.paths)} == {elsewhere}


def test_upgrade_gallery_leaves_the_gallery_as_it_is_and_names_who_must_come_again(people, models, photos):
    stored = (people / "gallery.safetensors").read_bytes()
    (photos / "Zoë" / "1.png").unlink()
    write(photos / "Ada" / "1.png", np.zeros((112, 112, 3), np.uint8))
    done = upgrade_gallery(people, *maker(models / "new"))
    assert (done.stored, done.must_come_again) == (False, ["Zoë"])
    assert [(face.name, face.file) for face in done.missing] == [("Ada", "1.png"), ("Zoë", "1.png")]
    assert done.missing[0].reason == "the file has changed since it was enrolled"
    assert (people / "gallery.safetensors").read_bytes() == stored
    done = upgrade_gallery(people, *maker(models / "new"), allow_missing=True)
    assert done.stored
    assert load_gallery(people).pictures == {"Ada": 1, "Grace": 1, "Small": 1}


def test_upgrade_gallery_reports_a_face_that_is_no_longer_found(people, models, photos):
    def moved(gallery):
        return replace(gallery, boxes=(gallery.boxes + 500 * (gallery.boxes > 0)).astype(np.int32))

    shifted = change_gallery(people, moved)
    done = upgrade_gallery(people, *maker(models / "new"))
    reasons = {face.reason for face in done.missing}
    assert reasons == {"the face that was enrolled is not found in it any more"}
    assert len(done.missing) == int((shifted.boxes[:, 0] >= 0).sum()) == 2


def test_upgrade_gallery_that_is_interrupted_leaves_the_gallery_as_it_was(people, models, monkeypatch):
    stored = (people / "gallery.safetensors").read_bytes()
    monkeypatch.setattr(module, "_BATCH_SIZE", 2)
    embed, calls = module.embed_with_norms, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return embed(*arguments)

    monkeypatch.setattr(module, "embed_with_norms", interrupted)
    with pytest.raises(KeyboardInterrupt):
        upgrade_gallery(people, *maker(models / "new"))
    assert (people / "gallery.safetensors").read_bytes() == stored
    assert upgrade_gallery(people, *maker(models / "new")).stored


def test_upgrade_gallery_keeps_what_others_removed_and_added_meanwhile(people, models, photos, monkeypatch):
    embed, calls = module.embed_with_norms, []
    write(photos / "Mary" / "1.png", np.full((112, 112, 3), 200, np.uint8))

    def disturbed(*arguments):
        calls.append(len(arguments[1]))
        if len(calls) == 1:
            remove_people(people, ["Ada"])
            fingerprint, embedder = maker(models / "old")
            enrol(people, fingerprint, embedder, FaceReader(), [("Mary", photos / "Mary" / "1.png")])
        return embed(*arguments)

    monkeypatch.setattr(module, "embed_with_norms", disturbed)
    done = upgrade_gallery(people, *maker(models / "new"))
    assert done.stored
    assert calls == [5, 1]
    new = load_gallery(people)
    assert new.pictures == {"Grace": 1, "Zoë": 1, "Small": 1, "Mary": 1}
    assert new.fingerprint.embedding_dim == 24


def test_upgrade_gallery_refuses_the_model_that_the_gallery_has(people, models):
    with pytest.raises(DataError, match="is a gallery of this model already"):
        upgrade_gallery(people, *maker(models / "old"))


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), 1),
        ((0, 0, 10, 10), (5, 0, 10, 10), 50 / 150),
        ((0, 0, 10, 10), (2, 2, 5, 5), 25 / 100),
        ((0, 0, 10, 10), (10, 0, 10, 10), 0),
        ((0, 0, 10, 10), (20, 20, 10, 10), 0),
        (None, None, 1),
        (None, (0, 0, 10, 10), 0),
    ],
)
def test_overlap_is_the_intersection_over_the_union(one, other, overlap):
    assert _overlap(one, other) == pytest.approx(overlap) == _overlap(other, one)


def vplface(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_vplface_enroll_upgrade_reports_and_leads_to_answers_of_the_new_model(people, models, photos, tmp_path):
    shutil.move(photos / "Zoë", tmp_path / "kept")
    told = vplface("enroll", people, "--upgrade", models / "new")
    assert told.exit_code == 1
    assert f"missing {photos}/Zoë/1.png (Zoë): " in told.stderr
    error = " ".join(told.stderr.split())
    assert "unchanged, because the pictures of 1 face are not found. 1 person must come again: Zoë. Give the" in error
    refused = vplface("enroll", people, "--upgrade", models / "new", "--json")
    assert refused.exit_code == 1
    report = json.loads(refused.stdout)
    assert (report["upgraded"], report["must_come_again"]) == (False, ["Zoë"])
    told = vplface("enroll", people, tmp_path / "kept", "--upgrade", models / "new")
    assert told.exit_code == 0, told.stderr
    assert told.stdout == f"{people}: embedded 5 faces of 4 people again with {models / 'new'}\n"
    found = json.loads(vplface("identify", people, tmp_path / "kept" / "1.png", "--json").stdout)
    assert found["pictures"][0]["faces"][0]["matches"][0]["name"] == "Zoë"
    assert found["model"] == str(models / "new")


def test_vplface_enroll_upgrade_refuses_a_folder_that_is_not_there(people, models, tmp_path):
    told = vplface("enroll", people, tmp_path / "archve", "--upgrade", models / "new")
    assert told.exit_code == 1
    assert "archve: no such folder; give the folders that hold the enrolled pictures" in " ".join(told.stderr.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--upgrade", "new", "--model", "new"), "leave out --model"),
        (("--allow-missing", "--list"), "--allow-missing goes with --upgrade"),
        (("--upgrade", "new", "--list"), "one of them"),
        (("--upgrade", "new", "--name", "Ada"), "need pictures"),
    ],
)
def test_vplface_enroll_upgrade_refuses_other_words(people, words, message):
    told = vplface("enroll", people, *words)
    assert told.exit_code == 2
    assert message in " ".join(told.stderr.split())
