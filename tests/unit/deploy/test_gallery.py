"""Galleries in memory and on disk: against a dictionary, with killed writers, locks, damage and links."""

from __future__ import annotations

import json
import multiprocessing
import os
import stat
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import filelock
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from vplface.data.pictures import Preprocessing
from vplface.deploy import gallery_folder as module
from vplface.deploy.gallery import EmbedderFingerprint, EnrolledFace, Gallery, normalise_name
from vplface.deploy.gallery_folder import add_faces, load_gallery, remove_people, require_gallery_or_empty
from vplface.errors import DataError

DIM = 8
MAKER = EmbedderFingerprint("/models/m.onnx", "ab" * 32, DIM, Preprocessing(), "sum")
NAMES = ("Ada", "Zoë Ω", "a/b\\..", "李小龍", '"quoted", {json}')


def face(name: str, seed: int, box: tuple[int, int, int, int] | None = None) -> EnrolledFace:
    """A face whose embedding, hash and file follow from the seed."""
    rng = np.random.default_rng(seed)
    vector = rng.normal(size=DIM).astype(np.float32)
    return EnrolledFace(name, vector / np.linalg.norm(vector), rng.bytes(32).hex(), f"{seed}.jpg", box)


def contents(gallery: Gallery) -> dict[str, list[tuple[bytes, str, bytes, tuple[int, ...]]]]:
    found: dict[str, list[tuple[bytes, str, bytes, tuple[int, ...]]]] = {name: [] for name in gallery.names}
    for row, person in enumerate(gallery.person.tolist()):
        found[gallery.names[person]].append(
            (
                gallery.embeddings[row].tobytes(), gallery.files[row], gallery.sha256[row].tobytes(),
                tuple(gallery.boxes[row].tolist()),
            )
        )  # fmt: skip
    return found


def expected(face: EnrolledFace) -> tuple[bytes, str, bytes, tuple[int, ...]]:
    return face.embedding.tobytes(), face.file, bytes.fromhex(face.sha256), face.box or (-1, -1, -1, -1)


ADD = st.tuples(
    st.just("add"),
    st.lists(
        st.builds(
            face, st.sampled_from(NAMES), st.integers(0, 12), st.sampled_from([None, (1, 2, 30, 40), (50, 2, 30, 40)])
        ),
        max_size=5,
    ),
)
REMOVE = st.tuples(st.just("remove"), st.lists(st.sampled_from(NAMES), min_size=1, max_size=3))


