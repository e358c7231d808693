"""Against a server of our own, on this machine."""

from __future__ import annotations

import hashlib
import http.server
import io
import re
import socket
import tarfile
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vplface.cli.app import app
from vplface.data import catalogue, download
from vplface.data.download import File, fetch
from vplface.errors import DataError
from vplface.files import claimed

CONTENT = bytes(range(256)) * 2000


class Server(http.server.ThreadingHTTPServer):
    """``content`` at every path but /gone; ``ranges``: whether it can go on; ``cut``: bytes after which it stops."""

    content = CONTENT
    ranges = True
    cut: int | None = None

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_port}/file"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        content = self.server.content
        if self.path == "/gone":
            self.send_error(404)
            return
        start = 0
        if wanted and self.server.ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : None if self.server.cut is None else start + self.server.cut])

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


def described(*urls: str, content: bytes = CONTENT, archive: bool = False) -> File:
    return File("data.bin", urls, "sha256", hashlib.sha256(content).hexdigest(), archive)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_file_is_downloaded_once(server, tmp_path):
    file = described(server.url)
    assert fetch(file, tmp_path / "new")
    assert (tmp_path / "new" / "data.bin").read_bytes() == CONTENT
    assert names(tmp_path / "new") == ["data.bin"]
    assert not fetch(file, tmp_path / "new")
    assert server.asked == [None]


