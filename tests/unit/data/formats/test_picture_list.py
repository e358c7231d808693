from __future__ import annotations

import csv
import os
import pickle
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vplface.data.formats import open_pictures
from vplface.data.formats.image_folder import ImageFolder
from vplface.data.formats.picture_list import PictureList, PictureListWriter
from vplface.data.pictures import UnreadablePictureError
from vplface.errors import DataError

from .test_image_folder import fill, names

one_file = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def listed(folder: Path, text: str | bytes, kind: str = ".csv") -> Path:
    path = folder / f"faces{kind}"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_PictureList_keeps_the_order_of_the_list_and_sorts_identities_naturally(tmp_path: Path) -> None:
    fill(tmp_path, "x/1.png", "x/2.png", "y z/3.png")
    text = 'Label,note,path\n10,"a, b",x/2.png\n9,,"y z/3.png"\n\n10,"two\nlines",x/1.png\n'
    pictures = open_pictures(listed(tmp_path, text))
    assert names(pictures) == ["x/2.png", "y z/3.png", "x/1.png"]
    assert list(pictures.identities) == ["9", "10"]
    assert pictures.labels.tolist() == [1, 0, 1]
    assert pictures.labels.dtype == "int64"
    assert [int(pictures.picture(k)[50, 50, 0]) for k in range(3)] == [1, 2, 0]
    assert pictures.encoded(1) == (tmp_path / "y z/3.png").read_bytes()
    assert pictures.where(1) == str(tmp_path / "y z/3.png")
    with pytest.raises(IndexError):
        pictures.name(3)


@pytest.mark.parametrize("kind", [".csv", ".tsv", ".TSV"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_PictureList_reads_any_separator_line_end_and_byte_order_mark(
    tmp_path: Path, kind: str, ends: str, mark: str
) -> None:
    lines = ["path,label", "Å/№ 1.png,Жанна", 'b.png,"said ""b"""']
    text = mark + ends.join(lines).replace(",", "," if kind == ".csv" else "\t")
    pictures = PictureList(listed(tmp_path, text, kind))
    assert names(pictures) == ["Å/№ 1.png", "b.png"]
    assert list(pictures.identities) == ['said "b"', "Жанна"]


def test_PictureList_selects_a_split(tmp_path: Path) -> None:
    path = listed(tmp_path, "split,path,label\ntrain,a,x\ntest,b,y\ntrain,c,z\n,d,w\n")
    assert names(PictureList(path)) == ["a", "b", "c", "d"]
    chosen = open_pictures(path, "train")
    assert names(chosen) == ["a", "c"]
    assert list(chosen.identities) == ["x", "z"]
    with pytest.raises(DataError, match=r"faces\.csv: has no split 'val', only '', 'test', 'train'"):
        PictureList(path, "val")
    with pytest.raises(DataError, match="no column 'split'"):
        PictureList(listed(tmp_path, "path,label\na,b\n"), "train")


def test_open_pictures_refuses_a_split_of_an_image_folder(tmp_path: Path) -> None:
    fill(tmp_path, "a/1.png")
    with pytest.raises(DataError, match=r"only lists, Parquet and \.zip files have splits"):
        open_pictures(tmp_path, "train")


def test_PictureList_names_contain_neither_parent_folders_nor_the_root(tmp_path: Path) -> None:
    fill(tmp_path, "in/a.png", "out/b.png")
    rows = ["./a.png", "../out/b.png", str(tmp_path / "in/a.png"), str(tmp_path / "out/b.png"), "..a/b.png"]
    (tmp_path / "in/l.csv").write_text("path,label\n" + "".join(f"{row},x\n" for row in rows))
    pictures = PictureList(tmp_path / "in/l.csv")
    outside = (tmp_path / "out/b.png").as_posix().lstrip("/")
    assert names(pictures) == ["a.png", outside, "a.png", outside, "..a/b.png"]
    assert [int(pictures.picture(k)[5, 5, 0]) for k in range(4)] == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: names the column 'path' 0 times"),
        ("a,b\n", "line 1: names the column 'path' 0 times.*separated by commas, and is .'a', 'b'."),
        ("path;label\na;b\n", "line 1: names the column 'path' 0 times"),
        ("path,path,label\n", "names the column 'path' 2 times"),
        ("path,label\n", "lists no pictures"),
        ("path,label\na,b\n\nc\n", "line 4: 1 fields, but line 1 names 2 columns"),
        ("path,label\na,b,c\n", "line 2: 3 fields"),
        ("path,label\n ,b\n", "line 2: the column 'path' is empty"),
        ("path,label\na,b\nb,\n", "line 3: the column 'label' is empty"),
        ("path,label\na\0,b\n", "line 2: the column 'path' holds a zero byte"),
        ('path,label\na,"b" c\n', "line 2: ',' expected after"),
        ('path,label\na,"b\n', "line 2: unexpected end of data"),
        ("path,label\na," + "b" * 200_000 + "\n", "line 2: field larger than"),
        (b"path,label\na,b\nc,\xe9\n", r"line 3: is not text in UTF-8 \(byte 2 of the line\)"),
        ("path,label\n".encode("utf-16"), "line 1: is not text in UTF-8"),
    ],
)
def test_PictureList_refuses_malformed_lists_and_names_the_line(
    tmp_path: Path, text: str | bytes, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        PictureList(listed(tmp_path, text))
    assert "faces.csv" in str(caught.value)


def test_PictureList_refuses_a_missing_list_and_other_suffixes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.csv: cannot be read: No such file"):
        open_pictures(tmp_path / "no.csv")
    with pytest.raises(DataError, match=r"is a \.csv or \.tsv file"):
        PictureList(tmp_path / "no.txt")


def test_PictureList_with_a_missing_picture_reads_the_others(tmp_path: Path) -> None:
    fill(tmp_path, "a.png")
    pictures = PictureList(listed(tmp_path, "path,label\na.png,x\nnone.png,x\n"))
    assert pictures.picture(0).shape == (112, 112, 3)
    with pytest.raises(UnreadablePictureError, match=r"none\.png: No such file"):
        pictures.picture(1)


def test_PictureList_survives_pickling(tmp_path: Path) -> None:
    path = listed(tmp_path, "path,label\na,x\nb,y\n")
    copy = pickle.loads(pickle.dumps(PictureList(path)))
    assert names(copy) == ["a", "b"]


words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8).filter(lambda w: w == w.strip())


