from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from vplface.cli.app import app
from vplface.data import convert as module
from vplface.data.align import align_folder
from vplface.data.convert import convert
from vplface.data.formats import create_pictures, format_of, open_pictures
from vplface.data.formats.image_folder import ImageFolder
from vplface.data.pairs import Pairs
from vplface.data.pictures import UnreadablePictureError
from vplface.errors import DataError, UsageError
from vplface.files import claimed

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="forks, signals and limits as Linux has them")


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Sixty different files of five people; two are not pictures, which a copy does not notice."""
    rng = random.Random(0)
    root = tmp_path / "source"
    for number in range(60):
        path = root / f"p{number % 5}" / f"{number // 20}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\xff\xd8\xff" + rng.randbytes(rng.randrange(400)) + b"\xff\xd9")
    (root / "p3" / "0" / "3.jpg").write_bytes(b"")
    (root / "p4" / "0" / "4.jpg").write_bytes(b"text")
    return root


def journal(target: Path) -> Path:
    return target.with_name(f".{target.name}.convert.jsonl")


def test_convert_copies_a_folder_exactly_and_refuses_an_existing_target(source, tmp_path):
    target = tmp_path / "new" / "target"
    done = convert(ImageFolder(source), source, target)
    assert contents(target) == contents(source)
    assert (done.pictures, done.identities, done.resumed, done.dropped) == (60, 5, 0, 0)
    assert done.unreadable == {}
    assert not journal(target).exists()
    with pytest.raises(DataError, match="target: already exists"):
        convert(ImageFolder(source), source, target)
    assert contents(target) == contents(source)


def test_convert_accepts_an_empty_target_and_refuses_one_inside_the_source(source, tmp_path):
    (tmp_path / "target").mkdir()
    assert convert(ImageFolder(source), source, tmp_path / "target").pictures == 60
    for inside in (source, source / "p1", source / ".." / source.name / "x"):
        with pytest.raises(DataError, match="is inside the source"):
            convert(ImageFolder(source), source, inside)


def test_convert_omits_dropped_pictures_and_identities_without_pictures(source, tmp_path):
    pictures = ImageFolder(source)
    dropped = [name for name in map(pictures.name, range(60)) if name.startswith("p2/") or name == "p0/0/0.jpg"]
    done = convert(pictures, source, tmp_path / "target", drop=dropped)
    assert (done.pictures, done.identities, done.dropped) == (47, 4, 13)
    assert contents(tmp_path / "target") == {k: v for k, v in contents(source).items() if k not in dropped}


class Recorder:
    """A writer that keeps what it was given."""

    def __init__(self, path: Path, identities: list[str]) -> None:
        self.identities, self.added = identities, []

    written = property(lambda self: len(self.added))

    def add(self, encoded: bytes, name: str, label: int) -> None:
        self.added.append((name, label))

    def __enter__(self):
        return self

    def __exit__(self, *_): ...


class Shuffled(ImageFolder):
    """A set whose pictures are in no order of label, with a label that no picture has."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._identities = ["nobody", *self._identities]
        self._order = np.random.default_rng(0).permutation(len(self))
        self._labels = self._labels[self._order] + 1

    def name(self, index: int) -> str:
        return super().name(int(self._order[index]))


@pytest.mark.parametrize("form", ["recordio", "tar"])
def test_convert_sorts_by_identity_for_recordio_and_keeps_the_order_for_tar(source, tmp_path, monkeypatch, form):
    made = []
    monkeypatch.setattr(module, "create_pictures", lambda *args: made.append(Recorder(args[0], args[2])) or made[0])
    pictures = Shuffled(source)
    convert(pictures, source, tmp_path / "target", form)
    assert made[0].identities == ["p0", "p1", "p2", "p3", "p4"]
    in_order = [(pictures.name(index), int(pictures.labels[index]) - 1) for index in range(60)]
    assert in_order != sorted(in_order, key=lambda entry: entry[1])
    expected = sorted(in_order, key=lambda entry: entry[1]) if form == "recordio" else in_order
    assert made[0].added == expected


