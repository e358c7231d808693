"""``vplface demo`` over HTTP, in a browser that can reach nothing else, and from the command line."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch
from typer.testing import CliRunner

from helpers.browser import CHROMIUM, Browser
from helpers.painted import write
from vplface.backbones import build
from vplface.cli.app import app
from vplface.demo.serve import allowed_hosts, is_loopback, listening_socket
from vplface.deploy.gallery_folder import load_gallery
from vplface.embedder import Embedder
from vplface.errors import UsageError
from vplface.stored_model import ModelCard, save_model
from vplface_synthetic import SyntheticFaces

THRESHOLD = 0.9999
ENDED = "stopped; temporary files are deleted\n"
NAME = "Ada <img src=x onerror=document.title='bad'> ${document.title='bad'} {{x}}"

WATCHED = """
import sys
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        host = arguments[1][0] if event == "socket.connect" and isinstance(arguments[1], tuple) else arguments[0]
        if isinstance(host, str) and host not in ("localhost", "127.0.0.1", "::1"):
            print("reached for", host, file=sys.stderr, flush=True)
sys.addaudithook(watch)
from vplface.cli import main
main()
"""


def gradio():
    pytest.importorskip("gradio", reason="the extra demo is not installed")


@dataclass
class Demo:
    """A running demo."""

    process: subprocess.Popen
    host: str
    port: int
    run: Path
    gallery: Path
    temporary: Path
    errors: Path

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=20)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def post(self, path: str, body: bytes, kind: str) -> tuple[int, bytes]:
        return self.ask("POST", path, body, **{"Origin": f"http://{self.host}:{self.port}", "Content-Type": kind})

    def upload(self, name: bytes, data: bytes) -> tuple[int, bytes]:
        head = b'--b\r\nContent-Disposition: form-data; name="files"; filename="' + name + b'"\r\n\r\n'
        return self.post("/gradio_api/upload", head + data + b"\r\n--b--\r\n", "multipart/form-data; boundary=b")

    @property
    def uploaded(self) -> list[Path]:
        """Files with something in them; gradio leaves empty ones, too."""
        return [file for file in self.temporary.rglob("*") if file.is_file() and file.stat().st_size]


def start(folder: Path, *words: str) -> Demo:
    torch.manual_seed(0)
    backbone = build("tiny", 16, width=8)
    backbone(torch.rand(8, 3, 112, 112) * 2 - 1)
    run, temporary = folder / "run", folder / "tmp"
    temporary.mkdir()
    save_model(run, backbone, ModelCard("tiny", 16, {"width": 8}))
    (run / "report.html").write_text("<!doctype html><title>report</title><p>the report of this run</p>")
    (folder / "secret.png").write_bytes(b"secret")
    errors = folder / "errors.txt"
    command = [sys.executable, "-c", WATCHED, "demo", str(run), "--port", "0", *words]
    with errors.open("w") as log:
        environment = os.environ | {"TMPDIR": str(temporary), "HOME": str(folder / "home"), "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
    line = process.stdout.readline()
    found = re.match(r"http://([\d.]+):(\d+)/ ", line)
    assert found, line + errors.read_text()
    demo = Demo(process, found[1], int(found[2]), run, folder / "gallery", temporary, errors)
    assert demo.ask("GET", "/")[0] == 200  # the socket listens before the page is ready, and answers then
    return demo


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    gradio()
    folder = tmp_path_factory.mktemp("demo")
    running = start(folder, "--gallery", str(folder / "gallery"), "--threshold", str(THRESHOLD))
    yield running
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(20) == 0
    assert running.process.stdout.read() == ENDED
    assert "reached for" not in running.errors.read_text()
    assert list(running.temporary.iterdir()) == []
    left = [path.name for path in (folder / "home").rglob("*") if path.is_file()]
    assert [name for name in left if not name.startswith("fontlist-")] == []  # matplotlib's list of fonts


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    faces = SyntheticFaces(2, 2, seed=3, difficulty=0.5)
    for index in range(4):
        write(folder / f"{index // 2}{'ab'[index % 2]}.png", faces.picture(index))
    (folder / "text.jpg").write_bytes(b"no picture")
    return folder


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd", "/gradio_api/file=secret.png", "/file=/etc/passwd", "/static//etc/passwd",
        "/assets//etc/passwd", "/static/../../../../../../etc/passwd", "/static/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/report/../model.json", "/gradio_api/file=http://example.org/", "/gradio_api/proxy=http://example.org/",
    ],
)  # fmt: skip
def test_vplface_demo_serves_no_local_files(demo, path):
    status, body = demo.ask("GET", path)
    assert status in (403, 404)
    assert b"root:" not in body
    assert demo.ask("GET", f"/gradio_api/file={demo.run.parent / 'secret.png'}")[0] == 404
    assert demo.ask("GET", f"/gradio_api/file={demo.run / 'model.json'}")[0] == 404


def test_vplface_demo_serves_the_report_of_the_run(demo):
    status, body = demo.ask("GET", "/report")
    assert status == 200
    assert b"the report of this run" in body


@pytest.mark.parametrize(
    "name", [b"../../../x.png", b"/etc/x.png", b"a\0b.png", b"..", b".", b"x" * 300, b"x" * 9000, b"..\\..\\x.png"]
)
def test_vplface_demo_keeps_an_upload_in_its_folder_whatever_its_name(demo, name):
    before = {path for path in demo.run.parent.rglob("*") if demo.temporary not in path.parents}
    status, body = demo.upload(name, b"hello " + name[:20])
    assert status in (200, 400, 413)
    for path in json.loads(body) if status == 200 else ():
        assert Path(path).resolve().is_relative_to(demo.temporary.resolve())
        Path(path).unlink()
    assert {path for path in demo.run.parent.rglob("*") if demo.temporary not in path.parents} == before


def test_vplface_demo_refuses_an_upload_of_more_than_20_MiB(demo):
    status, body = demo.upload(b"large.png", bytes(20 * 2**20 + 1))
    assert status == 413
    assert b"20971520 bytes" in body
    for left in demo.uploaded:  # the demo would delete it after two minutes
        left.unlink()


def test_vplface_demo_temporary_folder_has_mode_700(demo):
    (folder,) = demo.temporary.glob("vplface-demo-*")
    assert folder.stat().st_mode & 0o777 == 0o700


def test_vplface_demo_sends_no_event_through_the_queue_of_gradio(demo):
    events = json.loads(demo.ask("GET", "/config")[1])["dependencies"]
    assert events
    assert not any(event["queue"] for event in events)
    assert demo.post("/gradio_api/queue/join", b"{}", "application/json")[0] == 404


def test_vplface_demo_refuses_an_event_that_names_a_file_outside_its_uploads(demo):
    config = json.loads(demo.ask("GET", "/config")[1])
    names = {each["id"]: each["props"].get("elem_id") for each in config["components"]}
    (search,) = [each for each in config["dependencies"] if [names[i] for i in each["inputs"]] == ["search-file"]]
    path_of_event = f"/gradio_api/run/{search['api_name']}"
    for path in ("/etc/passwd", str(demo.run.parent / "secret.png"), "http://example.org/x.png"):
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        event = {"data": [file], "fn_index": search["id"], "session_hash": "s"}
        assert demo.post(path_of_event, json.dumps(event).encode(), "application/json")[0] == 400
    assert demo.uploaded == []


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt-get install chromium)")
def test_vplface_demo_compares_enrols_searches_and_removes_in_a_browser(demo, pictures, tmp_path):
    browser = Browser(tmp_path / "profile")
    try:
        browser.open(f"http://{demo.host}:{demo.port}/")
        compare(browser, demo, pictures)
        enrol(browser, demo, pictures)
        search(browser, pictures)
        remove(browser, demo)
        browser.tab("Report")
        browser.wait("!!document.querySelector('iframe[title=\"report of the training\"]')")
        assert browser.value("document.title") == "vplface demo"
        assert {urlsplit(address).netloc for address in browser.requests if not address.startswith("data:")} == {
            f"{demo.host}:{demo.port}"
        }
        # gradio asks for the progress of an upload, and a small one is complete before that
        assert [each for each in browser.complaints if "upload_progress" not in each] == []
    finally:
        browser.close()
    assert demo.uploaded == []


def compare(browser: Browser, demo: Demo, pictures: Path) -> None:
    x, y = Embedder.load(demo.run)([pictures / "0a.png", pictures / "0b.png"], "sum")
    browser.upload("#first-file input", pictures / "0a.png")
    browser.wait("!!document.querySelector('#first-picture img')")
    browser.upload("#second-file input", pictures / "0b.png")
    shown = browser.wait("document.querySelector('#verdict')?.innerText")
    assert f"{float(x @ y):.4f}" in shown
    assert "different people" in shown
    assert f"threshold {THRESHOLD:.4f}, from the command line" in shown
    browser.upload("#second-file input", pictures / "0a.png")
    browser.wait("document.querySelector('#verdict')?.innerText.includes('same person')")
    browser.upload("#second-file input", pictures / "text.jpg")
    browser.wait("document.querySelector('#second-picture').innerText.includes('not a jpg, png, webp or bmp file')")
    browser.wait("!document.querySelector('#verdict')")


def enrol(browser: Browser, demo: Demo, pictures: Path) -> None:
    browser.tab("Enrol")
    browser.type("#enrol-name textarea, #enrol-name input", NAME)
    browser.upload("#enrol-file input", pictures / "0a.png", pictures / "0b.png")
    browser.wait("document.querySelectorAll('#pending li').length == 2")
    browser.click("#enrol-button")
    browser.wait("document.querySelector('#enrol-result').innerText.includes('agreed')")
    assert not demo.gallery.exists()
    browser.click("#enrol-consent input")
    browser.click("#enrol-button")
    browser.wait("document.querySelector('#enrol-result').innerText.includes('2 pictures of Ada')")
    browser.wait("document.querySelector('#people').innerText.includes('onerror')")
    assert dict(load_gallery(demo.gallery).pictures) == {NAME: 2}


def search(browser: Browser, pictures: Path) -> None:
    browser.tab("Search")
    browser.upload("#search-file input", pictures / "0a.png")
    told = browser.wait("document.querySelector('#found')?.innerText")
    assert told.startswith(NAME)
    assert "similarity 1.0000" in told
    browser.upload("#search-file input", pictures / "1a.png")
    browser.wait("document.querySelector('#found')?.innerText.startsWith('unknown')")


def remove(browser: Browser, demo: Demo) -> None:
    browser.tab("Enrol")
    browser.value("document.querySelector('#remove-name input').focus()")
    browser.wait("document.querySelectorAll('[role=option]').length == 1")
    browser.value("document.querySelector('[role=option]').dispatchEvent(new MouseEvent('mousedown', {bubbles: true}))")
    browser.click("#remove-button")
    browser.wait("document.querySelector('#people').innerText == 'Nobody yet.'")
    for file in demo.gallery.rglob("*"):
        assert b"onerror" not in file.read_bytes()


def test_vplface_demo_ends_on_SIGTERM_and_deletes_its_temporary_folder(tmp_path):
    gradio()
    running = start(tmp_path)
    (folder,) = running.temporary.glob("vplface-demo-*")
    assert running.upload(b"a.png", b"left behind")[0] == 200
    stream = socket.create_connection((running.host, running.port))  # stays open, as those of a page do
    stream.sendall(b"GET /gradio_api/heartbeat/s HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    stream.recv(100)
    began = time.monotonic()
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(20) == 0
    stream.close()
    assert time.monotonic() - began < 10
    assert running.process.stdout.read() == ENDED
    assert running.errors.read_text() == ""
    assert not folder.exists()


def vplface(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_listening_socket_names_a_free_port_if_its_own_is_in_use(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = vplface("demo", tmp_path, "--port", port)
        assert result.exit_code == 2
        free = re.search(rf"--port {port}: in use by another program; port (\d+) is free", result.stderr)
        assert free
        listening_socket("127.0.0.1", int(free[1])).close()


def test_vplface_demo_refuses_a_public_address_without_expose(tmp_path):
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        result = vplface("demo", tmp_path, "--host", host)
        assert result.exit_code == 2
        assert f"--host {host}: others could reach the page" in result.stderr
        assert "--expose" in result.stderr
    with pytest.raises(UsageError, match=r"--host 192\.0\.2\.1: "):
        listening_socket("192.0.2.1", 0)
    result = vplface("demo", tmp_path / "absent", "--host", "0.0.0.0", "--port", "0", "--expose")
    assert "warning: everybody who can reach 0.0.0.0 can see, enrol and remove people" in result.stderr
    assert [is_loopback(host) for host in ("localhost", "127.0.0.1", "127.8.8.8", "::1", "10.0.0.1", "x")] == [
        True, True, True, True, False, False,
    ]  # fmt: skip
    result = vplface("demo", tmp_path / "absent", "--port", "0", "--name", "http://box")
    assert (result.exit_code, "--name http://box: expected a host name" in result.stderr) == (2, True)


def test_allowed_hosts_contains_only_own_addresses_and_given_names():
    here = {"localhost", "127.0.0.1", "::1"}
    elsewhere = {"192.168.1.5", "8.8.8.8", "2001:db8::1", "::ffff:10.0.0.1"}
    others = {
        "evil.example",
        "box",
        "localhost.evil.example",
        "127.1",
        "0x7f000001",
        "2130706433",
        "",
        "0.0.0.0.nip.io",
    }
    for host, own, addresses in (
        ("127.8.8.8", {"127.8.8.8"}, set()), ("localhost", set(), set()), ("0.0.0.0", {"0.0.0.0"}, elsewhere),
        ("::", {"::"}, elsewhere), ("box.lan", {"box.lan"}, elsewhere),
    ):  # fmt: skip
        hosts = allowed_hosts(host)
        assert all(name in hosts for name in here | own | addresses)
        assert not any(name in hosts for name in (elsewhere | others) - addresses)
    named = allowed_hosts("0.0.0.0", ["Box.Example.", "grüße.example"])
    assert {name for name in ("box.example", "xn--gre-hoa3n.example") if name in named} == {"box.example"}
    assert "grüße.example".encode("idna").decode() in named
    for name in ("", "*", "box:80", "http://box", "a b", "box/", "[::1", "a@box", "x" * 80):
        with pytest.raises(UsageError, match="expected a host name"):
            allowed_hosts("0.0.0.0", [name])


def test_vplface_demo_names_the_missing_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    result = vplface("demo", tmp_path, "--port", "0")
    assert result.exit_code == 1
    assert "pip install 'vplface[demo]'" in result.stderr