@pytest.mark.slow
@one_file
@given(st.lists(st.tuples(words.filter(lambda w: not {"", ".", ".."} & set(w.split("/"))), words), min_size=1))
def test_PictureList_reads_whatever_the_csv_module_writes(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    for kind, dialect in ((".csv", "excel"), (".tsv", "excel-tab")):
        with (tmp_path / f"faces{kind}").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, dialect).writerows([("path", "label"), *rows])
        pictures = PictureList(tmp_path / f"faces{kind}")
        found = [pictures.identities[label] for label in pictures.labels]
        assert list(zip(names(pictures), found, strict=True)) == rows
        assert len(set(pictures.identities)) == len(pictures.identities) == len({label for _, label in rows})


@one_file
@given(st.binary(max_size=60), st.booleans())
def test_PictureList_reads_or_refuses_any_bytes(tmp_path: Path, content: bytes, headed: bool) -> None:
    with suppress(DataError):
        pictures = PictureList(listed(tmp_path, b"path,label\n" * headed + content))
        assert len(pictures) == len(names(pictures)) > 0
        for k in range(len(pictures)):
            with suppress(UnreadablePictureError):
                pictures.picture(k)


def write(path: Path, source: ImageFolder, count: int) -> None:
    with PictureListWriter(path, source.identities) as writer:
        for k in range(writer.written, count):
            writer.add(source.encoded(k), source.name(k), int(source.labels[k]))


def test_PictureListWriter_round_trips_bit_for_bit(tmp_path: Path) -> None:
    source = ImageFolder(fill(tmp_path / "source", "b, c/1.png", "b, c/x/2.bmp", "a/1.jpg"))
    for kind in (".csv", ".tsv"):
        path = tmp_path / f"out{kind}" / f"faces{kind}"
        write(path, source, 3)
        pictures = open_pictures(path)
        assert names(pictures) == [f"faces/{name}" for name in names(source)]
        assert [pictures.encoded(k) for k in range(3)] == [source.encoded(k) for k in range(3)]
        assert [pictures.identities[k] for k in pictures.labels] == [source.identities[k] for k in source.labels]
        before = path.read_bytes()
        write(path, source, 3)  # nothing is left to do
        assert path.read_bytes() == before
        assert sorted(p.name for p in path.parent.iterdir()) == ["faces", f"faces{kind}"]


