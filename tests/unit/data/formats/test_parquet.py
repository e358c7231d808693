from __future__ import annotations

import json
import os
import pickle
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vplface.data.batches import load_all
from vplface.data.formats import open_pictures, parquet
from vplface.data.formats.image_folder import ImageFolder
from vplface.data.formats.parquet import ParquetPictures, ParquetWriter
from vplface.data.pictures import UnreadablePictureError
from vplface.errors import DataError

from .test_image_folder import fill, names

one_file = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def hugging(**features: object) -> dict[str, str]:
    return {"huggingface": json.dumps({"info": {"features": features}})}


def put(path: Path, images: list, labels: list, kind: pa.DataType | None = None, **features: object) -> Path:
    """A file of image structs or bytes, and labels of a type."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = [{"bytes": each[0], "path": each[1]} if isinstance(each, tuple) else each for each in images]
    image = pa.array(stored, IMAGE if isinstance(images[0], tuple) else pa.binary())
    table = pa.table({"image": image, "label": pa.array(labels, kind)})
    pq.write_table(table.replace_schema_metadata(hugging(**features) if features else None), path, row_group_size=2)
    return path


CLASSES = {"_type": "ClassLabel", "names": ["zoe", "ann", "nobody", "bob"]}


def test_ParquetPictures_reads_hugging_face_sets(tmp_path: Path) -> None:
    for number, rows in enumerate([[0, 1, 2], [3, 4]]):
        put(
            tmp_path / f"data/train-{number:05d}-of-00002.parquet",
            [(b"%d" % k, f"{k}.jpg") for k in rows],
            [[3, 0, 3, 1, 0][k] for k in rows],
            image={"_type": "Image"},
            label=CLASSES,
        )
    put(tmp_path / "data/test.parquet", [(b"t", "t.jpg")], [1], image={"_type": "Image"}, label=CLASSES)
    pictures = open_pictures(tmp_path, "train")
    assert list(pictures.identities) == ["zoe", "ann", "bob"]
    assert pictures.labels.tolist() == [2, 0, 2, 1, 0]
    assert pictures.labels.dtype == np.int64
    assert names(pictures) == [f"{k}.jpg" for k in range(5)]
    assert [pictures.encoded(k) for k in (4, 0, 3, 1, 2)] == [b"4", b"0", b"3", b"1", b"2"]
    assert pictures.where(4) == f"{tmp_path / 'data/train-00001-of-00002.parquet'}, row 1"
    assert len(open_pictures(tmp_path)) == 6
    assert len(open_pictures(tmp_path / "data/test.parquet")) == 1
    with pytest.raises(DataError, match="has no split 'val', only 'test', 'train'"):
        open_pictures(tmp_path, "val")
    with pytest.raises(IndexError):
        pictures.name(5)


@pytest.mark.parametrize(
    ("labels", "kind", "identities", "codes"),
    [
        ([10, 9, 10], pa.int32(), ["9", "10"], [1, 0, 1]),
        (["p10", "p9", "p10"], pa.string(), ["p9", "p10"], [1, 0, 1]),
        (["b", "a", "b"], pa.large_string(), ["a", "b"], [1, 0, 1]),
        (["b", "a", "b"], pa.dictionary(pa.int8(), pa.string()), ["a", "b"], [1, 0, 1]),
    ],
)
def test_ParquetPictures_reads_labels_without_metadata(tmp_path: Path, labels, kind, identities, codes) -> None:
    pictures = open_pictures(put(tmp_path / "x.parquet", [b"1", b"2", b"3"], labels, kind))
    assert list(pictures.identities) == identities
    assert pictures.labels.tolist() == codes
    assert names(pictures) == ["x/0", "x/1", "x/2"]
    assert pictures.encoded(2) == b"3"


def test_ParquetPictures_takes_paths_as_names_only_if_they_are_complete_and_unique(tmp_path: Path) -> None:
    twice = put(tmp_path / "twice.parquet", [(b"1", "a.jpg"), (b"2", "a.jpg")], [0, 1])
    assert names(open_pictures(twice)) == ["twice/0", "twice/1"]
    missing = put(tmp_path / "missing.parquet", [(b"1", "a.jpg"), (b"2", None)], [0, 1])
    assert names(open_pictures(missing)) == ["missing/0", "missing/1"]
    upwards = put(tmp_path / "upwards.parquet", [(b"1", "/etc/passwd"), (b"2", "a/b.jpg")], [0, 1])
    assert names(open_pictures(upwards)) == ["etc/passwd", "a/b.jpg"]


def test_ParquetPictures_with_incomplete_rows_reads_the_others(tmp_path: Path) -> None:
    images = [(b"0", None), (None, "x"), (b"2", None), (b"3", None), None, (b"5", None)]
    path = put(tmp_path / "x.parquet", images, [3, 3, None, -1, 1, 1], label=CLASSES)
    pictures = open_pictures(path)
    assert list(pictures.identities) == ["ann", "bob"]
    assert pictures.encoded(0) == b"0"
    assert pictures.encoded(5) == b"5"
    for row, reason in {
        1: "holds no picture",
        2: "the row has no label",
        3: "the label -1 is outside the 4 names",
        4: "holds no picture",
    }.items():
        with pytest.raises(UnreadablePictureError, match=rf"x\.parquet, row {row}: .*{reason}"):
            pictures.picture(row)
    named = open_pictures(put(tmp_path / "y.parquet", [b"0", b"1", b"2"], ["a", None, ""]))
    assert list(named.identities) == ["a"]
    for row in (1, 2):
        with pytest.raises(UnreadablePictureError, match=f"row {row}: the row has "):
            named.encoded(row)


def test_open_parquet_reads_a_list_of_pictures(tmp_path: Path) -> None:
    fill(tmp_path, "p/1.png", "q/1.png")
    table = pa.table({"label": ["b", "a"], "path": ["p/1.png", "q/1.png"], "split": ["train", "test"], "age": [3, 4]})
    pq.write_table(table, tmp_path / "l.parquet")
    pictures = open_pictures(tmp_path / "l.parquet")
    assert names(pictures) == ["p/1.png", "q/1.png"]
    assert pictures.labels.tolist() == [1, 0]
    assert int(pictures.picture(1)[5, 5, 0]) == 1
    assert names(open_pictures(tmp_path / "l.parquet", "test")) == ["q/1.png"]
    pq.write_table(pa.table({"label": [7, None], "path": ["p/1.png", "q/1.png"]}), tmp_path / "l.parquet")
    with pytest.raises(DataError, match=r"l\.parquet, row 1: the column 'label' is empty"):
        open_pictures(tmp_path / "l.parquet")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": pa.array([1])}, "has neither a column of pictures .* but a: int64"),
        ({"a": pa.array([b"1"]), "b": pa.array([b"1"]), "label": pa.array([1])}, "several columns of pictures: a, b"),
        ({"image": pa.array([b"1"])}, "has no column 'label'"),
        ({"image": pa.array([b"1"]), "label": pa.array([1.5])}, "the column 'label' is double; labels are"),
        ({"image": pa.array([b"1"]), "label": pa.array([None], pa.int64())}, "no row has a label"),
        ({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}, "holds no pictures"),
    ],
)
def test_open_parquet_refuses_wrong_columns(tmp_path: Path, columns: dict, message: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=message) as caught:
        open_pictures(tmp_path / "x.parquet")
    assert "x.parquet" in str(caught.value)


def test_open_parquet_names_missing_and_inconsistent_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.parquet: does not exist"):
        open_pictures(tmp_path / "no.parquet")
    put(tmp_path / "s/train-00001-of-00003.parquet", [b"1"], [0])
    with pytest.raises(DataError, match="2 of the 3 files of 'train' are missing, such as train-00000-of-00003"):
        open_pictures(tmp_path / "s")
    put(tmp_path / "t/a.parquet", [b"1"], [0])
    put(tmp_path / "t/b.parquet", [b"1"], ["x"])
    with pytest.raises(DataError, match=r"b\.parquet: the column 'label' is string, in .*a\.parquet int64"):
        open_pictures(tmp_path / "t")
    put(tmp_path / "t/b.parquet", [b"1"], [0], label=CLASSES)
    with pytest.raises(DataError, match=r"b\.parquet: the metadata of the column 'label' are not those of"):
        open_pictures(tmp_path / "t")
    put(tmp_path / "u.parquet", [b"1"], [0], label={"_type": "ClassLabel", "names": [1]})
    with pytest.raises(DataError, match="are not a list of strings"):
        open_pictures(tmp_path / "u.parquet")
    table = pa.table({"image": [b"1"], "label": [0]}).replace_schema_metadata({"huggingface": "[]"})
    pq.write_table(table, tmp_path / "v.parquet")
    with pytest.raises(DataError, match=r"v\.parquet: invalid metadata 'huggingface'"):
        open_pictures(tmp_path / "v.parquet")


def test_open_parquet_refuses_every_truncated_file(tmp_path: Path) -> None:
    whole = put(tmp_path / "x.parquet", [(b"1", "a")] * 3, [0, 1, 2]).read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "x.parquet").write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"x\.parquet: not a readable Parquet file.*download it again"):
            open_pictures(tmp_path / "x.parquet")


@one_file
@given(st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1, max_size=3))
def test_open_parquet_reads_or_refuses_mutated_files(tmp_path: Path, changes: list[tuple[int, int]]) -> None:
    path = tmp_path / "x.parquet"
    if not (tmp_path / "whole").exists():
        put(tmp_path / "whole", [(b"%d" % k * 20, f"p/{k}.jpg") for k in range(5)], list("ababa"))
    content = bytearray((tmp_path / "whole").read_bytes())
    for place, value in changes:
        content[place % len(content)] = value
    path.write_bytes(content)
    with suppress(DataError):
        pictures = open_pictures(path)
        for k in range(len(pictures)):
            pictures.name(k)
            with suppress(UnreadablePictureError):
                assert isinstance(pictures.encoded(k), bytes)


def test_open_parquet_takes_paths_literally_and_not_as_urls(tmp_path: Path) -> None:
    for name in ("a#b", "a?b=c", "a%20b", "s3:x", "file: y", "é\udcff"):
        path = tmp_path / name / "train.parquet"
        path.parent.mkdir()
        path.write_bytes(put(tmp_path / "x.parquet", [b"1", b"2"], [0, 1]).read_bytes())
        for opened in (open_pictures(path), open_pictures(path.parent), open_pictures(path.parent, "train")):
            assert [opened.encoded(k) for k in range(2)] == [b"1", b"2"]


def test_open_parquet_reads_sets_converted_by_the_hub(tmp_path: Path) -> None:
    for folder in (tmp_path / "one/default", tmp_path / "two/big", tmp_path / "two/small"):
        put(folder / "train/0000.parquet", [b"1", b"2"], [0, 1])
        put(folder / "train/0001.parquet", [b"3"], [2])
        put(folder / "test/0000.parquet", [b"4"], [0])
    for path in (tmp_path / "one", tmp_path / "one/default", tmp_path / "two/small"):
        assert len(open_pictures(path)) == 4
        train = open_pictures(path, "train")
        assert [train.encoded(k) for k in range(3)] == [b"1", b"2", b"3"]
        with pytest.raises(DataError, match="has no split 'val', only 'test', 'train'"):
            open_pictures(path, "val")
    with pytest.raises(DataError, match=r"two: holds 2 configurations: 'big', 'small'; give one, .*two/NAME"):
        open_pictures(tmp_path / "two")
    put(tmp_path / "three/en/train-00000-of-00001.parquet", [b"1"], [0])
    assert len(open_pictures(tmp_path / "three")) == 1
    (tmp_path / "one/default/train/0000.parquet").unlink()
    with pytest.raises(DataError, match=r"default/train: 0000\.parquet is missing"):
        open_pictures(tmp_path / "one")


def in_little_memory(function: Callable[[], None]) -> None:
    """Call a function in a process that may use 400 MiB more than this one."""
    resource = pytest.importorskip("resource")
    if sys.platform != "linux":
        pytest.skip("limits of memory as Linux has them")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (400 << 20),) * 2)
            function()
            code = 0
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def repeated(entry: object, count: int, kind: pa.DataType) -> pa.Array:
    """An array of one value, many times, that takes no memory for it."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int8)), pa.array([entry], kind))


