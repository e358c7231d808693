"""Conversion to every format and back, undisturbed and killed."""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from vplface.cli.app import app
from vplface.data import convert as module
from vplface.data.convert import convert
from vplface.data.formats import open_pictures
from vplface.data.formats.image_folder import ImageFolder
from vplface.data.pair_lists import read_pairs
from vplface.data.pairs import Pairs, resolve, write_pairs

FORMS = {
    "folder": ("image_folder", "set"),
    "recordio": ("recordio", "set.rec"),
    "tar": ("tar_shards", "set"),
    "list": ("picture_list", "set.csv"),
    "parquet": ("parquet", "set"),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Forty different files of five people; two are not pictures, which a copy does not notice."""
    rng = random.Random(0)
    root = tmp_path_factory.mktemp("convert") / "source"
    for number in range(40):
        path = root / f"pérson {number % 5}" / f"{number // 20}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\xff\xd8\xff" + rng.randbytes(rng.randrange(400)) + b"\xff\xd9")
    (root / "pérson 3" / "0" / "3.jpg").write_bytes(b"")
    (root / "pérson 4" / "0" / "4.jpg").write_bytes(b"text")
    return root


@pytest.fixture(params=FORMS)
def form(request):
    pytest.importorskip(f"vplface.data.formats.{FORMS[request.param][0]}")
    return request.param


def content(path: Path, form: str) -> list[tuple[str, str, bytes]]:
    """Identity, name and bytes of every picture, sorted; the names of a list without its folder."""
    pictures = open_pictures(path)
    return sorted(
        (
            pictures.identities[pictures.labels[index]],
            pictures.name(index).removeprefix("set/" if form == "list" else ""),
            pictures.encoded(index),
        )
        for index in range(len(pictures))
    )


def test_convert_keeps_names_and_bytes_through_every_format_and_back(source, tmp_path, form):
    there, back = tmp_path / form / FORMS[form][1], tmp_path / "back"
    assert convert(ImageFolder(source), source, there, form).pictures == 40
    assert content(there, form) == content(source, "folder")
    assert list(open_pictures(there).identities) == list(ImageFolder(source).identities)
    convert(open_pictures(there), there, back, "folder")
    prefix = "set/" if form == "list" else ""
    assert content(back, "folder") == [(who, f"{who}/{prefix}{name}" if prefix else name, data)
                                       for who, name, data in content(source, "folder")]  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="forks and signals as Linux has them")
def test_convert_killed_at_any_picture_ends_with_the_same_files(source, tmp_path, form):
    undisturbed, target = (tmp_path / name / FORMS[form][1] for name in ("undisturbed", "target"))
    convert(ImageFolder(source), source, undisturbed, form)

    def killed(reads: int) -> None:
        pictures = ImageFolder(source)
        left = [reads]

        def encoded(index: int) -> bytes:
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return ImageFolder.encoded(pictures, index)

        pictures.encoded = encoded
        convert(pictures, source, target, form)

    for reads in (1, 17, 9, 30):
        pid = os.fork()
        if pid == 0:
            try:
                killed(reads)
            finally:
                os._exit(70)
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 70:
            break  # it came to its end
    if module._Journal.place(target).exists():
        convert(ImageFolder(source), source, target, form)
    files = {path.relative_to(tmp_path / "undisturbed"): path.read_bytes()
             for path in (tmp_path / "undisturbed").rglob("*") if path.is_file()}  # fmt: skip
    again = {path.relative_to(tmp_path / "target"): path.read_bytes()
             for path in (tmp_path / "target").rglob("*") if path.is_file()}  # fmt: skip
    assert again == files


def test_vplface_data_convert_keeps_pairs_through_a_bin_file(faces, tmp_path, form):
    pytest.importorskip("vplface.data.formats.verification_bin")
    pictures = ImageFolder(faces)
    rng = np.random.default_rng(0)
    left, right = rng.integers(0, 48, (2, 30))
    same = pictures.labels[left] == pictures.labels[right]
    named = Pairs(list(map(pictures.name, left)), list(map(pictures.name, right)), same, np.arange(30) // 3)
    write_pairs(tmp_path / "pairs.txt", named)
    run = CliRunner().invoke
    made = run(app, ["data", "convert", str(faces), f"{tmp_path}/x.bin", "--pairs", f"{tmp_path}/pairs.txt"])
    assert made.exit_code == 0, made.output
    target = tmp_path / form / FORMS[form][1]
    out = run(app, ["data", "convert", f"{tmp_path}/x.bin", str(target), "--to", form])
    assert out.exit_code == 0, out.output
    told = read_pairs(target.with_name(f"{target.name}.pairs.txt"))
    assert told.same.tolist() == same.tolist()
    assert told.fold.tolist() == named.fold.tolist()
    new = open_pictures(target)
    for old_side, new_side in zip((left, right), resolve(told, new), strict=True):
        assert [new.encoded(k) for k in new_side.tolist()] == [pictures.encoded(k) for k in old_side.tolist()]
    again = run(app, ["data", "convert", str(faces), f"{tmp_path}/x.bin", "--pairs", f"{tmp_path}/pairs.txt"])
    assert again.exit_code == 1
    assert "x.bin: already exists" in again.stderr