def test_PictureListWriter_resumes_after_the_last_whole_line(tmp_path: Path) -> None:
    source = ImageFolder(fill(tmp_path / "source", *(f"p{k}/1.png" for k in range(6))))
    path, part = tmp_path / "out/faces.csv", tmp_path / "out/.faces.csv.part"
    with suppress(KeyboardInterrupt), PictureListWriter(path, source.identities) as writer:
        for k in range(3):
            writer.add(source.encoded(k), source.name(k), k)
        raise KeyboardInterrupt
    assert not path.exists()
    whole = part.read_bytes()
    for length in range(len(whole) + 1):  # wherever the process was killed
        part.write_bytes(whole[:length])
        with suppress(KeyboardInterrupt), PictureListWriter(path, source.identities) as writer:
            assert writer.written == max(whole[:length].count(b"\n") - 1, 0)
            raise KeyboardInterrupt
    write(path, source, 6)
    pictures = PictureList(path)
    assert names(pictures) == [f"faces/{name}" for name in names(source)]
    assert not part.exists()


def test_PictureListWriter_overwrites_neither_another_set_nor_another_picture(tmp_path: Path) -> None:
    path = listed(tmp_path, "path,label\nmine/a.png,x\n")
    with pytest.raises(DataError, match=r"line 2: 'mine/a\.png' of 'x' belongs to another set"):
        PictureListWriter(path, ["x"])
    assert path.read_text() == "path,label\nmine/a.png,x\n"
    fill(tmp_path, "new/a.png")
    with PictureListWriter(tmp_path / "new.csv", ["x"]) as writer:
        with pytest.raises(DataError, match="with another picture; names must differ"):
            writer.add(b"other", "a.png", 0)
        writer.add((tmp_path / "new/a.png").read_bytes(), "a.png", 0)
    assert len(PictureList(tmp_path / "new.csv")) == 1


@pytest.mark.parametrize("name", ["", "/etc/x", "../x", "a/../x", "a//b", "a\\b", "a\nb", " a", "\udc80", "a\0"])
def test_PictureListWriter_add_refuses_unsafe_names(tmp_path: Path, name: str) -> None:
    with PictureListWriter(tmp_path / "l.csv", ["x"]) as writer, pytest.raises(DataError):
        writer.add(b"", name, 0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["l.csv"]


def test_PictureListWriter_refuses_invalid_identities_and_labels(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="two identities have the same name"):
        PictureListWriter(tmp_path / "l.csv", ["x", "x"])
    with pytest.raises(DataError, match="cannot be written into a list"):
        PictureListWriter(tmp_path / "l.csv", ["x\n"])
    with PictureListWriter(tmp_path / "l.csv", ["x"]) as writer, pytest.raises(DataError, match="has the label -1"):
        writer.add(b"", "a", -1)


def test_PictureListWriter_raises_DataError_for_a_path_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="cannot write"):
        PictureListWriter(tmp_path / "file/l.csv", ["x"])


def test_PictureList_refuses_pipes_devices_and_overlong_lines(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "endless.csv").symlink_to("/dev/zero")
    for name in ("pipe.csv", "endless.csv"):
        with pytest.raises(DataError, match="not a regular file"):
            PictureList(tmp_path / name)
    (tmp_path / "one line.csv").write_bytes(b"path,label\n" + bytes(2**20 + 1))
    with pytest.raises(DataError, match="line 2: is longer than 1,048,576 bytes; expected a list of pictures"):
        PictureList(tmp_path / "one line.csv")


def test_PictureList_picture_raises_UnreadablePictureError_for_irregular_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "list.csv").write_text("path,label\npipe.jpg,a\n/dev/zero,a\n%s.jpg,b\n" % ("x" * 300))
    pictures = PictureList(tmp_path / "list.csv")
    for index in range(3):
        with pytest.raises(UnreadablePictureError, match=r"not a regular file|too long"):
            pictures.picture(index)