MEGABYTE = 1 << 20
BOMBS = {
    "a picture of 4 MB, 2,000 times": ({"image": repeated(b"x" * 4 * MEGABYTE, 2000, pa.binary())}, None),
    "a label of 1 MB, 4,000 times": ({"label": repeated("x" * MEGABYTE, 4000, pa.string())}, None),
    "labels of 1 MB, in row groups": (
        {"label": pa.concat_arrays([repeated("ab"[k % 2] * MEGABYTE, 500, pa.string()) for k in range(8)])},
        None,
    ),
    "20 million rows": (
        {"image": repeated(b"x", 20_000_000, pa.binary()), "label": repeated("x", 20_000_000, pa.string())},
        "claims 20,000,000 rows",
    ),
    "a page of 80 MB": ({"label": pa.array(["x" * 80 * MEGABYTE])}, "the column 'label' unpacks to more than"),
}


@pytest.mark.slow
@pytest.mark.parametrize("with_schema", [True, False])  # which says that the columns are dictionaries
@pytest.mark.parametrize("bomb", BOMBS)
def test_open_parquet_of_a_decompression_bomb_needs_little_memory(tmp_path: Path, bomb: str, with_schema: bool) -> None:
    columns, refused = BOMBS[bomb]
    count = max(len(column) for column in columns.values())
    whole = {"image": repeated(b"x", count, pa.binary()), "label": repeated("p", count, pa.string())} | columns
    path = tmp_path / "x.parquet"
    rows = 1000 if count < 10_000 else None
    pq.write_table(pa.table(whole), path, compression="zstd", row_group_size=rows, store_schema=with_schema)
    assert path.stat().st_size < 3 * MEGABYTE

    def read() -> None:
        if refused is None:
            pictures = open_pictures(path)
            assert len(pictures) == count
            assert pictures.encoded(count - 1) == whole["image"][count - 1].as_py()
            return
        with pytest.raises(DataError, match=refused):
            open_pictures(path)

    in_little_memory(read)


