import pytest

from vplface.errors import DataError, MissingExtraError, import_extra
from vplface.files import replacing


def test_a_block_that_ends_well_replaces_the_file(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with replacing(path) as temporary:
        temporary.write_text("one")
        assert not path.exists()
    assert path.read_text() == "one"
    assert path.stat().st_mode & 0o044


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/a\.txt"), replacing(tmp_path / "file" / "a.txt"):
        pass


def test_a_missing_extra_is_named():
    with pytest.raises(MissingExtraError, match=r"vplface\[onnx\]"):
        import_extra("no_such_package_anywhere", "onnx")