@settings(max_examples=30)
@given(st.lists(st.one_of(ADD, REMOVE), max_size=8))
def test_add_faces_and_remove_people_agree_with_a_dictionary(steps):
    model: dict[str, list[EnrolledFace]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "people"
        add_faces(folder, MAKER, [face("first", 99)])
        model["first"] = [face("first", 99)]
        for what, arguments in steps:
            if what == "add":
                taken = {(each.sha256, each.box): name for name, faces in model.items() for each in faces}
                there = []
                for each in arguments:
                    key = each.sha256, each.box
                    if key in taken:
                        there.append((each, taken[key]))
                    else:
                        taken[key] = each.name
                        model.setdefault(each.name, []).append(each)
                assert add_faces(folder, MAKER, arguments) == there
            elif set(arguments) <= set(model):
                assert remove_people(folder, arguments) == sum(len(model.pop(name)) for name in set(arguments))
            else:
                with pytest.raises(DataError, match="nobody is enrolled as"):
                    remove_people(folder, arguments)
            stored = load_gallery(folder)
            assert list(stored.names) == list(model)
            assert stored.pictures == {name: len(faces) for name, faces in model.items()}
            assert contents(stored) == {name: [expected(each) for each in faces] for name, faces in model.items()}
            assert stored.fingerprint == MAKER


def test_normalise_name_composes_strips_and_checks_names():
    assert normalise_name("  Zoe\u0308 ") == "Zoë"
    for name in ("", "  ", "a\nb", "a\0", "a\udcff"):
        with pytest.raises(DataError, match="invalid name"):
            normalise_name(name)
    grown, _ = Gallery.empty(MAKER).adding([face("Zoe\u0308", 1), face("Zoë", 2)])
    assert grown.pictures == {"Zoë": 2}
    assert len(grown.without(["Zoe\u0308"])) == 0


def test_Gallery_adding_enrols_the_same_face_once_under_any_name():
    one, other = face("Ada", 1, (1, 2, 30, 40)), face("Grace", 1, (1, 2, 30, 40))
    beside = face("Grace", 1, (90, 2, 30, 40))
    grown, there = Gallery.empty(MAKER).adding([one, one, other, beside])
    assert grown.pictures == {"Ada": 1, "Grace": 1}
    assert there == [(one, "Ada"), (other, "Ada")]


def test_Gallery_adding_refuses_an_invalid_embedding():
    good = face("Ada", 1)
    for vector in (good.embedding * 2, good.embedding[:4], np.full(DIM, np.nan, np.float32)):
        with pytest.raises(ValueError, match=r"1\.jpg: expected a unit-norm embedding \[8\]"):
            Gallery.empty(MAKER).adding([replace(good, embedding=vector)])


def test_add_faces_refuses_faces_of_another_model(tmp_path):
    add_faces(tmp_path / "people", MAKER, [face("Ada", 1)])
    moved = replace(MAKER, model="/elsewhere/m.onnx")
    add_faces(tmp_path / "people", moved, [face("Ada", 2)])
    before = (tmp_path / "people" / "gallery.safetensors").read_bytes()
    for other, what in (
        (replace(MAKER, weights="cd" * 32), r"the model differs \(abababababab… there, cdcdcdcdcdcd… now\)"),
        (replace(MAKER, embedding_dim=9), r"the size of embeddings differs \(8 there, 9 now\)"),
        (replace(MAKER, preprocessing=Preprocessing(color="bgr")), "how pictures are prepared differs"),
        (replace(MAKER, flip="none"), r"flip differs \(sum there, none now\)"),
    ):
        with pytest.raises(DataError, match=rf"people: was enrolled with /models/m\.onnx; {what}"):
            add_faces(tmp_path / "people", other, [face("Ada", 3)])
    assert (tmp_path / "people" / "gallery.safetensors").read_bytes() == before


def test_remove_people_suggests_the_nearest_name_for_an_unknown_one(tmp_path):
    add_faces(tmp_path / "people", MAKER, [face("Ada Lovelace", 1), face("Grace Hopper", 2)])
    with pytest.raises(DataError, match="nobody is enrolled as 'Ada Lovelase'; did you mean 'Ada Lovelace'"):
        remove_people(tmp_path / "people", ["Grace Hopper", "Ada Lovelase"])
    assert list(load_gallery(tmp_path / "people").names) == ["Ada Lovelace", "Grace Hopper"]


@pytest.mark.skipif(os.name != "posix", reason="no rights as on Unix")
def test_add_faces_creates_private_files_and_keeps_changed_permissions(tmp_path):
    tmp_path.chmod(0o755)
    add_faces(tmp_path, MAKER, [face("Ada", 1)])
    stored = tmp_path / "gallery.safetensors"
    assert stored.stat().st_mode & 0o777 == 0o600
    stored.chmod(0o640)
    add_faces(tmp_path, MAKER, [face("Grace", 2)])
    assert stored.stat().st_mode & 0o777 == 0o640


def test_remove_people_leaves_no_bytes_in_the_folder(tmp_path):
    folder = tmp_path / "people"
    gone = [face("Ada Lovelace", seed, (1, 2, 30, 40)) for seed in range(3)]
    stays = [face("Grace Hopper", seed) for seed in range(3, 6)]
    add_faces(folder, MAKER, [*gone, *stays])
    (folder / f"index-{load_gallery(folder).revision}.faiss").write_bytes(gone[0].embedding.tobytes())
    (folder / ".unfinished").mkdir()
    (folder / ".unfinished" / "gallery.safetensors").write_bytes(gone[1].embedding.tobytes())

    def traces(faces: list[EnrolledFace]) -> int:
        """How many of the faces' numbers, hashes, names and files occur in any file."""
        everything = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
        parts = [part for each in faces for part in (
            *(number.tobytes() for number in each.embedding), bytes.fromhex(each.sha256), each.name.encode(),
            json.dumps(each.file).encode(),
        )]  # fmt: skip
        return sum(part in everything for part in parts)

    assert traces(gone) == 3 * (DIM + 3)
    assert remove_people(folder, ["Ada Lovelace"]) == 3
    assert traces(gone) == 0
    assert traces(stays) == 3 * (DIM + 3)
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "gallery.safetensors"]
    remove_people(folder, ["Grace Hopper"])
    assert traces(stays) == 0
    assert len(load_gallery(folder)) == 0