def test_open_parquet_refuses_a_list_that_repeats_a_long_path_in_little_memory(tmp_path: Path) -> None:
    columns = {"path": repeated("x" * MEGABYTE, 4000, pa.string()), "label": repeated("x", 4000, pa.string())}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet", compression="zstd", store_schema=False)

    def read() -> None:
        with pytest.raises(DataError, match=r"x\.parquet: unpacks to more than a file of its size should"):
            open_pictures(tmp_path / "x.parquet")

    in_little_memory(read)


def test_open_parquet_refuses_list_columns_and_forged_page_headers(tmp_path: Path) -> None:
    path = put(tmp_path / "x.parquet", [b"1" * 3000, b"2"], [0, 1])
    whole = path.read_bytes()
    chunk = pq.read_metadata(path).row_group(0).column(1)
    assert chunk.path_in_schema == "label"
    at = min(chunk.dictionary_page_offset, chunk.data_page_offset)
    for patch, message in {
        b"\x15\x04\x15\xfe\xff\xff\xff\x0f\x15\x02\x4c\x15\x02\x00\x00": "unpacks to more than",
        b"\x15\x04\x15\x20\x15\xff\xff\xff\xff\x0f": "a page of the column 'label' claims to have",
        b"\x1f\x1f": "no page begins at",
        b"\xff" * 20: "no page begins at",
        b"\x15\x04\x15\x20\x15\x20\x4c\x15\xff\xff\xff\xff\x0f\x00\x00": "damaged or forged",
    }.items():
        path.write_bytes(whole[:at] + patch + whole[at + len(patch) :])
        with pytest.raises(DataError, match=message):
            open_pictures(path)
    table = pa.table({"image": [b"1"], "label": pa.array([["a", "b"]])})
    pq.write_table(table, path)
    with pytest.raises(DataError, match=r"x\.parquet: .*label"):
        open_pictures(path)