def test_a_cut_connection_keeps_what_came_and_the_next_call_goes_on(server, tmp_path):
    server.cut = 100_000
    for come in (100_000, 200_000, 300_000):
        with pytest.raises(
            DataError, match=rf"(?s)broke off, {512_000 - come:,} bytes before.*{come:,} bytes are kept"
        ):
            fetch(described(server.url), tmp_path)
        assert names(tmp_path) == [".data.bin.part"]
    server.cut = None
    assert fetch(described(server.url), tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=100000-", "bytes=200000-", "bytes=300000-"]


def test_a_server_that_cannot_go_on_begins_anew(server, tmp_path):
    (tmp_path / ".data.bin.part").write_bytes(CONTENT[:1000])
    server.ranges = False
    assert fetch(described(server.url), tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("there", [b"x" * 1000, b"x" * len(CONTENT), b"x" * (len(CONTENT) + 10)])
def test_what_was_there_before_and_is_wrong_is_thrown_away_once(server, tmp_path, there):
    (tmp_path / ".data.bin.part").write_bytes(there)
    assert fetch(described(server.url), tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert len(server.asked) == 2


def test_all_was_there_but_the_name(server, tmp_path):
    (tmp_path / ".data.bin.part").write_bytes(CONTENT)
    assert fetch(described(server.url), tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert server.asked == []


def test_a_file_with_another_digest_is_not_kept(server, tmp_path):
    server.content = CONTENT[:-1] + b"x"
    with pytest.raises(DataError, match=r"the file there has another sha256 than .*: damaged or replaced"):
        fetch(described(server.url), tmp_path)
    assert names(tmp_path) == []
    assert len(server.asked) == 1


def test_the_next_url_is_tried(server, tmp_path):
    gone = server.url.replace("/file", "/gone")
    assert fetch(described(gone, server.url), tmp_path)
    with pytest.raises(DataError, match=r"(?s)/gone: the server answers 404 Not Found.*http://127.0.0.1:1/: cannot be"):
        fetch(described(gone, "http://127.0.0.1:1/"), tmp_path / "other")


def test_offline_is_said(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(DataError, match=r"cannot be reached: .*Connection refused; is this machine online\?"):
        fetch(described(f"http://127.0.0.1:{port}/x"), tmp_path)


def test_a_server_that_says_nothing_is_given_up(monkeypatch, tmp_path):
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(DataError, match=r"no answer within 0 seconds|timed out"):
            fetch(described(f"http://127.0.0.1:{silent.getsockname()[1]}/x"), tmp_path)


def test_a_place_that_cannot_be_written_is_said(server, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match=r"cannot write .*file.*choose another folder"):
        fetch(described(server.url), tmp_path / "file" / "set")


def archive(*members: tuple[str, bytes | str]) -> bytes:
    """A .tar.gz; a member's text is the target of a link."""
    stored = io.BytesIO()
    with tarfile.open(fileobj=stored, mode="w:gz") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return stored.getvalue()


def test_an_archive_becomes_its_folder(server, tmp_path):
    server.content = archive(("lfw/a/1.jpg", b"one"), ("lfw/b/2.jpg", b"two"))
    file = described(server.url, content=server.content, archive=True)
    assert fetch(file, tmp_path)
    assert names(tmp_path) == ["data.bin"]
    assert (tmp_path / "data.bin" / "b" / "2.jpg").read_bytes() == b"two"
    assert not fetch(file, tmp_path)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "members",
    [
        [("../out.txt", b"out")],
        [("lfw/../../out.txt", b"out")],
        [("lfw/link", "../.."), ("lfw/link/out.txt", b"out")],
        [("lfw/link", "/etc/passwd")],
        [("a/x", b""), ("b/x", b"")],
        [],
    ],
)
def test_an_archive_writes_nothing_elsewhere(server, tmp_path, members):
    server.content = archive(*members)
    with pytest.raises(DataError, match=r"cannot be unpacked|holds \d folders, one was expected"):
        fetch(described(server.url, content=server.content, archive=True), tmp_path / "deep" / "set")
    assert not (tmp_path / "deep" / "set" / "data.bin").exists()
    assert [path for path in tmp_path.rglob("out.txt") if ".unpacking" not in str(path)] == []


def test_an_absolute_name_stays_inside(server, tmp_path):
    server.content = archive((f"{tmp_path}/lfw/out.txt", b"out"))
    fetch(described(server.url, content=server.content, archive=True), tmp_path / "set")
    assert not (tmp_path / "lfw").exists()


def test_the_catalogue_is_sound():
    for known in catalogue.SETS.values():
        assert known.terms
        for file in known.files:
            assert re.fullmatch("[0-9a-f]{64}" if file.algorithm == "sha256" else "[0-9a-f]{32}", file.digest)
            assert file.algorithm in ("sha256", "md5")
            assert file.urls
    assert not set(catalogue.SETS) & set(catalogue.ELSEWHERE)


def run(*arguments: object):
    return CliRunner().invoke(app, ["data", "get", *map(str, arguments)])


def test_the_command_shows_the_terms_and_goes_on(server, tmp_path, monkeypatch):
    known = catalogue.DownloadableSet("Faces", "http://faces.example", "For research.", (described(server.url),))
    monkeypatch.setitem(catalogue.SETS, "faces", known)
    server.cut = 1000
    result = run("faces", "--to", tmp_path / "set")
    assert result.exit_code == 1
    assert "For research." in result.stdout
    assert "1,000 bytes are kept; repeat the command" in result.stderr
    server.cut = None
    assert run("FACES", "--to", tmp_path / "set").exit_code == 0
    assert (tmp_path / "set" / "data.bin").read_bytes() == CONTENT
    assert "data.bin was there" in run("faces", "--to", tmp_path / "set").stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "no set is named"),
        (["lwf"], "no set is called 'lwf'; did you mean 'lfw'?"),
        (["ms1mv3"], "ms1mv3 cannot be downloaded by a program"),
    ],
)
def test_mistakes_are_said(arguments, says):
    result = run(*arguments)
    assert result.exit_code == 2
    assert says in result.stderr


def test_the_list_names_all():
    told = run("--list").stdout
    assert all(f"  {name} " in told for name in (*catalogue.SETS, *catalogue.ELSEWHERE))


class Liar(http.server.BaseHTTPRequestHandler):
    """Answers as the server's ``lie`` says: a function of the handler."""

    def do_GET(self) -> None:
        self.server.asked += 1
        with suppress(OSError):  # the other side hangs up
            self.server.lie(self)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def liar(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Liar) as lying:
        lying.asked, lying.daemon_threads = 0, True
        lying.url = f"http://127.0.0.1:{lying.server_port}/file"
        threading.Thread(target=lying.serve_forever, args=(0.02,), daemon=True).start()
        yield lying
        lying.shutdown()


def says(status: int, headers: dict[str, object], body: bytes = b"", *, endless: bool = False):
    def answer(handler: Liar) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, str(value))
        handler.end_headers()
        handler.wfile.write(body)
        while endless:
            handler.wfile.write(body)

    return answer