def in_a_fork(work) -> int:
    """Run the work in a copy of this process; its exit code as by os.waitstatus_to_exitcode."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except DataError as error:
            print(error, file=sys.stderr)
            os._exit(1)
        finally:
            os._exit(70)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def die_at(call: int, owner: type, method: str, before: bool) -> None:
    """From now on this process is killed at a certain call of a method, before or after it has acted."""
    original, calls = getattr(owner, method), [0]

    def tripwire(self, *args):
        calls[0] += 1
        if calls[0] == call and before:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(self, *args)
        if calls[0] == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, method, tripwire)


@LINUX
@pytest.mark.parametrize(
    ("method", "before"), [("write_bytes", True), ("write_bytes", False), ("rename", True), ("rename", False)]
)
def test_convert_killed_repeatedly_ends_with_the_same_folder(source, tmp_path, method, before):
    target = tmp_path / "target"

    def killed() -> None:
        die_at(14, Path, method, before)
        convert(ImageFolder(source), source, target)

    ends = []
    for _ in range(10):
        ends.append(in_a_fork(killed))
        if ends[-1] == 0:
            break
    assert ends[:3] == [-signal.SIGKILL] * 3
    assert ends[-1] == 0
    assert contents(target) == contents(source)
    assert not journal(target).exists()


BAD = ("p0/0/5.jpg", "p2/0/2.jpg", "p2/0/7.jpg", "p4/2/59.jpg")


@pytest.fixture
def failing(monkeypatch):
    """Some pictures of a folder cannot be read from the disk."""
    original = ImageFolder.encoded

    def encoded(self, index: int) -> bytes:
        if self.name(index) in BAD:
            raise UnreadablePictureError(self.where(index), "Input/output error")
        return original(self, index)

    monkeypatch.setattr(ImageFolder, "encoded", encoded)


@LINUX
def test_convert_omits_unreadable_pictures_after_kills_as_in_an_undisturbed_run(source, tmp_path, failing):
    target = tmp_path / "target"
    ends = []
    while not ends or ends[-1] == -signal.SIGKILL:
        ends.append(in_a_fork(lambda: (die_at(7, Path, "rename", False), convert(ImageFolder(source), source, target))))
        if len(ends) == 3:
            with journal(target).open("a") as file:
                file.write('{"position": 5')  # a line that a kill has torn
    assert len(ends) > 5
    assert ends[-1] == 0
    assert contents(target) == {k: v for k, v in contents(source).items() if k not in BAD}

    done = convert(ImageFolder(source), source, tmp_path / "undisturbed")
    assert contents(tmp_path / "undisturbed") == contents(target)
    assert done.unreadable == {str(source / name): "Input/output error" for name in BAD}
    assert done.pictures == 56


def _gone(index: int) -> bytes:
    raise UnreadablePictureError(f"picture {index}", "Input/output error")


def test_convert_stops_after_many_unreadable_pictures_in_a_row_and_resumes(source, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TOO_MANY", 20)
    pictures = ImageFolder(source)
    pictures.encoded = lambda index: _gone(index) if index >= 30 else ImageFolder.encoded(pictures, index)
    with pytest.raises(
        DataError, match="20 pictures in a row cannot be read, the last: picture 49: Input/output error"
    ):
        convert(pictures, source, tmp_path / "target")
    done = convert(ImageFolder(source), source, tmp_path / "target")
    assert (done.pictures, done.resumed, done.unreadable) == (60, 30, {})
    assert contents(tmp_path / "target") == contents(source)


def interrupted(source: Path, target: Path) -> None:
    """Leave an interrupted conversion, with ten pictures done."""
    pictures = ImageFolder(source)
    original, read = pictures.encoded, []

    def encoded(index: int) -> bytes:
        read.append(index)
        if len(read) > 10:
            raise KeyboardInterrupt
        return original(index)

    pictures.encoded = encoded
    with pytest.raises(KeyboardInterrupt):
        convert(pictures, source, target)


def test_convert_resumes_only_from_the_same_source(source, tmp_path):
    target = tmp_path / "target"
    interrupted(source, target)
    before = contents(target)
    assert len(before) == 10
    with pytest.raises(DataError, match=r"started from another source .*pictures 60, now 59"):
        convert(ImageFolder(source), source, target, drop=["p0/0/5.jpg"])
    (source / "p0" / "0" / "0.jpg").rename(source / "p0" / "0" / "00.jpg")
    with pytest.raises(DataError, match=r"started from another source .*names and labels"):
        convert(ImageFolder(source), source, target)
    (source / "p0" / "0" / "00.jpg").rename(source / "p0" / "0" / "0.jpg")
    assert contents(target) == before
    assert convert(ImageFolder(source), source, target).resumed == 10
    assert contents(target) == contents(source)


def test_convert_refuses_a_target_to_which_pictures_were_added(source, tmp_path):
    target = tmp_path / "target"
    interrupted(source, target)
    for number in range(51):
        (target / "p0" / f"added{number}.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="holds 61 pictures, the source 60; pictures were added"):
        convert(ImageFolder(source), source, target)


def test_convert_leaves_no_journal_if_the_target_cannot_be_created(source, tmp_path, monkeypatch):
    def refuse(*_):
        raise DataError("no")

    monkeypatch.setattr(module, "create_pictures", refuse)
    with pytest.raises(DataError, match="no"):
        convert(ImageFolder(source), source, tmp_path / "target")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@LINUX
def test_convert_fails_on_a_full_disk_and_resumes(source, tmp_path):
    (source / "p2" / "0" / "2.jpg").write_bytes(bytes(100_000))

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        convert(ImageFolder(source), source, tmp_path / "target")

    assert in_a_fork(limited) == 1
    assert 0 < len(contents(tmp_path / "target")) < 60
    assert convert(ImageFolder(source), source, tmp_path / "target").resumed == 24
    assert contents(tmp_path / "target") == contents(source)


@pytest.mark.slow
@LINUX
def test_vplface_data_convert_killed_at_a_random_moment_resumes_to_the_same_folder(tmp_path):
    """The moment is random; whatever it interrupts, the repeated command ends with the undisturbed result."""
    source = tmp_path / "source"
    for number in range(2000):
        path = source / f"p{number % 20}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(number.to_bytes(2) * 1000)
    command = [sys.executable, "-m", "vplface", "data", "convert", str(source), str(tmp_path / "target")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as running:
        while not any((tmp_path / "target").glob("p1/*")) and running.poll() is None:
            time.sleep(0.005)
        running.send_signal(signal.SIGKILL)
    assert running.returncode == -signal.SIGKILL
    assert 0 < len(contents(tmp_path / "target")) < 2000
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "2,000 pictures of 20 identities" in again.stdout
    assert "of them from an earlier run" in again.stdout
    assert contents(tmp_path / "target") == contents(source)


def test_format_of_follows_the_suffix_of_the_path():
    assert [format_of(f"a/b{suffix}") for suffix in ("", ".rec", ".TAR", ".parquet", ".csv", ".tsv", ".bin")] == [
        "folder", "recordio", "tar", "parquet", "list", "list", "bin"
    ]  # fmt: skip
    with pytest.raises(UsageError, match=r"faces.zip: unknown suffix .zip"):
        format_of("faces.zip")
    with pytest.raises(ValueError, match="pairs"):
        create_pictures("x.bin", "bin", [])


def run(*arguments: object):
    return CliRunner().invoke(app, ["data", "convert", *map(str, arguments)])


def test_vplface_data_convert_reports_the_conversion_as_json(source, tmp_path):
    (tmp_path / "drop.txt").write_text("p0/0/0.jpg\tblurred\n")
    result = run(source, tmp_path / "v1.0", "--to", "folder", "--drop", tmp_path / "drop.txt", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {
        "schema": 1,
        "source": str(source),
        "target": str(tmp_path / "v1.0"),
        "form": "folder",
        "pictures": 59,
        "identities": 5,
        "resumed": 0,
        "dropped": 1,
        "pairs": None,
        "left_out": {"kinds": {}, "irregular": [], "people": []},
        "unreadable": [],
    }


def test_vplface_data_convert_exits_with_1_if_pictures_are_unreadable(source, tmp_path, failing):
    result = run(source, tmp_path / "target")
    assert result.exit_code == 1
    assert "56 pictures of 5 identities, 4 could not be read and were left out" in result.stdout
    assert f"cannot be read: {source / 'p2/0/7.jpg'}: Input/output error" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["nowhere", "x"], 1, "nowhere: does not exist"),
        (["source", "x.zip"], 2, "choose the format with --to"),
        (["source", "x.bin"], 2, "a .bin file and --pairs belong together"),
        (["source", "x", "--pairs", "pairs.txt"], 2, "a .bin file and --pairs belong together"),
        (["source", "x.bin", "--pairs", "pairs.txt", "--drop", "drop.txt"], 2, "--drop does not apply to a .bin file"),
        (["source", "x", "--drop", "none.txt"], 1, "none.txt: cannot be read"),
        (["source", "x", "--to", "zip"], 2, "zip"),
    ],
)
def test_vplface_data_convert_reports_wrong_arguments(source, tmp_path, monkeypatch, arguments, status, says):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == status
    assert says in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


@pytest.mark.parametrize("name", ["folder", "list.csv", "set.rec", "set.tar", "set.parquet"])
def test_convert_refuses_a_target_that_another_command_is_writing(source, tmp_path, name):
    target = tmp_path / name
    with claimed(target):
        with pytest.raises(DataError, match="another command is writing there; wait for it"):
            convert(ImageFolder(source), source, target)
        assert not target.exists()
    assert convert(ImageFolder(source), source, target).pictures == 60
    stored, original = open_pictures(target), ImageFolder(source)
    assert sorted(map(stored.encoded, range(60))) == sorted(map(original.encoded, range(60)))
    assert not list(tmp_path.glob(".*"))


def test_align_folder_and_convert_to_bin_refuse_a_target_that_is_being_written(source, tmp_path):
    pairs = Pairs(["p0/0.jpg"], ["p0/1.jpg"], np.array([True]), np.array([0]))
    with claimed(tmp_path / "x"), claimed(tmp_path / "x.bin"):
        for write in (
            lambda: align_folder(source, tmp_path / "x", lambda picture: []),
            lambda: module.convert_to_bin(ImageFolder(source), tmp_path / "x.bin", pairs),
        ):
            with pytest.raises(DataError, match="another command is writing there"):
                write()


def test_convert_asks_to_delete_a_damaged_journal(source, tmp_path):
    target = tmp_path / "target"
    interrupted(source, target)
    journal = module._Journal.place(target)
    begun = journal.read_text().splitlines()[0]
    for line in ('{"position": "x"}', '{"position": 1}', '{"position": null, "where": 1, "reason": 2}'):
        journal.write_text(f"{begun}\n{line}\n")
        with pytest.raises(DataError, match="is damaged; delete it and"):
            convert(ImageFolder(source), source, target)
