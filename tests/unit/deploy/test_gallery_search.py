"""Exact search against its definition, faiss search against exact search, and the index file."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vplface.data.pictures import Preprocessing
from vplface.deploy import gallery_search as module
from vplface.deploy.gallery import EmbedderFingerprint, EnrolledFace, Gallery
from vplface.deploy.gallery_folder import add_faces, index_path, load_gallery, remove_people
from vplface.deploy.gallery_search import Search
from vplface.deploy.gallery_templates import picture_weights
from vplface.errors import DataError, MissingExtraError


def gallery_of(embeddings: np.ndarray, person: np.ndarray, names: list[str] | None = None) -> Gallery:
    n = len(embeddings)
    fingerprint = EmbedderFingerprint("m.onnx", "ab" * 32, embeddings.shape[1], Preprocessing(), "sum")
    people = names or [f"person {number}" for number in range(person.max() + 1)]
    zeros = np.zeros((n, 32), np.uint8)
    return Gallery(
        fingerprint,
        people,
        person.astype(np.int32),
        embeddings,
        zeros,
        np.full((n, 4), -1, np.int32),
        list(map(str, range(n))),
    )


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def definition(gallery: Gallery, probe: np.ndarray, k: int) -> list[tuple[str, float, str]]:
    """Every person by the highest cosine with a picture, sorted; of equals the first."""
    cosines = gallery.embeddings @ probe
    found = []
    for person, name in enumerate(gallery.names):
        rows = np.flatnonzero(gallery.person == person)
        best = rows[cosines[rows].argmax()]
        found.append((name, float(cosines[best]), gallery.files[best]))
    return sorted(found, key=lambda each: -each[1])[:k]


@given(st.integers(1, 70), st.integers(1, 12), st.integers(1, 20), st.integers(1, 15), st.integers(0, 2**32 - 1))
def test_Search_exact_agrees_with_the_definition_including_ties(probes, people, extra, k, seed):
    rng = np.random.default_rng(seed)
    # Axes and signs: cosines are exact in float32, and many are equal.
    axes = np.concatenate([np.eye(4), -np.eye(4)]).astype(np.float32)
    person = rng.permutation(np.concatenate([np.arange(people), rng.integers(people, size=extra)]))
    gallery = gallery_of(axes[rng.integers(8, size=len(person))], person)
    queries = axes[rng.integers(8, size=probes)]
    for probe, matches in zip(queries, Search(gallery)(queries, k), strict=True):
        assert [(match.name, match.similarity, match.file) for match in matches] == definition(gallery, probe, k)


def crowd(dim: int, people: int = 300, pictures: int = 4) -> tuple[Gallery, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    centres = unit(rng.normal(size=(people, dim)))
    person = np.repeat(np.arange(people), pictures)
    noisy = lambda who: unit(centres[who] + 0.6 * rng.normal(size=(len(who), dim)) / dim**0.5)  # noqa: E731
    asked = rng.integers(people, size=100)
    return gallery_of(noisy(person), person), noisy(asked), asked


@pytest.mark.parametrize("dim", [33, 64, 128])
def test_Search_faiss_finds_the_same_people_with_exact_similarities(dim, monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr(module, "_BLOCK_ROWS", 500)
    monkeypatch.setattr(module, "_MIN_CANDIDATES", 100)
    gallery, queries, asked = crowd(dim)
    exact, coded = Search(gallery, "exact")(queries), Search(gallery, "faiss")(queries)
    assert [match.name for (match,) in exact] == [gallery.names[who] for who in asked.tolist()]
    for (one,), (other,) in zip(exact, coded, strict=True):
        assert (one.name, one.file) == (other.name, other.file)
        assert one.similarity == pytest.approx(other.similarity, abs=1e-6)


def test_Search_faiss_finds_all_people_of_a_small_gallery_in_order():
    pytest.importorskip("faiss")
    gallery, queries, _ = crowd(16, people=20, pictures=3)
    for probe, matches in zip(queries, Search(gallery, "faiss")(queries, 50), strict=True):
        wanted = definition(gallery, probe, 50)
        assert [match.name for match in matches] == [name for name, _, _ in wanted]
        np.testing.assert_allclose([match.similarity for match in matches], [cos for _, cos, _ in wanted], atol=1e-6)


@settings(max_examples=60)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 8), st.integers(1, 15), st.data())
def test_Search_faiss_is_exact_in_small_galleries_with_ties(pictures, people, axes, k, data):
    pytest.importorskip("faiss")
    # Axes and signs: cosines are exact in float32. Few axes: equal pictures, and probes that are orthogonal to all.
    signed = np.concatenate([np.eye(8), -np.eye(8)]).astype(np.float32)
    rows = data.draw(st.lists(st.integers(0, axes - 1), min_size=pictures, max_size=pictures))
    owners = data.draw(st.lists(st.integers(0, people - 1), min_size=pictures, max_size=pictures))
    _, person = np.unique(owners, return_inverse=True)
    gallery = gallery_of(signed[rows], person)
    found, exact = (Search(gallery, engine)(signed, k) for engine in ("faiss", "exact"))
    assert [list(map(vars, each)) for each in found] == [list(map(vars, each)) for each in exact]


@pytest.mark.parametrize("equal", [1, 15, 16, 17, 255, 256, 257, 400])
def test_Search_faiss_finds_any_number_of_equal_pictures(equal):
    pytest.importorskip("faiss")
    row = unit(np.random.default_rng(0).normal(size=(1, 32)))
    gallery = gallery_of(np.repeat(row, equal, 0), np.zeros(equal, np.int64))
    ((match,),) = Search(gallery, "faiss")(row)
    assert (match.name, match.similarity) == ("person 0", pytest.approx(1, abs=1e-6))


def test_Search_faiss_is_exact_for_a_probe_that_no_code_distinguishes():
    pytest.importorskip("faiss")
    axes = np.eye(32, dtype=np.float32)
    gallery = gallery_of(axes[np.arange(400) % 16], np.arange(400) % 16)
    found, exact = (Search(gallery, engine)(axes[20:21], 3)[0] for engine in ("faiss", "exact"))
    assert list(map(vars, found)) == list(map(vars, exact))


def test_Search_auto_chooses_faiss_for_large_galleries(monkeypatch):
    pytest.importorskip("faiss")
    gallery, _, _ = crowd(16)
    assert Search(gallery).engine == "exact"
    monkeypatch.setattr(module, "EXACT_BELOW", len(gallery))
    assert Search(gallery).engine == "faiss"
    assert Search(gallery, "exact").engine == "exact"
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'vplface\[faiss\]'.*exact"):
        Search(gallery)


@pytest.fixture
def stored(tmp_path):
    gallery, queries, _ = crowd(16, people=40)
    faces = [
        EnrolledFace(gallery.names[who], row, f"{number:064x}", f"{number}.jpg")
        for number, (who, row) in enumerate(zip(gallery.person.tolist(), gallery.embeddings, strict=True))
    ]
    add_faces(tmp_path, gallery.fingerprint, faces)
    return tmp_path, queries


def test_Search_stores_the_index_until_the_gallery_changes(stored, monkeypatch):
    faiss = pytest.importorskip("faiss")
    folder, queries = stored
    gallery = load_gallery(folder)
    first = Search(gallery, "faiss", folder)(queries, 3)
    kept = index_path(folder, gallery)
    assert faiss.read_index(str(kept)).ntotal == len(gallery)
    monkeypatch.setattr(module, "_build_index", None)  # so that making another one fails
    again = Search(load_gallery(folder), "faiss", folder)(queries, 3)
    assert [[vars(match) for match in each] for each in first] == [[vars(match) for match in each] for each in again]
    monkeypatch.undo()
    remove_people(folder, [gallery.names[0]])
    assert not list(folder.glob("index-*"))
    Search(load_gallery(folder), "faiss", folder)
    assert faiss.read_index(str(index_path(folder, load_gallery(folder)))).ntotal == len(gallery) - 4


def test_Search_does_not_store_the_index_of_a_changed_gallery(stored):
    pytest.importorskip("faiss")
    folder, queries = stored
    old = load_gallery(folder)
    remove_people(folder, [old.names[0]])
    search = Search(old, "faiss", folder)
    assert len(search(queries)) == len(queries)
    assert search.not_kept is None
    assert not list(folder.glob("*index-*"))


@pytest.mark.parametrize("damage", ["cut", "noise", "another"])
def test_Search_replaces_a_damaged_index(stored, damage):
    faiss = pytest.importorskip("faiss")
    folder, queries = stored
    gallery = load_gallery(folder)
    whole = Search(gallery, "faiss", folder)(queries)
    path = index_path(folder, gallery)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-50])
    elif damage == "noise":
        path.write_bytes(b"\xff" * 100)
    else:
        faiss.write_index(faiss.IndexFlatIP(16), str(path))
    found = Search(gallery, "faiss", folder)(queries)
    assert [match.name for (match,) in found] == [match.name for (match,) in whole]
    assert faiss.read_index(str(path)).ntotal == len(gallery)


def test_Search_uses_an_index_that_cannot_be_stored(stored, monkeypatch):
    pytest.importorskip("faiss")
    folder, queries = stored

    def refuse(*_):
        raise DataError("people: cannot be written: Read-only file system")

    monkeypatch.setattr(module, "write_index", refuse)
    search = Search(load_gallery(folder), "faiss", folder)
    assert len(search(queries)) == len(queries)
    assert search.not_kept == "people: cannot be written: Read-only file system"


@pytest.mark.parametrize("engine", ["exact", "faiss"])
@pytest.mark.parametrize("value", [0.0, 2.0, np.nan])
def test_Search_names_a_damaged_embedding(engine, value):
    pytest.importorskip("faiss")
    gallery, _, _ = crowd(16, people=3)
    gallery.embeddings[5] = value
    with pytest.raises(DataError, match="damaged: embedding 5, of 'person 1', is not of unit norm"):
        Search(gallery, engine)


def test_Search_refuses_empty_galleries_and_wrong_arguments():
    gallery, queries, _ = crowd(16, people=3)
    with pytest.raises(DataError, match="the gallery: nobody is enrolled"):
        Search(Gallery.empty(gallery.fingerprint))
    with pytest.raises(ValueError, match="engine must be one of auto, exact, faiss"):
        Search(gallery, "fast")  # type: ignore[arg-type]
    search = Search(gallery)
    assert search(queries[:0]) == []
    for probes, k in ((queries[:, :8], 1), (queries[0], 1), (queries, 0)):
        with pytest.raises(ValueError, match=r"probes must be \[n, 16\] and k positive"):
            search(probes, k)


def with_records(gallery, norm=None, quality=None):
    records = gallery.records
    given = {key: value for key, value in (("norm", norm), ("quality", quality)) if value is not None}
    return replace(gallery, known_records=replace(records, **{k: np.asarray(v, np.float32) for k, v in given.items()}))


def test_picture_weights_take_quality_then_norm_then_one():
    gallery = gallery_of(np.eye(8, dtype=np.float32), np.array([0, 0, 1, 1, 2, 2, 3, 3]))
    nan = np.nan
    known = with_records(gallery, norm=[2, 3, 4, 5, 6, nan, 7, 8], quality=[0.5, 0.25, 0.5, nan, nan, 0.5, -1, 0.5])
    assert picture_weights(known).tolist() == [0.5, 0.25, 4, 5, 1, 1, 7, 8]
    assert picture_weights(gallery).tolist() == [1] * 8


@pytest.mark.parametrize("engine", ["exact", "faiss"])
@pytest.mark.parametrize("kind", ["mean", "weighted"])
def test_Search_templates_agree_with_their_definition(kind, engine, monkeypatch):
    if engine == "faiss":
        pytest.importorskip("faiss")
    gallery, queries, _ = crowd(32, people=30)
    norms = np.random.default_rng(1).uniform(1, 9, len(gallery)).astype(np.float32)
    gallery = with_records(gallery, norm=norms)
    weights = norms if kind == "weighted" else np.ones(len(gallery))
    for probe, matches in zip(queries, Search(gallery, engine, templates=kind)(queries, 4), strict=True):
        wanted = []
        for person, name in enumerate(gallery.names):
            rows = np.flatnonzero(gallery.person == person)
            total = (weights[rows, None] * gallery.embeddings[rows]).sum(0)
            nearest = rows[(gallery.embeddings[rows] @ probe).argmax()]
            wanted.append((name, float(total @ probe / np.linalg.norm(total)), gallery.files[nearest]))
        wanted.sort(key=lambda each: -each[1])
        assert [(match.name, match.file) for match in matches] == [(name, file) for name, _, file in wanted[:4]]
        np.testing.assert_allclose([match.similarity for match in matches], [c for _, c, _ in wanted[:4]], atol=1e-6)


def test_Search_templates_keep_an_index_of_their_own(stored):
    pytest.importorskip("faiss")
    folder, queries = stored
    gallery = load_gallery(folder)
    Search(gallery, "faiss", folder)
    means = Search(gallery, "faiss", folder, "mean")(queries)
    assert {path.name for path in folder.glob("index-*")} == {
        f"index-{gallery.revision}.faiss", f"index-{gallery.revision}-mean.faiss",
    }  # fmt: skip
    again = Search(load_gallery(folder), "faiss", folder, "mean")(queries)
    assert [[vars(match) for match in each] for each in again] == [[vars(match) for match in each] for each in means]
    remove_people(folder, [gallery.names[0]])
    assert not list(folder.glob("index-*"))