LENGTH = "Content-Length"


@pytest.mark.parametrize("length", [None, "-5", "many", "9" * 40, len(CONTENT) + 1000])
def test_what_is_right_is_taken_whatever_length_is_announced(liar, tmp_path, length):
    liar.lie = says(200, {} if length is None else {LENGTH: length}, CONTENT)
    assert fetch(described(liar.url), tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert names(tmp_path) == ["data.bin"]


def one_line(file: File, folder: Path) -> str:
    """What is said about the only URL."""
    with pytest.raises(DataError) as caught:
        fetch(file, folder)
    assert len(str(caught.value).split("\n  ")) == 2
    return str(caught.value).split("\n")[1]


def test_a_length_that_is_too_small_is_noticed(liar, tmp_path):
    liar.lie = says(200, {LENGTH: 100}, CONTENT)
    assert "another sha256" in one_line(described(liar.url), tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("headers", [{}, {LENGTH: 2**40}, {"Transfer-Encoding": "chunked"}])
def test_an_endless_answer_ends_and_leaves_nothing(liar, tmp_path, headers):
    chunk = b"10000\r\n" + bytes(2**16) + b"\r\n" if "Transfer-Encoding" in headers else bytes(2**16)
    liar.lie = says(200, headers, chunk, endless=True)
    file = replace(described(liar.url), max_bytes=10**6)
    assert "larger than 1,000,000 bytes" in one_line(file, tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (302, {"Location": "/file"}), (302, {"Location": "file:///etc/passwd"}), (302, {"Location": "http://[::1"}),
        (302, {"Location": "gopher://x/"}), (302, {}), (200, {"Transfer-Encoding": "chunked"}), (999, {}),
        (200, {"X": "y" * 70_000}),
    ],
)  # fmt: skip
def test_answers_that_lead_nowhere_are_said_in_a_line(liar, tmp_path, status, headers):
    liar.lie = says(status, headers, b"no chunk\r\n\r\n")
    assert liar.url in one_line(described(liar.url), tmp_path)
    assert not (tmp_path / "data.bin").exists()


@pytest.mark.parametrize("place", ["bytes 0-9/10", f"bytes 7-9/{len(CONTENT)}", "nonsense"])
def test_a_part_that_was_not_asked_for_is_not_appended(liar, tmp_path, place):
    (tmp_path / ".data.bin.part").write_bytes(CONTENT[:1000])

    def answer(handler: Liar) -> None:
        ranged = "Range" in handler.headers
        says(206 if ranged else 200, {"Content-Range": place} if ranged else {}, CONTENT[7:] if ranged else CONTENT)(
            handler
        )

    liar.lie = answer
    assert fetch(described(liar.url), tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert liar.asked == 2


def test_of_two_downloads_into_one_place_one_is_refused(server, tmp_path):
    with claimed(tmp_path / "data.bin"), pytest.raises(DataError, match="another command is writing there"):
        fetch(described(server.url), tmp_path)


def test_archives_that_unpack_without_end_are_refused(server, tmp_path, monkeypatch):
    server.content = archive(("set/a.jpg", bytes(5000)), ("set/b.jpg", bytes(5000)))
    file = described(server.url, content=server.content, archive=True)
    for limit, value in (("_MAX_UNPACKED", 9000), ("_MAX_MEMBERS", 1)):
        with monkeypatch.context() as patch:
            patch.setattr(download, limit, value)
            with pytest.raises(DataError, match="cannot be unpacked: it unpacks to more than"):
                fetch(file, tmp_path)
            assert names(tmp_path) == [".data.bin.part"]


@pytest.mark.parametrize(
    "content", [b"", b"\x1f\x8b\x08\0garbage", b"\x1f\x8bx", bytes(1024), b"BZh9x", b"\xfd7zXZ\0x"]
)
def test_what_is_no_archive_is_said(server, tmp_path, content):
    server.content = content
    with pytest.raises(DataError, match=r"cannot be unpacked|holds 0 folders"):
        fetch(described(server.url, content=content, archive=True), tmp_path)