def test_open_parquet_survives_any_wrong_byte_in_the_footer(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"image": [b"1", b"2"], "label": ["a", "b"]}), path, store_schema=False)
    whole = path.read_bytes()
    begin = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")

    def read() -> None:
        for place in range(begin, len(whole) - 8):
            for change in (0x04, 0x40):
                path.write_bytes(whole[:place] + bytes([whole[place] ^ change]) + whole[place + 1 :])
                with suppress(DataError):
                    pictures = open_pictures(path)
                    pictures.encoded(len(pictures) - 1)

    in_little_memory(read)


def test_ParquetPictures_encoded_detects_a_file_truncated_while_open(tmp_path: Path) -> None:
    path = put(tmp_path / "x.parquet", [b"%d" % k * 3000 for k in range(8)], [0] * 8)
    pictures, copy, size = open_pictures(path), pickle.dumps(open_pictures(path)), path.stat().st_size
    assert pictures.encoded(0) == b"0" * 3000
    os.truncate(path, 4096)
    with pytest.raises(UnreadablePictureError, match=rf"has changed .*it had {size:,} bytes and now has 4,096"):
        pictures.encoded(7)
    with pytest.raises(UnreadablePictureError, match="has changed"):
        pickle.loads(copy).encoded(0)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_open_parquet_refuses_pipes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.parquet")
    for path in (tmp_path, tmp_path / "x.parquet"):
        with pytest.raises(DataError, match=r"x\.parquet.*not a regular file"):
            open_pictures(path)