MANY = [face(f"person {seed}", seed) for seed in range(1, 400)]


def change_for_ever(folder: Path) -> None:
    while True:
        add_faces(folder, MAKER, MANY)
        remove_people(folder, [each.name for each in MANY])


def test_add_faces_and_remove_people_leave_a_complete_gallery_when_killed(tmp_path):
    folder = tmp_path / "people"
    add_faces(folder, MAKER, [face("first", 0)])
    states = [{"first": [expected(face("first", 0))]}]
    states.append(states[0] | {each.name: [expected(each)] for each in MANY})
    rng, met, unfinished, kills = np.random.default_rng(0), set(), 0, 0
    while kills < 8 or len(met) < 2 or not unfinished:
        before = (folder / "gallery.safetensors").stat().st_ino
        child = multiprocessing.get_context("fork").Process(target=change_for_ever, args=(folder,))
        child.start()
        while (folder / "gallery.safetensors").stat().st_ino == before:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.03))
        child.kill()
        child.join()
        found = contents(load_gallery(folder))
        assert found in states
        met.add(states.index(found))
        unfinished += any(path.name.startswith(".gallery") for path in folder.iterdir())
        add_faces(folder, MAKER, [face("first", 0)])  # the lock went with its holder, and what is unfinished is swept
        assert sorted(path.name for path in folder.iterdir()) == [".lock", "gallery.safetensors"]
        kills += 1
        assert kills < 100


