"""Encryption at rest: against a second implementation, with wrong and lost keys, damage, changes and killed writers."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from vplface.cli.app import app
from vplface.data.pictures import Preprocessing
from vplface.deploy import sealed as module
from vplface.deploy.gallery import EmbedderFingerprint, EnrolledFace
from vplface.deploy.gallery_folder import (
    add_faces,
    change_gallery,
    is_encrypted,
    load_gallery,
    remove_people,
    set_encryption,
)
from vplface.deploy.gallery_search import Search
from vplface.deploy.sealed import GalleryKey, is_sealed
from vplface.errors import DataError, MissingExtraError, UsageError

ciphers = pytest.importorskip("cryptography.hazmat.primitives.ciphers", reason="needs vplface[encryption]")

DIM = 16
MAKER = EmbedderFingerprint("/models/m.onnx", "ab" * 32, DIM, Preprocessing(), "sum")
KEY, OTHER = GalleryKey(bytes(range(32))), GalleryKey(bytes(32))


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.delenv(module.KEY, raising=False)
    monkeypatch.delenv(module.KEY_FILE, raising=False)
    return monkeypatch


@pytest.fixture
def with_key(environment):
    environment.setenv(module.KEY, KEY.secret.hex())
    return environment


def hkdf(secret, salt, info, length):
    """RFC 5869 with SHA-256."""
    extracted = hmac.digest(salt or bytes(32), secret, "sha256")
    block, out, number = b"", b"", 1
    while len(out) < length:
        block = hmac.digest(extracted, block + info + bytes([number]), "sha256")
        out, number = out + block, number + 1
    return out[:length]


def decrypt(secret, data, block):
    """The format of the module's docstring, read with the cipher in counter mode and its tags not checked."""
    head, rest = data[:32], data[32:]
    key = hkdf(secret, head[16:32], head[:8], 32)
    plain = b""
    blocks = [rest[start : start + block + 16] for start in range(0, len(rest), block + 16)]
    for number, each in enumerate(blocks):
        nonce = number.to_bytes(11, "big") + bytes([number == len(blocks) - 1])
        counter = nonce + (2).to_bytes(4, "big")
        cipher = ciphers.Cipher(ciphers.algorithms.AES(key), ciphers.modes.CTR(counter)).decryptor()
        plain += cipher.update(each[:-16]) + cipher.finalize()
    return plain


