"""Against a server of our own, on this machine."""

from __future__ import annotations

import hashlib
import http.server
import io
import re
import socket
import tarfile
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vplface.cli.app import app
from vplface.data import catalogue, download
from vplface.data.download import File, fetch
from vplface.errors import DataError

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
        threading.Thread(target=server.serve_forever, daemon=True).start()
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
            DataError, match=rf"(?s)broke off, {512_000 - come:,} bytes before.*{come:,} bytes have come"
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
    known = catalogue.Catalogued("Faces", "http://faces.example", "For research.", (described(server.url),))
    monkeypatch.setitem(catalogue.SETS, "faces", known)
    server.cut = 1000
    result = run("faces", "--to", tmp_path / "set")
    assert result.exit_code == 1
    assert "For research." in result.stdout
    assert "1,000 bytes have come; repeat the command" in result.stderr
    server.cut = None
    assert run("FACES", "--to", tmp_path / "set").exit_code == 0
    assert (tmp_path / "set" / "data.bin").read_bytes() == CONTENT
    assert "data.bin was there" in run("faces", "--to", tmp_path / "set").stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "which set"),
        (["lwf"], "no set is called 'lwf'; did you mean lfw"),
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
