import json
import os
import signal
import stat
from pathlib import Path

import pytest

from vplface.errors import DataError, MissingExtraError, import_extra
from vplface.files import PRIVATE, claimed, locked, remove_temporaries, replacing, write_json


def _names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_replacing_moves_the_file_into_place_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with replacing(path) as temporary:
        temporary.write_text("one")
        assert not path.exists()
    assert path.read_text() == "one"
    assert path.stat().st_mode & 0o044


def test_replacing_keeps_the_old_file_and_nothing_else_if_the_block_fails(tmp_path):
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


def test_replacing_names_a_path_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/a\.txt"), replacing(tmp_path / "file" / "a.txt"):
        pass


def test_import_extra_names_the_missing_extra():
    with pytest.raises(MissingExtraError, match=r"vplface\[onnx\]"):
        import_extra("no_such_package_anywhere", "onnx")


def test_replacing_gives_a_new_file_the_mode_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "a") as temporary:
            temporary.write_text("")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_replacing_keeps_the_mode_of_a_file_unless_another_is_given(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    path.chmod(0o604)
    with replacing(path) as temporary:
        assert stat.S_IMODE(temporary.stat().st_mode) & 0o077 in (0o000, 0o004)
    assert stat.S_IMODE(path.stat().st_mode) == 0o604
    with replacing(path, PRIVATE) as temporary:
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_replacing_never_changes_the_umask(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("other threads would create files with this umask"))
    with replacing(tmp_path / "a") as temporary:
        temporary.write_text("")


def test_replacing_replaces_the_target_of_a_symbolic_link_and_keeps_the_link(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "a").write_text("old")
    (tmp_path / "a").symlink_to("far/a")
    with replacing(tmp_path / "a") as temporary:
        assert temporary.parent == tmp_path / "far"
        temporary.write_text("new")
    assert (tmp_path / "a").is_symlink()
    assert (tmp_path / "far" / "a").read_text() == "new"
    assert _names(tmp_path / "far") == ["a"]


@pytest.mark.parametrize("make", [lambda path: os.mkfifo(path), lambda path: path.mkdir()])
def test_replacing_refuses_what_is_not_a_regular_file(tmp_path, make):
    make(tmp_path / "a")
    with pytest.raises(DataError, match="not a regular file"), replacing(tmp_path / "a"):
        pass
    assert _names(tmp_path) == ["a"]


def test_replacing_flushes_the_file_and_then_its_folder(tmp_path, monkeypatch):
    flushed = []
    fsync = os.fsync

    def record(handle):
        flushed.append(Path(f"/proc/self/fd/{handle}").readlink())
        fsync(handle)

    monkeypatch.setattr(os, "fsync", record)
    with replacing(tmp_path / "a") as temporary:
        temporary.write_text("")
    assert flushed == [temporary, tmp_path]


def test_replacing_accepts_a_name_near_the_length_limit(tmp_path):
    path = tmp_path / ("é" * 120 + ".safetensors")
    with replacing(path) as temporary:
        assert temporary.suffix == ".safetensors"
        temporary.write_text("a")
    assert path.read_text() == "a"


def test_remove_temporaries_removes_only_temporary_files(tmp_path):
    with replacing(tmp_path / "model.safetensors") as temporary:
        left = temporary.name
    for name in (left, ".hidden", "a.tmp-0123456789ab", ".lock"):
        (tmp_path / name).write_text("")
    remove_temporaries(tmp_path)
    assert _names(tmp_path) == [".hidden", ".lock", "a.tmp-0123456789ab", "model.safetensors"]


def test_locked_refuses_a_symbolic_link(tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / ".lock").symlink_to("victim")
    with pytest.raises(DataError, match=r"\.lock: is a symbolic link"), locked(tmp_path, "held"):
        pass
    assert (tmp_path / "victim").read_text() == "precious"


def test_claimed_refuses_a_second_claim_of_a_target_until_the_first_ends(tmp_path: Path) -> None:
    target = tmp_path / "new" / "set.rec"
    with claimed(target):
        assert [path.name for path in target.parent.iterdir()] == [".set.rec.lock"]
        with pytest.raises(DataError, match=r"set\.rec: another command is writing there"), claimed(target):
            pass
        with claimed(tmp_path / "new" / "other"):
            pass
    assert not any(target.parent.iterdir())
    with claimed(target):
        pass


def test_claimed_refuses_a_second_claim_through_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    inner = claimed(tmp_path / "link" / "set")
    with claimed(tmp_path / "real" / "set"), pytest.raises(DataError, match="another command"), inner:
        pass


def test_claimed_takes_over_the_claim_of_a_killed_process(tmp_path: Path) -> None:
    ready, tell = os.pipe()
    child = os.fork()
    if not child:
        with claimed(tmp_path / "set"):
            os.write(tell, b"x")
            signal.pause()
        os._exit(0)
    os.read(ready, 1)
    with pytest.raises(DataError, match="another command"), claimed(tmp_path / "set"):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert (tmp_path / ".set.lock").exists()
    with claimed(tmp_path / "set"):
        pass
    assert not any(tmp_path.iterdir())


def test_claimed_refuses_a_lock_file_that_is_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / ".set.lock").symlink_to("precious")
    with pytest.raises(DataError, match=r"\.set\.lock: is a symbolic link"), claimed(tmp_path / "set"):
        pass
    assert (tmp_path / "precious").read_text() == "precious"


def test_write_json_keeps_file_names_that_are_not_utf_8(tmp_path):
    write_json(tmp_path / "a.json", {"name": "caf\udce9, café"})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"name": "caf\udce9, café"}
    assert b"caf\\udce9, caf\xc3\xa9" in (tmp_path / "a.json").read_bytes()