def test_ParquetPictures_with_a_damaged_row_group_reads_the_others(tmp_path: Path) -> None:
    with ParquetWriter(tmp_path, ["x"]) as writer:
        for k in range(3):
            writer.add(b"%d" % k * 200_000, f"{k}", 0)
    path = tmp_path / "data/train-00000-of-00001.parquet"
    content = bytearray(path.read_bytes())
    content[300_000] ^= 1  # within the second picture, which shares its row group with the first
    path.write_bytes(content)
    pictures = open_pictures(tmp_path)
    assert pictures.encoded(2) == b"2" * 200_000
    for k in range(2):
        with pytest.raises(UnreadablePictureError, match=rf"row {k}: its row group cannot be read"):
            pictures.encoded(k)


def test_ParquetPictures_caches_row_groups_up_to_CACHE_BYTES(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path / "x.parquet", [b"%d" % k * 1000 for k in range(20)], [0] * 20)
    pictures = open_pictures(path)
    assert isinstance(pictures, ParquetPictures)
    monkeypatch.setattr(parquet, "CACHE_BYTES", 5000)
    order = np.random.default_rng(0).integers(0, 20, 60).tolist()
    assert all(pictures.encoded(k) == b"%d" % k * 1000 for k in order)
    assert sum(kept.nbytes for kept in pictures._kept.values()) <= 5000
    copy = pickle.loads(pickle.dumps(pictures))
    assert copy.encoded(19) == b"19" * 1000


def test_ParquetPictures_reads_in_worker_processes(tmp_path: Path) -> None:
    source = ImageFolder(fill(tmp_path / "faces", *(f"a/{k}.png" for k in range(12))))
    with ParquetWriter(tmp_path / "out", source.identities) as writer:
        for k in range(12):
            writer.add(source.encoded(k), source.name(k), 0)
    pictures = open_pictures(tmp_path / "out")
    pictures.picture(0)  # what was opened here must not disturb forked workers
    batches = list(load_all(pictures, np.arange(12), 4, workers=2))
    assert [int(picture[5, 5, 0]) for batch in batches for picture in batch.pictures] == list(range(12))


def write(folder: Path, source: ImageFolder, first: int = 0) -> None:
    with ParquetWriter(folder, source.identities, shard_bytes=300) as writer:
        for k in range(max(first, writer.written), len(source)):
            writer.add(source.encoded(k), source.name(k), int(source.labels[k]))


