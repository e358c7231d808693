import os
import threading
import tracemalloc

import pytest

from vplface.errors import DataError
from vplface.printable import printable
from vplface.reading import is_file, is_folder, kind_of, parse_json, read_bytes, read_json_object, read_text


def test_kind_of_distinguishes_files_folders_and_other_paths(tmp_path):
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    assert kind_of(tmp_path) == "folder"
    assert is_folder(tmp_path)
    assert is_file(tmp_path / "file")
    assert kind_of(tmp_path / "pipe") == "other"
    assert kind_of(tmp_path / "none") is None
    assert kind_of(tmp_path / "file" / "below") is None
    assert kind_of(f"{tmp_path}/a\0b") is None
    for path in (tmp_path / ("a" * 300), tmp_path / "loop"):
        with pytest.raises(DataError, match="cannot be read: "):
            kind_of(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may enter every folder")
def test_kind_of_names_a_path_in_a_folder_that_may_not_be_entered(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o000)
    with pytest.raises(DataError, match=r"locked/a': cannot be read: Permission denied"):
        kind_of(tmp_path / "locked" / "a")


def test_read_bytes_reads_only_regular_files_up_to_the_limit(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    assert read_bytes(tmp_path / "file", 5) == b"12345"
    with pytest.raises(DataError, match="larger than"):
        read_bytes(tmp_path / "file", 4)
    with pytest.raises(DataError, match="Is a directory"):
        read_bytes(tmp_path)
    with pytest.raises(DataError, match="No such file"):
        read_bytes(tmp_path / "none")
    for endless in ("/dev/zero", "/dev/stdin"):
        with pytest.raises(DataError, match=r"not a regular file|No such|larger"):
            read_bytes(endless, 2**20)


def test_read_bytes_refuses_a_file_that_is_too_large_without_reading_it(tmp_path):
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(2**40)
    tracemalloc.start()
    with pytest.raises(DataError, match=r"sparse.*larger than 2048 MiB"):
        read_bytes(tmp_path / "sparse", 2 * 2**30)
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()


def test_read_bytes_refuses_a_pipe_without_a_writer_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    refused = threading.Event()

    def read():
        with pytest.raises(DataError, match="not a regular file"):
            read_bytes(tmp_path / "pipe")
        refused.set()

    threading.Thread(target=read, daemon=True).start()
    assert refused.wait(10)


def test_read_text_decodes_utf_8_and_normalises_line_ends(tmp_path):
    (tmp_path / "a").write_bytes(b"x\r\ny\rz\n")
    assert read_text(tmp_path / "a") == "x\ny\nz\n"
    (tmp_path / "b").write_bytes(b"ok\xff")
    with pytest.raises(DataError, match="not utf-8 text: byte 2 is 0xff"):
        read_text(tmp_path / "b")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested too deeply"),
        ("9" * 5000, "digits"),
        (b'{"a": "\xff"}', "utf-8"),
        ("", "Expecting value"),
        ("{", "Expecting property name"),
    ],
)
def test_parse_json_refuses_invalid_json_and_names_its_source(text, said):
    with pytest.raises(DataError, match=rf"^a\.json: not valid.*{said}"):
        parse_json(text, "a.json")


def test_read_json_object_refuses_what_is_not_an_object(tmp_path):
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(DataError, match="expected a JSON object, found list"):
        read_json_object(tmp_path / "a.json")


def test_printable_escapes_control_characters():
    assert printable("a\x1b]0;b\x07\x9bc\u202ed\te\n") == r"a\x1b]0;b\x07\x9bc\u202ed" + "\te\n"
    assert printable("Zoë 李 🙂") == "Zoë 李 🙂"
