"""Downloads from a server on this machine."""

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
    """``content`` at every path but /gone; ``ranges``: it serves ranges; ``cut``: bytes after which it stops."""

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


def test_fetch_downloads_a_file_once(server, tmp_path):
    file = described(server.url)
    assert fetch(file, tmp_path / "new")
    assert (tmp_path / "new" / "data.bin").read_bytes() == CONTENT
    assert names(tmp_path / "new") == ["data.bin"]
    assert not fetch(file, tmp_path / "new")
    assert server.asked == [None]


def test_fetch_keeps_the_received_part_and_resumes_after_a_lost_connection(server, tmp_path):
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


def test_fetch_restarts_if_the_server_does_not_support_ranges(server, tmp_path):
    (tmp_path / ".data.bin.part").write_bytes(CONTENT[:1000])
    server.ranges = False
    assert fetch(described(server.url), tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("there", [b"x" * 1000, b"x" * len(CONTENT), b"x" * (len(CONTENT) + 10)])
def test_fetch_discards_a_wrong_partial_file_once(server, tmp_path, there):
    (tmp_path / ".data.bin.part").write_bytes(there)
    assert fetch(described(server.url), tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert len(server.asked) == 2


def test_fetch_renames_a_complete_partial_file_without_a_request(server, tmp_path):
    (tmp_path / ".data.bin.part").write_bytes(CONTENT)
    assert fetch(described(server.url), tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert server.asked == []


def test_fetch_removes_a_file_with_another_digest(server, tmp_path):
    server.content = CONTENT[:-1] + b"x"
    with pytest.raises(DataError, match=r"the file there has another sha256 than .*: damaged or replaced"):
        fetch(described(server.url), tmp_path)
    assert names(tmp_path) == []
    assert len(server.asked) == 1


def test_fetch_tries_the_next_url(server, tmp_path):
    gone = server.url.replace("/file", "/gone")
    assert fetch(described(gone, server.url), tmp_path)
    with pytest.raises(DataError, match=r"(?s)/gone: the server answers 404 Not Found.*http://127.0.0.1:1/: cannot be"):
        fetch(described(gone, "http://127.0.0.1:1/"), tmp_path / "other")


def test_fetch_asks_whether_the_machine_is_online(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(DataError, match=r"cannot be reached: .*Connection refused; is this machine online\?"):
        fetch(described(f"http://127.0.0.1:{port}/x"), tmp_path)


def test_fetch_gives_up_on_a_silent_server(monkeypatch, tmp_path):
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(DataError, match=r"no answer within 0 seconds|timed out"):
            fetch(described(f"http://127.0.0.1:{silent.getsockname()[1]}/x"), tmp_path)


def test_fetch_names_a_folder_that_cannot_be_written(server, tmp_path):
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


def test_fetch_unpacks_an_archive_to_its_folder(server, tmp_path):
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
def test_fetch_writes_no_archive_member_outside_the_folder(server, tmp_path, members):
    server.content = archive(*members)
    with pytest.raises(DataError, match=r"cannot be unpacked|holds \d folders, one was expected"):
        fetch(described(server.url, content=server.content, archive=True), tmp_path / "deep" / "set")
    assert not (tmp_path / "deep" / "set" / "data.bin").exists()
    assert [path for path in tmp_path.rglob("out.txt") if ".unpacking" not in str(path)] == []


def test_fetch_unpacks_absolute_names_inside_the_folder(server, tmp_path):
    server.content = archive((f"{tmp_path}/lfw/out.txt", b"out"))
    fetch(described(server.url, content=server.content, archive=True), tmp_path / "set")
    assert not (tmp_path / "lfw").exists()


def test_SETS_have_terms_urls_and_valid_digests():
    for known in catalogue.SETS.values():
        assert known.terms
        for file in known.files:
            assert re.fullmatch("[0-9a-f]{64}" if file.algorithm == "sha256" else "[0-9a-f]{32}", file.digest)
            assert file.algorithm in ("sha256", "md5")
            assert file.urls
    assert not set(catalogue.SETS) & set(catalogue.ELSEWHERE)


def run(*arguments: object):
    return CliRunner().invoke(app, ["data", "get", *map(str, arguments)])


def test_vplface_data_get_shows_the_terms_and_resumes(server, tmp_path, monkeypatch):
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
    assert "data.bin is already there" in run("faces", "--to", tmp_path / "set").stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "no set is named"),
        (["lwf"], "unknown set 'lwf'; did you mean 'lfw'?"),
        (["ms1mv3"], "ms1mv3 cannot be downloaded by a program"),
    ],
)
def test_vplface_data_get_reports_wrong_set_names(arguments, says):
    result = run(*arguments)
    assert result.exit_code == 2
    assert says in result.stderr


def test_vplface_data_get_list_names_every_set():
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
def test_fetch_accepts_correct_content_whatever_Content_Length_says(liar, tmp_path, length):
    liar.lie = says(200, {} if length is None else {LENGTH: length}, CONTENT)
    assert fetch(described(liar.url), tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert names(tmp_path) == ["data.bin"]


def one_line(file: File, folder: Path) -> str:
    """The line of the error about the only URL."""
    with pytest.raises(DataError) as caught:
        fetch(file, folder)
    assert len(str(caught.value).split("\n  ")) == 2
    return str(caught.value).split("\n")[1]


def test_fetch_refuses_content_truncated_by_a_small_Content_Length(liar, tmp_path):
    liar.lie = says(200, {LENGTH: 100}, CONTENT)
    assert "another sha256" in one_line(described(liar.url), tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("headers", [{}, {LENGTH: 2**40}, {"Transfer-Encoding": "chunked"}])
def test_fetch_stops_an_endless_response_and_leaves_no_file(liar, tmp_path, headers):
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
def test_fetch_reports_an_invalid_response_in_one_line(liar, tmp_path, status, headers):
    liar.lie = says(status, headers, b"no chunk\r\n\r\n")
    assert liar.url in one_line(described(liar.url), tmp_path)
    assert not (tmp_path / "data.bin").exists()


@pytest.mark.parametrize("place", ["bytes 0-9/10", f"bytes 7-9/{len(CONTENT)}", "nonsense"])
def test_fetch_does_not_append_a_range_that_was_not_requested(liar, tmp_path, place):
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


def test_fetch_refuses_a_second_download_to_the_same_file(server, tmp_path):
    with claimed(tmp_path / "data.bin"), pytest.raises(DataError, match="another command is writing there"):
        fetch(described(server.url), tmp_path)


def test_fetch_refuses_archives_that_unpack_to_too_many_bytes_or_files(server, tmp_path, monkeypatch):
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
def test_fetch_refuses_files_that_are_not_archives(server, tmp_path, content):
    server.content = content
    with pytest.raises(DataError, match=r"cannot be unpacked|holds 0 folders"):
        fetch(described(server.url, content=content, archive=True), tmp_path)
