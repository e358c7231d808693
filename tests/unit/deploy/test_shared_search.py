"""One search used by several threads, while nothing changes and while people are enrolled and removed."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from vplface.data.pictures import Preprocessing
from vplface.deploy import shared_search as module
from vplface.deploy.gallery import EmbedderFingerprint, EnrolledFace
from vplface.deploy.gallery_folder import add_faces, load_gallery, remove_people
from vplface.deploy.gallery_search import Search
from vplface.deploy.shared_search import SharedSearch
from vplface.errors import DataError

DIM = 16
MAKER = EmbedderFingerprint("/models/m.onnx", "ab" * 32, DIM, Preprocessing(), "sum")


def faces(people, pictures=3, first=0):
    rng = np.random.default_rng(first)
    centres = rng.normal(size=(people, DIM))
    found = []
    for number in range(people * pictures):
        row = centres[number % people] + 0.3 * rng.normal(size=DIM)
        row = (row / np.linalg.norm(row)).astype(np.float32)
        found.append(EnrolledFace(f"p{first + number % people}", row, rng.bytes(32).hex(), f"{first + number}.jpg"))
    return found


def answers(matches):
    return [[(match.name, match.similarity, match.file) for match in each] for each in matches]


@pytest.mark.parametrize("engine", ["exact", "faiss"])
@pytest.mark.parametrize("templates", ["best", "mean"])
def test_SharedSearch_gives_eight_threads_the_answers_of_one(tmp_path, engine, templates):
    if engine == "faiss":
        pytest.importorskip("faiss")
    known = faces(130)
    add_faces(tmp_path, MAKER, known)
    probes = np.stack([face.embedding for face in known[:50]])
    expected = answers(Search(load_gallery(tmp_path), engine, templates=templates)(probes, 3))
    search, start = SharedSearch(tmp_path, engine, templates), threading.Barrier(8)

    def ask(thread: int):
        start.wait()
        found = {}
        for row in np.random.default_rng(thread).permutation(50):
            found[int(row)] = answers(search(probes[row : row + 1], 3))[0]
        return [found[row] for row in range(50)]

    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(ask, range(8)):
            for one, other in zip(found, expected, strict=True):
                assert [(name, file) for name, _, file in one] == [(name, file) for name, _, file in other]
                np.testing.assert_allclose([c for _, c, _ in one], [c for _, c, _ in other], atol=1e-6)


def test_SharedSearch_reads_a_gallery_once_until_it_changes(tmp_path, monkeypatch):
    add_faces(tmp_path, MAKER, faces(5))
    reads = []

    def counted(folder):
        reads.append(1)
        return load_gallery(folder)

    monkeypatch.setattr(module, "load_gallery", counted)
    search, probe = SharedSearch(tmp_path), faces(5)[0].embedding[None]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: search(probe), range(40)))
    assert len(reads) == 1
    add_faces(tmp_path, MAKER, faces(5, first=50))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: search(probe), range(40)))
    assert len(reads) == 2
    assert len(search.current()[0]) == 30
    search.forget()
    search(probe)
    assert len(reads) == 3


def test_SharedSearch_never_finds_somebody_who_was_removed_before_the_search(tmp_path):
    stays, changing = faces(4), faces(1, first=100)
    add_faces(tmp_path, MAKER, stays)
    search, probe = SharedSearch(tmp_path), changing[0].embedding[None]
    state = [(0, "out")]  # the number of the change, and what holds until the next one begins
    over, wrong, met = threading.Event(), [], set()

    def change():
        for number in range(8):
            state[0] = number, "changing"
            add_faces(tmp_path, MAKER, changing)
            state[0] = number, "in"
            time.sleep(0.005)
            state[0] = number, "changing"
            remove_people(tmp_path, ["p100"])
            state[0] = number, "out"
            time.sleep(0.005)
        over.set()

    def ask():
        while not over.is_set():
            time.sleep(0.001)  # so that the writer gets its turn
            before = state[0]
            found = "in" if search(probe)[0][0].name == "p100" else "out"
            if state[0] == before and before[1] != "changing":
                met.add(found)
                if found != before[1]:
                    wrong.append((before, found))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    change()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert met == {"in", "out"}


def test_SharedSearch_names_what_is_wrong_and_holds_nothing_then(tmp_path):
    search, probe = SharedSearch(tmp_path / "people"), faces(1)[0].embedding[None]
    with pytest.raises(DataError, match="there is no gallery"):
        search(probe)
    add_faces(tmp_path / "people", MAKER, faces(2))
    assert search(probe)[0][0].name in ("p0", "p1")
    path = tmp_path / "people" / "gallery.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="damaged"):
        search(probe)
    assert search._held is None
    path.unlink()
    with pytest.raises(DataError, match="there is no gallery"):
        search(probe)
