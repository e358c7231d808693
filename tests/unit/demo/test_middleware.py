"""AllowlistMiddleware in front of a fake server: which requests it passes."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field

import pytest

from vplface.demo import middleware
from vplface.demo.middleware import AllowlistMiddleware, report_of
from vplface.demo.serve import allowed_hosts

HOSTS = ("127.0.0.1", "localhost", "::1")
HERE = "127.0.0.1:7860"
EVENT = "/gradio_api/run/_found"


@dataclass
class Server:
    """Answers every request and records it."""

    seen: list[tuple[str, bytes]] = field(default_factory=list)
    queries: list[bytes] = field(default_factory=list)

    async def __call__(self, scope, receive, send):
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.seen.append((scope["path"], body))
        self.queries.append(scope["query_string"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/html")]})
        await send({"type": "http.response.body", "body": b"the page"})


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    through: list[tuple[str, bytes]]
    queries: list[bytes]


def ask(
    tmp_path, method, path, *, query=b"", body=b"", host=HERE, hosts=HOSTS, report=None, length=None, **headers
) -> Answer:
    server = Server()
    given = {"host": host, "content-length": str(len(body)) if length is None else length, **headers}
    scope = {
        "type": "http", "method": method, "path": path, "query_string": query,
        "headers": [(key.encode(), value.encode()) for key, value in given.items() if value],
    }  # fmt: skip
    parts = [body[:5], body[5:]]
    sent = []

    async def receive():
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def send(message):
        sent.append(message)

    asyncio.run(AllowlistMiddleware(server, hosts, report, tmp_path)(scope, receive, send))
    start, *rest = sent
    answered = {key.decode(): value.decode() for key, value in start["headers"]}
    return Answer(start["status"], answered, b"".join(message["body"] for message in rest), server.seen, server.queries)


def post(tmp_path, path=EVENT, **more) -> Answer:
    return ask(tmp_path, "POST", path, **{"origin": f"http://{HERE}", **more})


def test_AllowlistMiddleware_passes_the_page_with_a_content_security_policy(tmp_path):
    for path in ("/", "/config", "/assets/index.js", "/gradio_api/upload_progress", "/gradio_api/heartbeat/abc"):
        answer = ask(tmp_path, "GET", path)
        assert (answer.status, answer.through) == (200, [(path, b"")])
        policy = answer.headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "http" not in policy
        assert "*" not in policy


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd", "/file=/etc/passwd", "/file/etc/passwd", "/gradio_api/proxy=http://x/",
        "/gradio_api/info", "/gradio_api/call/x", "/gradio_api/runs", "/gradio_api/vibe-code/", "/docs",
        "/openapi.json", "/login", "/monitoring", "/static/../config.yaml", "/report/../x", "/report.html", "//", "",
    ],
)  # fmt: skip
def test_AllowlistMiddleware_answers_404_to_other_routes(tmp_path, path):
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"):
        answer = ask(tmp_path, method, path, origin=f"http://{HERE}")
        assert (answer.status, answer.through) == (404, [])


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:7860", "127.0.0.1.evil.example", "a@evil", "[", "", "localhost#.evil.example",
        "localhost/.evil.example", "evil@localhost", "localhost:7860:1", "[localhost]", "::1", "localhost..", "127.1",
    ],
)  # fmt: skip
def test_AllowlistMiddleware_refuses_a_request_for_another_host(tmp_path, host):
    answer = ask(tmp_path, "GET", "/", host=host)
    assert (answer.status, answer.through) == (403, [])


@pytest.mark.parametrize(
    "host", ["localhost:7860", "[::1]:7860", "127.0.0.1", "LOCALHOST", "localhost.:7860", "[0:0:0:0:0:0:0:1]:7860"]
)
def test_AllowlistMiddleware_accepts_the_names_of_this_machine(tmp_path, host):
    assert ask(tmp_path, "GET", "/", host=host).status == 200
    assert post(tmp_path, host=host, origin=f"http://{host.lower()}", body=b"{}").status == 200
    assert post(tmp_path, host=host, origin="http://127.0.0.1:8000", body=b"{}").status == 403


def test_AllowlistMiddleware_refuses_DNS_rebinding_on_a_public_address(tmp_path):
    for path in ("/", "/gradio_api/upload_progress"):
        assert ask(tmp_path, "GET", path, host="evil.example", hosts=allowed_hosts("0.0.0.0")).status == 403
    for name in ("evil.example", "evil.example:7860", "EVIL.example."):
        answer = post(tmp_path, host=name, origin=f"http://{name}", hosts=allowed_hosts("0.0.0.0", ["box.example"]))
        assert (answer.status, answer.through) == (403, [])
    for name in ("192.168.1.5:7860", "[2001:db8::1]:7860", "box.example", "Box.Example.:7860", "localhost"):
        hosts = allowed_hosts("0.0.0.0", ["box.example"])
        assert post(tmp_path, host=name, origin=f"http://{name}", body=b"{}", hosts=hosts).status == 200


@pytest.mark.parametrize(
    "origin", ["", "null", "http://evil.example", "http://127.0.0.1:1", "http://127.0.0.1:7860.evil"]
)
def test_AllowlistMiddleware_refuses_requests_from_another_origin(tmp_path, origin):
    for path in (EVENT, "/gradio_api/upload"):
        answer = post(tmp_path, path, body=b"{}", origin=origin)
        assert (answer.status, answer.through) == (403, [])
    reading = ask(tmp_path, "GET", "/config", origin=origin)
    assert reading.status == (403 if origin else 200)  # browsers send no Origin with same-origin GET requests


def test_AllowlistMiddleware_limits_the_length_of_bodies(tmp_path):
    for length, status in (("1000001", 413), ("-1", 411), ("many", 411), ("", 411)):
        answer = post(tmp_path, body=b"{}", length=length)
        assert (answer.status, answer.through) == (status, [])
    assert post(tmp_path, "/gradio_api/upload", body=b"x").through == [("/gradio_api/upload", b"x")]
    assert post(tmp_path, "/gradio_api/upload", body=b"x", length="420430401").status == 413


def event(path: object) -> bytes:
    return json.dumps({"data": [{"deep": [{"path": path, "meta": {"_type": "gradio.FileData"}}]}]}).encode()


def test_AllowlistMiddleware_passes_an_event_that_names_an_upload(tmp_path):
    body = event(str(tmp_path / "hash" / "a.png"))
    (through,) = post(tmp_path, body=body).through
    assert json.loads(through[1]) == json.loads(body)


def test_AllowlistMiddleware_refuses_an_event_that_names_another_file(tmp_path):
    outside = tmp_path.parent / "x.png"
    (tmp_path / "link").symlink_to(tmp_path.parent)
    bodies = [
        *map(event, ["/etc/passwd", "http://example.org/x.png", "../x", str(outside), str(tmp_path)]),
        *map(event, [str(tmp_path / ".."), str(tmp_path / "link" / "x.png"), str(tmp_path / "a\0b"), ""]),
        *map(event, [3, None, ["a"], {"a": "b"}]),
        b"", b"{", b"\xff", b"[" * 100_000,
    ]  # fmt: skip
    for body in bodies:
        answer = post(tmp_path, body=body)
        assert (answer.status, answer.through) == (400, []), body[:80]


def test_AllowlistMiddleware_refuses_a_repeated_Host_header(tmp_path):
    answer = post(tmp_path, body=b"{}", Host="localhost")
    assert (answer.status, answer.through) == (400, [])


def test_AllowlistMiddleware_refuses_bodies_without_a_valid_length(tmp_path):
    assert post(tmp_path, body=b"{}", **{"transfer-encoding": "chunked"}).status == 411
    assert post(tmp_path, body=b"{}", length="9" * 5000).status == 413
    assert post(tmp_path, body=b"{}", length="²").status == 411


@pytest.mark.parametrize("path", [EVENT, "/gradio_api/upload"])
def test_AllowlistMiddleware_cuts_off_endless_and_stalled_bodies(tmp_path, path, monkeypatch):
    received, sent = [], []

    async def receive():
        received.append(2**20)
        assert len(received) < 1000
        return {"type": "http.request", "body": bytes(2**20), "more_body": True}

    async def send(message):
        sent.append(message)

    async def app(scope, receive, send):
        while (await receive())["type"] == "http.request":
            pass

    headers = {"host": HERE, "origin": f"http://{HERE}", "content-length": "100"}
    scope = {
        "type": "http", "method": "POST", "path": path, "query_string": b"",
        "headers": [(key.encode(), value.encode()) for key, value in headers.items()],
    }  # fmt: skip
    asyncio.run(AllowlistMiddleware(app, HOSTS, None, tmp_path)(scope, receive, send))
    assert sum(received) <= middleware._max_body_bytes(path) + 2**21

    async def wait():
        await asyncio.sleep(60)

    monkeypatch.setattr(middleware, "_BODY_TIMEOUT", 0.05)
    asyncio.run(asyncio.wait_for(AllowlistMiddleware(app, HOSTS, None, tmp_path)(scope, wait, send), 10))


def test_AllowlistMiddleware_refuses_deeply_nested_events_and_long_numbers(tmp_path):
    for body in (b"[" * 100_000 + b"]" * 100_000, b'{"a": ' + b"9" * 5000 + b"}", b"\xff", b"{"):
        answer = post(tmp_path, body=body)
        assert (answer.status, answer.through) == (400, [])


def test_AllowlistMiddleware_drops_query_strings_the_page_does_not_use(tmp_path):
    for path, kept in (("/", b""), ("/config", b""), ("/gradio_api/upload_progress", b"deep_link=x")):
        assert ask(tmp_path, "GET", path, query=b"deep_link=x").queries == [kept]


def test_AllowlistMiddleware_resolves_duplicate_keys_of_an_event(tmp_path):
    good = json.dumps(str(tmp_path / "a.png")).encode()
    (through,) = post(tmp_path, body=b'{"path": "/etc/passwd", "path": ' + good + b"}").through
    assert b"passwd" not in through[1]


def test_AllowlistMiddleware_serves_the_report_in_a_sandbox(tmp_path):
    report = tmp_path / "report.html"
    assert ask(tmp_path, "GET", "/report", report=report).status == 404
    assert ask(tmp_path, "GET", "/report", report=None).status == 404
    report.write_text("<p>the report</p>")
    answer = ask(tmp_path, "GET", "/report", report=report)
    assert (answer.status, answer.body, answer.through) == (200, b"<p>the report</p>", [])
    assert answer.headers["content-security-policy"].startswith("sandbox allow-scripts; default-src 'none'")


def test_report_of_finds_only_a_file_in_the_run_folder_itself(tmp_path):
    run = tmp_path / "run"
    (run / "best").mkdir(parents=True)
    assert report_of(run) is report_of(run / "best") is None
    (tmp_path / "report.html").write_text("of a study")
    assert report_of(run) is report_of(run / "best") is None
    (run / "report.html").symlink_to(tmp_path / "report.html")
    assert report_of(run) is None
    (run / "report.html").unlink()
    (run / "report.html").write_text("of the run")
    assert report_of(run) == report_of(run / "best") == run / "report.html"
    (run / "model.onnx").write_bytes(b"")
    assert report_of(run / "model.onnx") is None


def test_AllowlistMiddleware_serves_only_http(tmp_path):
    server = Server()
    asyncio.run(AllowlistMiddleware(server, HOSTS, None, tmp_path)({"type": "websocket", "path": "/"}, None, None))
    assert server.seen == []