def test_ParquetWriter_round_trips_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "GROUP_BYTES", 100)
    source = ImageFolder(fill(tmp_path / "source", *(f"p{k % 4}/{k}.png" for k in range(12))))
    write(tmp_path / "out", source)
    files = sorted(path.name for path in (tmp_path / "out/data").iterdir())
    assert len(files) > 1
    assert files == [f"train-{k:05d}-of-{len(files):05d}.parquet" for k in range(len(files))]
    pictures = open_pictures(tmp_path / "out", "train")
    assert names(pictures) == names(source)
    assert list(pictures.identities) == list(source.identities)
    assert pictures.labels.tolist() == source.labels.tolist()
    assert [pictures.encoded(k) for k in range(12)] == [source.encoded(k) for k in range(12)]
    schema = pq.read_schema(tmp_path / "out/data" / files[0])
    assert schema.types == [IMAGE, pa.int64()]
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert features == {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(source.identities)}}
    write(tmp_path / "out", source)  # nothing is left to do
    assert sorted(path.name for path in (tmp_path / "out/data").iterdir()) == files


def test_ParquetWriter_resumes_after_its_complete_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "GROUP_BYTES", 100)
    source = ImageFolder(fill(tmp_path / "source", *(f"p{k % 4}/{k}.png" for k in range(20))))
    with suppress(KeyboardInterrupt), ParquetWriter(tmp_path, source.identities, shard_bytes=300) as writer:
        for k in range(13):
            writer.add(source.encoded(k), source.name(k), int(source.labels[k]))
        raise KeyboardInterrupt
    with pytest.raises(DataError, match="incomplete; repeat"):
        open_pictures(tmp_path / "data")
    (tmp_path / "data/..train-00009.parquet.killed.parquet").write_bytes(b"half")
    assert 0 < ParquetWriter(tmp_path, source.identities).written < 13
    write(tmp_path, source)
    pictures = open_pictures(tmp_path)
    assert names(pictures) == names(source)
    assert [pictures.encoded(k) for k in range(20)] == [source.encoded(k) for k in range(20)]
    assert not any(path.name.startswith(".") for path in (tmp_path / "data").iterdir())


def test_ParquetWriter_completes_a_killed_renaming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "GROUP_BYTES", 100)
    source = ImageFolder(fill(tmp_path / "source", *(f"p/{k}.png" for k in range(12))))
    write(tmp_path, source)
    files = sorted((tmp_path / "data").iterdir())
    files[1].rename(tmp_path / "data/.train-00001.parquet")
    with pytest.raises(DataError, match="are missing"):
        open_pictures(tmp_path)
    write(tmp_path, source)
    assert sorted((tmp_path / "data").iterdir()) == files
    files[1].unlink()
    with pytest.raises(DataError, match="file 1 is missing; remove the other files"):
        ParquetWriter(tmp_path, source.identities)


def test_ParquetWriter_refuses_invalid_names_labels_identities_and_paths(tmp_path: Path) -> None:
    with ParquetWriter(tmp_path, ["x"]) as writer:
        with pytest.raises(DataError, match="is not valid Unicode"):
            writer.add(b"", "\udc80", 0)
        with pytest.raises(DataError, match="has the label 1, and there are 1 identities"):
            writer.add(b"", "a", 1)
        writer.add(b"1", "a", 0)
    with pytest.raises(DataError, match="the metadata of the column 'label' are not those of"):
        ParquetWriter(tmp_path, ["y"])
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="cannot write"), ParquetWriter(tmp_path / "file", ["x"]) as writer:
        writer.add(b"1", "a", 0)


def test_open_parquet_refuses_statistics_that_contradict_the_schema(tmp_path: Path) -> None:
    path = put(tmp_path / "x.parquet", [b"1" * 3000, b"2"], [0, 1])
    data = path.read_bytes()
    footer = data[-8 - int.from_bytes(data[-8:-4], "little") : -8]
    # The histogram of definition levels, field 3 of the size statistics: a list of two numbers becomes one of three.
    longer = footer.replace(b"\x06\x19\x26\x00\x04", b"\x06\x19\x36\x00\x04\x00")
    assert len(longer) == len(footer) + 2
    path.write_bytes(data[: -8 - len(footer)] + longer + len(longer).to_bytes(4, "little") + b"PAR1")
    with pytest.raises(DataError, match="Definition level histogram size mismatch"):
        open_pictures(path)