@given(st.binary(max_size=200))
def test_GalleryKey_seal_agrees_with_a_second_implementation_and_opens(data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", 32)
        closed = KEY.seal(data, "gallery")
        assert len(closed) == 32 + len(data) + 16 * max(1, -(-len(data) // 32))
        assert closed[:16] == b"VPLGAL01" + hkdf(KEY.secret, b"", b"vplface key id", 8)
        assert decrypt(KEY.secret, closed, 32) == data
        assert KEY.unseal(closed, "gallery", "x") == data
        assert KEY.seal(data, "gallery") != closed


CLOSED_AT = 32
with pytest.MonkeyPatch.context() as _patch:
    _patch.setattr(module, "BLOCK", CLOSED_AT)
    CLOSED = KEY.seal(bytes(range(100)), "gallery")


@given(st.integers(0, len(CLOSED) - 1), st.integers(1, 255))
def test_GalleryKey_unseal_refuses_every_changed_byte_and_every_cut(position, change):
    changed = bytearray(CLOSED)
    changed[position] ^= change
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", CLOSED_AT)
        for wrong in (bytes(changed), CLOSED[:position], CLOSED + bytes(change)):
            with pytest.raises(DataError, match=r"people: (damaged|encrypted with another key)"):
                KEY.unseal(wrong, "gallery", "people")


def test_GalleryKey_unseal_refuses_moved_repeated_and_foreign_blocks(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", CLOSED_AT)
    head, step = CLOSED[:32], CLOSED_AT + 16
    blocks = [CLOSED[32 + start : 32 + start + step] for start in range(0, len(CLOSED) - 32, step)]
    assert len(blocks) == 4
    same_secret = KEY.seal(bytes(range(100)), "gallery")
    for arranged in (
        [blocks[1], blocks[0], *blocks[2:]],
        [*blocks[:2], blocks[1], blocks[3]],
        blocks[:3],
        [*blocks, blocks[3]],
        [same_secret[32 : 32 + step], *blocks[1:]],
    ):
        with pytest.raises(DataError, match="damaged, or changed by somebody: block"):
            KEY.unseal(head + b"".join(arranged), "gallery", "people")
    for purpose, other in (("gallery", "index"), ("index", "gallery")):
        with pytest.raises(DataError, match="not an encrypted file of this kind"):
            KEY.unseal(KEY.seal(b"x", purpose), other, "people")
    renamed = b"VPLIDX01" + CLOSED[8:]
    with pytest.raises(DataError, match="changed by somebody"):
        KEY.unseal(renamed, "index", "people")


def test_GalleryKey_unseal_tells_a_wrong_key_from_damage():
    with pytest.raises(DataError, match=f"encrypted with another key, {KEY.id.hex()}; the key that is given is"):
        OTHER.unseal(CLOSED, "gallery", "people")
    assert KEY.secret.hex() not in repr(KEY)


@pytest.mark.parametrize("write", [bytes.hex, lambda s: s.hex().upper() + "\n", lambda s: base64.b64encode(s).decode(),
                                   lambda s: base64.urlsafe_b64encode(s).decode()])  # fmt: skip
def test_GalleryKey_of_environment_reads_a_variable_or_a_file(write, environment, tmp_path):
    key = GalleryKey(hashlib.sha256(b"a key").digest())
    assert GalleryKey.of_environment() is None
    environment.setenv(module.KEY, write(key.secret))
    assert GalleryKey.of_environment() == key
    environment.delenv(module.KEY)
    (tmp_path / "key").write_text(write(key.secret))
    environment.setenv(module.KEY_FILE, str(tmp_path / "key"))
    assert GalleryKey.of_environment() == key
    environment.setenv(module.KEY, write(key.secret))
    with pytest.raises(UsageError, match="both VPLFACE_GALLERY_KEY and VPLFACE_GALLERY_KEY_FILE are set"):
        GalleryKey.of_environment()


@pytest.mark.parametrize("text", ["secret password", "ab" * 31, "ab" * 33, "zz" * 32, "ä" * 44, "AAAA"])
def test_GalleryKey_parse_refuses_what_is_no_key_without_repeating_it(text, environment, tmp_path):
    environment.setenv(module.KEY, text)
    with pytest.raises(DataError, match="VPLFACE_GALLERY_KEY: not a key; a key is 64 hexadecimal digits") as caught:
        GalleryKey.of_environment()
    assert text not in str(caught.value)
    environment.delenv(module.KEY)
    environment.setenv(module.KEY_FILE, str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="nowhere"):
        GalleryKey.of_environment()


def faces(count, first=0):
    rng = np.random.default_rng(first)
    rows = rng.normal(size=(count, DIM)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    records = {"enrolled": 1, "norm": 2.0, "quality": 3.0, "path": "/p"}
    return [
        EnrolledFace(f"person {first + n}", row, rng.bytes(32).hex(), f"picture {first + n}.jpg", None, **records)
        for n, row in enumerate(rows)
    ]


def traces(folder, known):
    """How many of the faces' embeddings, hashes and names occur in any file, in whole or by four numbers."""
    everything = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    parts = [part for each in known for part in (
        each.embedding[:4].tobytes(), bytes.fromhex(each.sha256), each.name.encode(), each.file.encode(),
    )]  # fmt: skip
    return sum(part in everything for part in parts)


@pytest.mark.parametrize("engine", ["exact", "faiss"])
def test_encrypted_gallery_answers_alike_and_leaves_nothing_readable(tmp_path, with_key, engine):
    if engine == "faiss":
        pytest.importorskip("faiss")
    known = faces(300)
    probes = np.stack([face.embedding for face in known[:20]])
    add_faces(tmp_path / "people", MAKER, known)
    with_key.delenv(module.KEY)
    add_faces(tmp_path / "plain", MAKER, known)
    with_key.setenv(module.KEY, KEY.secret.hex())
    assert (is_encrypted(tmp_path / "people"), is_encrypted(tmp_path / "plain")) == (True, False)
    answers = [
        Search(load_gallery(tmp_path / name), engine, tmp_path / name)(probes, 3) for name in ("people", "plain")
    ]
    assert [[vars(m) for m in each] for each in answers[0]] == [[vars(m) for m in each] for each in answers[1]]
    assert traces(tmp_path / "plain", known) == 4 * 300
    assert traces(tmp_path / "people", known) == 0
    if engine == "faiss":
        (index,) = (tmp_path / "people").glob("index-*")
        assert is_sealed(index.read_bytes(), "index")
        assert b"IPfs" not in index.read_bytes()
        assert Search(load_gallery(tmp_path / "people"), engine, tmp_path / "people").not_kept is None
    remove_people(tmp_path / "people", ["person 3"])
    add_faces(tmp_path / "people", MAKER, faces(3, 1000))
    assert not list((tmp_path / "people").glob("index-*"))
    assert traces(tmp_path / "people", known) == 0
    assert len(load_gallery(tmp_path / "people")) == 302


def test_encrypted_gallery_replaces_an_index_that_is_not_encrypted_or_of_another_key(tmp_path, with_key):
    faiss = pytest.importorskip("faiss")
    add_faces(tmp_path, MAKER, faces(300))
    gallery = load_gallery(tmp_path)
    Search(gallery, "faiss", tmp_path)
    (index,) = tmp_path.glob("index-*")
    stored = np.frombuffer(KEY.unseal(index.read_bytes(), "index", ""), np.uint8)
    plain = faiss.serialize_index(faiss.deserialize_index(stored))
    for content in (plain.tobytes(), OTHER.seal(plain.tobytes(), "index")):
        index.write_bytes(content)
        Search(gallery, "faiss", tmp_path)
        assert KEY.unseal(index.read_bytes(), "index", "") == plain.tobytes()


@pytest.mark.parametrize("lost", ["no key", "wrong key"])
def test_encrypted_gallery_is_neither_read_nor_changed_without_its_key(tmp_path, with_key, lost):
    known = faces(3)
    add_faces(tmp_path, MAKER, known)
    stored = (tmp_path / "gallery.safetensors").read_bytes()
    with_key.delenv(module.KEY)
    if lost == "wrong key":
        with_key.setenv(module.KEY, OTHER.secret.hex())
    message = "Without the key nobody can read it" if lost == "no key" else "encrypted with another key"
    for attempt in (
        lambda: load_gallery(tmp_path),
        lambda: add_faces(tmp_path, MAKER, faces(2, 50)),
        lambda: remove_people(tmp_path, ["person 1"]),
        lambda: set_encryption(tmp_path, False),
        lambda: set_encryption(tmp_path, True),
    ):
        with pytest.raises(DataError, match=message):
            attempt()
    assert (tmp_path / "gallery.safetensors").read_bytes() == stored
    told = CliRunner().invoke(app, ["enroll", str(tmp_path), "--list"])
    assert told.exit_code == 1
    assert message in " ".join(told.stderr.split())
    with_key.setenv(module.KEY, KEY.secret.hex())
    assert len(load_gallery(tmp_path)) == 3


def test_encrypted_gallery_survives_a_writer_that_was_killed(tmp_path, with_key):
    add_faces(tmp_path, MAKER, faces(3))
    half = KEY.seal(b"half", "gallery")[:40]
    left = tmp_path / ".gallery.safetensors.tmp-0123456789ab.safetensors"
    left.write_bytes(half)
    assert len(load_gallery(tmp_path)) == 3
    add_faces(tmp_path, MAKER, faces(1, 9))
    assert not left.exists()
    whole = (tmp_path / "gallery.safetensors").read_bytes()
    (tmp_path / "gallery.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"gallery\.safetensors: damaged, or changed by somebody"):
        load_gallery(tmp_path)


def test_set_encryption_and_back_keeps_everything(tmp_path, environment):
    known = faces(5)
    add_faces(tmp_path, MAKER, known)
    before = load_gallery(tmp_path)
    with pytest.raises(DataError, match="give its key in the environment variable VPLFACE_GALLERY_KEY"):
        set_encryption(tmp_path, True)
    assert not is_encrypted(tmp_path)
    environment.setenv(module.KEY, KEY.secret.hex())
    add_faces(tmp_path, MAKER, known)  # a key alone does not change what is there
    assert not is_encrypted(tmp_path)
    told = CliRunner().invoke(app, ["enroll", str(tmp_path), "--encrypt"])
    assert told.stdout.startswith(f"{tmp_path}: encrypted; keep a copy of the key elsewhere")
    assert traces(tmp_path, known) == 0
    assert CliRunner().invoke(app, ["enroll", str(tmp_path), "--list"]).stdout.endswith("; encrypted\n")
    again = CliRunner().invoke(app, ["enroll", str(tmp_path), "--encrypt"])
    assert "is encrypted already" in again.stderr
    told = CliRunner().invoke(app, ["enroll", str(tmp_path), "--decrypt", "--json"])
    assert json.loads(told.stdout) == {"schema": 1, "gallery": str(tmp_path), "encrypted": False}
    after = load_gallery(tmp_path)
    np.testing.assert_array_equal(after.embeddings, before.embeddings)
    assert (after.keys, after.files, after.names) == (before.keys, before.files, before.names)


def test_remove_people_deletes_an_encrypted_index_behind_a_link_but_no_gallery(tmp_path, with_key):
    for name in ("people", "others"):
        add_faces(tmp_path / name, MAKER, faces(2))
    (tmp_path / "index").write_bytes(KEY.seal(b"codes", "index"))
    (tmp_path / "people" / "index-1.faiss").symlink_to(tmp_path / "index")
    (tmp_path / "people" / "index-2.faiss").symlink_to(tmp_path / "others" / "gallery.safetensors")
    remove_people(tmp_path / "people", ["person 0"])
    assert not (tmp_path / "index").exists()
    assert len(load_gallery(tmp_path / "others")) == 2


def test_encrypted_gallery_names_the_missing_extra(tmp_path, with_key):
    add_faces(tmp_path, MAKER, faces(2))
    for name in [name for name in sys.modules if name.startswith("cryptography")]:
        with_key.delitem(sys.modules, name)
    with_key.setitem(sys.modules, "cryptography", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'vplface\[encryption\]'"):
        load_gallery(tmp_path)


def test_change_gallery_encrypts_every_change_with_a_salt_of_its_own(tmp_path, with_key):
    add_faces(tmp_path, MAKER, faces(2))
    path, salts = tmp_path / "gallery.safetensors", set()
    for _ in range(3):
        change_gallery(tmp_path, lambda gallery: replace(gallery))
        salts.add(path.read_bytes()[16:32])
    assert len(salts) == 3
