"""Files that hold embeddings, faces, or results with names are for their owner only, whatever the umask."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vplface.cli import embed, evaluation_output, sheet
from vplface.data.drop import write_drop
from vplface.data.pairs import Pairs, write_pairs
from vplface.embedder import Embedder
from vplface.evaluation.operating_point import OperatingPoint
from vplface.evaluation.overlap import write_exclude_list
from vplface.report import document
from vplface.stored_model import ModelCard

pytestmark = pytest.mark.skipif(os.name != "posix", reason="no rights as on Unix")

PICTURE = np.zeros((112, 112, 3), np.uint8)
ROW = np.full((1, 4), 0.5, np.float32)
EMBEDDER = Embedder(lambda x: x.flatten(1), ModelCard("tiny", 4))


def pairs(path: Path) -> None:
    write_pairs(path, Pairs(["a/1.jpg"], ["b/1.jpg"], np.array([False]), np.array([0])))


PRIVATE: dict[str, Callable[[Path], object]] = {
    "e.npz": lambda path: embed._write(path, ["a.jpg"], ROW, EMBEDDER),
    "e.npy": lambda path: embed._write(path, ["a.jpg"], ROW, EMBEDDER),
    "e.csv": lambda path: embed._write(path, ["a.jpg"], ROW, EMBEDDER),
    "result.json": lambda path: evaluation_output.store(path, {"mistakes": ["a.jpg"]}),
    "page.html": lambda path: document.write_page(path, "<!doctype html>"),
    "sheet.png": lambda path: sheet.write_sheet(path, "note", [sheet.row("a", [PICTURE], [PICTURE])]),
    "drop.txt": lambda path: write_drop(path, {"a/1.jpg": "unreadable"}),
    "exclude.txt": lambda path: write_exclude_list(path, ["Ada"]),
    "pairs.txt": pairs,
}


@pytest.fixture
def open_umask():
    """New files can be read and written by everybody, unless they are made otherwise."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.parametrize("name", PRIVATE)
def test_PRIVATE_writers_give_their_files_mode_600(name, tmp_path, open_umask):
    path = tmp_path / name
    for there in (False, True):
        if there:
            path.chmod(0o644)
        PRIVATE[name](path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_draw_identified_gives_its_file_mode_600(tmp_path, open_umask):
    pytest.importorskip("matplotlib")
    from vplface.cli.faces_drawn import draw_identified
    from vplface.deploy.faces import FoundFace, Photograph

    draw_identified(
        tmp_path / "a.png", [(Photograph(Path("a.jpg"), "", PICTURE, [FoundFace(PICTURE)]), [("Ada", True)])], ""
    )
    assert stat.S_IMODE((tmp_path / "a.png").stat().st_mode) == 0o600


def test_OperatingPoint_save_gives_its_file_mode_666(tmp_path, open_umask):
    point = OperatingPoint(0.3, 1e-3, 1e-3, 0.9, {}, "lfw", "2026-11-30", {})
    assert stat.S_IMODE(point.save(tmp_path).stat().st_mode) == 0o666