def test_add_faces_keeps_the_faces_of_concurrent_writers(tmp_path):
    folder = tmp_path / "people"

    def enrol(name: str, first: int) -> None:
        for seed in range(first, first + 10):
            add_faces(folder, MAKER, [face(name, seed)])

    threads = [threading.Thread(target=enrol, args=(name, 100 * number)) for number, name in enumerate("abcd")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert load_gallery(folder).pictures == dict.fromkeys(load_gallery(folder).names, 10)
    assert set(load_gallery(folder).names) == set("abcd")


def test_remove_people_refuses_a_gallery_that_stays_locked(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_LOCK_TIMEOUT", 0.05)
    add_faces(tmp_path, MAKER, [face("Ada", 1)])
    with filelock.FileLock(tmp_path / ".lock"), pytest.raises(DataError, match="another process has been changing"):
        remove_people(tmp_path, ["Ada"])
    assert remove_people(tmp_path, ["Ada"]) == 1


def rewritten(path: Path, header=None, **arrays) -> None:
    """The stored gallery with other arrays, or with other entries in its header."""
    with safe_open(path, "np") as file:
        metadata = file.metadata()
    stored = safetensors.numpy.load_file(path) | arrays
    if header is not None:
        changed = json.loads(metadata["vplface_gallery"]) | header
        metadata = {"vplface_gallery": json.dumps({k: v for k, v in changed.items() if v is not None})}
    safetensors.numpy.save_file({key: array for key, array in stored.items() if array is not None}, path, metadata)


def texts(*values: str) -> np.ndarray:
    return np.frombuffer(json.dumps(values).encode(), np.uint8)


DAMAGE = {
    "shape": ({"sha256": np.zeros((2, 32), np.uint8)}, r"'sha256' has the shape \[2, 32\], for 3 pictures \[3, 32\]"),
    "rows": ({"embeddings": np.zeros((2, DIM), np.float32)}, r"'embeddings' has the shape \[2, 8\], for 3"),
    "dtype": ({"embeddings": np.zeros((3, DIM), np.float16)}, r"damaged: it holds .*F16"),
    "a tensor missing": ({"person": None}, "damaged: it holds"),
    "a name without pictures": ({"names": texts("a", "b", "c")}, "not those of its 3 people"),
    "a picture without a name": ({"names": texts("a")}, "not those of its 1 people"),
    "a name twice": ({"names": texts("a", "a")}, "duplicate name"),
    "no json": ({"names": np.frombuffer(b'["a",', np.uint8)}, "'names': not valid JSON"),
    "no text": ({"files": np.frombuffer(b"[1,2,3]", np.uint8)}, "'files' is not a list of strings"),
    "later schema": ({"header": {"schema": 3}}, "has schema 3, this vplface reads 1 and 2"),
    "an earlier schema than its tensors": ({"header": {"schema": 1}}, "damaged: it holds the tensors"),
    "a path for each of two pictures": (
        {"paths": texts("a", "b")},
        r"'paths' has the shape \[2\], for 3 pictures \[3\]",
    ),
    "a date beyond all calendars": ({"enrolled": np.full(3, 2**62)}, "'enrolled' holds a time that is not a date"),
    "no maker": ({"header": {"maker": None}}, "not a gallery"),
    "half a maker": ({"header": {"maker": {"model": "m"}}}, "the description of its model is incomplete"),
    "an impossible maker": ({"header": {"maker": MAKER.to_dict() | {"flip": "both"}}}, "is invalid: .*both"),
    "wrong preprocessing": (
        {"header": {"maker": MAKER.to_dict() | {"preprocessing": {}}}},
        "damaged: preprocessing must",
    ),
    "a revision that leads elsewhere": ({"header": {"revision": "../../x"}}, "'revision' is '../../x'"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_load_gallery_names_a_damaged_file_and_what_is_wrong(tmp_path, damage):
    add_faces(tmp_path, MAKER, [face("a", 1), face("a", 2), face("b", 3)])
    changes, message = DAMAGE[damage]
    rewritten(tmp_path / "gallery.safetensors", **changes)
    with pytest.raises(DataError, match=rf"gallery\.safetensors: .*{message}"):
        load_gallery(tmp_path)


def test_load_gallery_names_a_truncated_or_foreign_file(tmp_path):
    add_faces(tmp_path, MAKER, [face("a", 1), face("b", 2)])
    path = tmp_path / "gallery.safetensors"
    whole = path.read_bytes()
    for length in [0, 1, 7, 8, 9, 50, 300, *range(len(whole) - 100, len(whole), 9)]:
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"gallery\.safetensors: damaged"):
            load_gallery(tmp_path)
    path.write_bytes(b"\xff" * 200)
    with pytest.raises(DataError, match=r"gallery\.safetensors: damaged"):
        load_gallery(tmp_path)
    other = {"weight": np.zeros(3, np.float32)}
    safetensors.numpy.save_file(other, path)
    with pytest.raises(DataError, match=r"gallery\.safetensors: not a gallery"):
        load_gallery(tmp_path)


def test_load_gallery_add_faces_and_remove_people_refuse_other_folders(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"x")
    for name, message in (
        ("absent", "there is no gallery"),
        ("file", "it is a file"),
        ("photos", "there is no gallery"),
    ):
        for use in (load_gallery, lambda folder: remove_people(folder, ["Ada"])):
            with pytest.raises(DataError, match=f"{name}: {message}; make one with: vplface enroll"):
                use(tmp_path / name)
    assert not (tmp_path / "absent").exists()
    with pytest.raises(DataError, match="photos: not a gallery and not empty"):
        add_faces(tmp_path / "photos", MAKER, [face("Ada", 1)])
    with pytest.raises(DataError, match="file: cannot be a gallery: Not a directory"):
        require_gallery_or_empty(tmp_path / "file")
    with pytest.raises(DataError, match=r"file/below: cannot be (a gallery|written): Not a directory"):
        add_faces(tmp_path / "file" / "below", MAKER, [face("Ada", 1)])
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["a.jpg"]


@pytest.fixture
def nobody():
    """A folder that an unprivileged user can enter, and that user for the duration of the test."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        rights = os.geteuid()
        yield folder, lambda: os.seteuid(65534 if rights == 0 else rights)
        os.seteuid(rights)
        for path in folder.rglob("*"):
            path.chmod(0o755)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no rights as on Unix")
def test_load_gallery_add_faces_and_remove_people_name_missing_permissions(nobody):
    folder, become = nobody
    people = folder / "people"
    add_faces(people, MAKER, [face("Ada", 1)])
    assert people.stat().st_mode & 0o777 == 0o700
    (people / ".lock").unlink()
    (people / "gallery.safetensors").chmod(0o444)
    people.chmod(0o555)
    folder.chmod(0o555)
    become()
    assert load_gallery(people).pictures == {"Ada": 1}
    for change in (
        lambda: add_faces(people, MAKER, [face("Ada", 2)]),
        lambda: remove_people(people, ["Ada"]),
        lambda: add_faces(folder / "new", MAKER, [face("Ada", 2)]),
    ):
        with pytest.raises(DataError, match=r"(people|new): cannot be written: Permission denied"):
            change()
    os.seteuid(people.stat().st_uid)
    people.chmod(0o000)
    become()
    with pytest.raises(DataError, match=r"people/gallery\.safetensors'?: cannot be read: Permission denied"):
        load_gallery(people)


def test_load_gallery_result_is_unchanged_by_a_later_removal(tmp_path):
    add_faces(tmp_path, MAKER, [face("Ada", 1), face("Grace", 2)])
    opened = load_gallery(tmp_path)
    remove_people(tmp_path, ["Ada"])
    assert contents(opened)["Ada"] == [expected(face("Ada", 1))]
    assert opened.revision != load_gallery(tmp_path).revision


def behind_links(folder: Path, kind: str) -> tuple[Path, Path]:
    """A gallery with a symbolic link of this kind: the path it is reached by, and the folder of its data."""
    reached, elsewhere = folder / "people", folder / "encrypted"
    add_faces(reached, MAKER, [face("Ada Lovelace", 1), face("Grace Hopper", 2)])
    index = reached / f"index-{load_gallery(reached).revision}.faiss"
    index.write_bytes(b"IPfs" + face("Ada Lovelace", 1).embedding.tobytes())
    if kind == "folder":
        reached.rename(elsewhere)
        reached.symlink_to(elsewhere)
        return reached, elsewhere
    elsewhere.mkdir()
    for path in {"gallery": [reached / "gallery.safetensors"], "index": [index], "unfinished": []}[kind]:
        path.rename(elsewhere / path.name)
        path.symlink_to(elsewhere / path.name)
    if kind == "unfinished":
        (elsewhere / "gallery.safetensors").write_bytes(b"Ada Lovelace")
        (reached / ".unfinished").symlink_to(elsewhere)
    return reached, elsewhere


@pytest.mark.parametrize("kind", ["gallery", "folder", "index", "unfinished"])
def test_remove_people_follows_symbolic_links_and_keeps_those_to_the_data(tmp_path, kind):
    reached, elsewhere = behind_links(tmp_path, kind)
    left = elsewhere / ".gallery.safetensors.tmp-0123456789ab.safetensors"  # by a killed writer
    others = elsewhere / ".other.tmp-0123456789ab.json"
    if kind in ("gallery", "folder"):
        left.write_bytes(b"Ada Lovelace")
    others.write_bytes(b"of another program")
    if kind == "gallery":
        (elsewhere / "gallery.safetensors").chmod(0o640)
    remove_people(reached, ["Ada Lovelace"])
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for trace in (b"Ada Lovelace", face("Ada Lovelace", 1).embedding.tobytes(), bytes.fromhex(face("", 1).sha256)):
        assert trace not in everything
    assert others.exists()
    assert (reached / "gallery.safetensors").is_symlink() == (kind == "gallery")
    assert reached.is_symlink() == (kind == "folder")
    assert not list(reached.glob("index-*"))
    assert load_gallery(reached).pictures == {"Grace Hopper": 1}
    if kind == "gallery":
        assert (elsewhere / "gallery.safetensors").stat().st_mode & 0o777 == 0o640


def test_remove_people_deletes_no_foreign_file_behind_an_index_link(tmp_path):
    add_faces(tmp_path / "people", MAKER, [face("Ada", 1)])
    (tmp_path / "letter").write_text("dear Ada")
    (tmp_path / "people" / "index-0.faiss").symlink_to(tmp_path / "letter")
    remove_people(tmp_path / "people", ["Ada"])
    assert (tmp_path / "letter").read_text() == "dear Ada"
    assert not list((tmp_path / "people").glob("index-*"))


def test_remove_people_leaves_another_gallery_behind_a_link_unchanged(tmp_path):
    for name in ("people", "others"):
        add_faces(tmp_path / name, MAKER, [face("Ada", 1)])
    (tmp_path / "people" / ".unfinished").symlink_to(tmp_path / "others")
    remove_people(tmp_path / "people", ["Ada"])
    assert load_gallery(tmp_path / "others").pictures == {"Ada": 1}
    assert not (tmp_path / "people" / ".unfinished").is_symlink()


def test_add_faces_refuses_a_gallery_behind_a_dangling_link(tmp_path):
    (tmp_path / "people").mkdir()
    (tmp_path / "people" / "gallery.safetensors").symlink_to(
        tmp_path / "disk that is not there" / "gallery.safetensors"
    )
    with pytest.raises(DataError, match="not a gallery and not empty"):
        add_faces(tmp_path / "people", MAKER, [face("Ada", 1)])
    assert not (tmp_path / "disk that is not there").exists()


@pytest.mark.skipif(os.name != "posix", reason="folders are flushed on Unix")
@pytest.mark.parametrize("kind", ["gallery", "index"])
def test_remove_people_flushes_the_removal_to_disk(tmp_path, kind, monkeypatch):
    reached, elsewhere = behind_links(tmp_path, kind)
    flushed: list[tuple[int, list[str]]] = []

    def fsync(handle: int) -> None:
        names = os.listdir(handle) if stat.S_ISDIR(os.fstat(handle).st_mode) else []
        flushed.append((os.fstat(handle).st_ino, sorted(name for name in names if name != ".lock")))

    monkeypatch.setattr(os, "fsync", fsync)
    remove_people(reached, ["Ada Lovelace"])
    stored = Path(os.path.realpath(reached / "gallery.safetensors"))
    assert stored.stat().st_ino in {inode for inode, _ in flushed}
    for folder in {reached, elsewhere, stored.parent}:
        names = sorted(path.name for path in folder.iterdir() if path.name != ".lock")
        assert (folder.stat().st_ino, names) in flushed


def test_load_gallery_reads_a_complete_gallery_while_it_is_changed(tmp_path):
    folder = tmp_path / "people"
    add_faces(folder, MAKER, [face("first", 0)])
    states = [{"first": [expected(face("first", 0))]}]
    states.append(states[0] | {each.name: [expected(each)] for each in MANY})
    child = multiprocessing.get_context("fork").Process(target=change_for_ever, args=(folder,))
    child.start()
    try:
        met = []
        while len(met) < 400 or len({met.count(0), met.count(1), 0}) < 2:
            met.append(states.index(contents(load_gallery(folder))))
            assert len(met) < 4000
    finally:
        child.kill()
        child.join()


def test_load_gallery_result_survives_truncation_of_the_file(tmp_path):
    add_faces(tmp_path, MAKER, MANY)
    opened = load_gallery(tmp_path)
    os.truncate(tmp_path / "gallery.safetensors", 100)
    assert contents(opened) == {each.name: [expected(each)] for each in MANY}


@pytest.mark.parametrize("what", ["names", "files", "header"])
def test_load_gallery_refuses_deeply_nested_json_and_long_numbers(tmp_path, what):
    for text in ("[" * 100_000 + "]" * 100_000, "9" * 5000):
        add_faces(tmp_path, MAKER, [face("a", 1)])
        path = tmp_path / "gallery.safetensors"
        if what == "header":
            safetensors.numpy.save_file(safetensors.numpy.load_file(path), path, {"vplface_gallery": text})
        else:
            rewritten(path, **{what: np.frombuffer(text.encode(), np.uint8)})
        with pytest.raises(DataError, match=r"gallery\.safetensors: .*(nested too deeply|not valid JSON)"):
            load_gallery(tmp_path)
        path.unlink()


def test_load_gallery_refuses_special_and_oversized_files(tmp_path, monkeypatch):
    add_faces(tmp_path / "people", MAKER, [face("a", 1)])
    monkeypatch.setattr(module, "GALLERY_LIMIT", 100)
    with pytest.raises(DataError, match="larger than"):
        load_gallery(tmp_path / "people")
    (tmp_path / "device").mkdir()
    os.mkfifo(tmp_path / "device" / "gallery.safetensors")
    with pytest.raises(DataError, match="there is no gallery"):
        load_gallery(tmp_path / "device")
