"""Files on real sockets: what httpx, curl and raw clients get of them, and what their handlers can rely on."""

from __future__ import annotations

import hashlib
import os
import random
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import trio

from tests.support import PATIENCE, Running, connect, open_files, start
from tests.support.logs import errors
from trioserve import App, Completed, HTTPError, Limits, Request, Response, UnixAddress
from trioserve.connection import transport as transport_module

LARGE = random.Random(1).randbytes(20_000_000)
"""Larger than the buffers of a socket."""

LONG_AGO = 1_600_000_000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    (root / "secret").symlink_to(tmp_path / "secret.txt")
    for name, content in {"digits.txt": b"0123456789", "large.bin": LARGE, "empty": b""}.items():
        (root / name).write_bytes(content)
        os.utime(root / name, (LONG_AGO, LONG_AGO))
    return root


def app_for(root: Path) -> App:
    app = App()

    @app.get("/download/{name}")
    async def download(name: str) -> Response:
        return Response.file(root / name, filename="résumé.txt")

    @app.get("/{name:path}")
    async def static(name: str) -> Response:
        return Response.file(name, root=root, headers={"cache-control": "max-age=60"})

    return app


@pytest.fixture
async def server(nursery, root):
    return await start(nursery, app_for(root))


@pytest.fixture
async def client(server: Running):
    async with httpx.AsyncClient(base_url=server.url) as made:
        yield made


async def curl(server: Running, path: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    command = ["curl", "-sS", "--noproxy", "*", *arguments, server.url + path]
    with trio.fail_after(PATIENCE):
        return await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=check)


# httpx


async def test_httpx_gets_a_file_and_then_asks_whether_it_has_changed(client, root):
    answer = await client.get("/digits.txt")
    assert (answer.status_code, answer.content) == (200, b"0123456789")
    assert answer.headers["content-length"] == "10"
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["last-modified"] == "Sun, 13 Sep 2020 12:26:40 GMT"
    etag, date = answer.headers["etag"], answer.headers["last-modified"]

    for fields in ({"if-none-match": etag}, {"if-modified-since": date}):
        again = await client.get("/digits.txt", headers=fields)
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == etag
        assert again.headers["cache-control"] == "max-age=60"
        assert "content-length" not in again.headers
        assert "content-type" not in again.headers

    (root / "digits.txt").write_bytes(b"changed")
    changed = await client.get("/digits.txt", headers={"if-none-match": etag})
    assert (changed.status_code, changed.content) == (200, b"changed")
    refused = await client.get("/digits.txt", headers={"if-match": etag})
    assert refused.status_code == 412
    assert "not in the state" in refused.text
    refused = await client.get("/digits.txt", headers={"if-unmodified-since": date})
    assert refused.status_code == 412


async def test_httpx_gets_ranges_and_all_on_one_connection(client, server):
    for value, status, content, said in [
        ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=-2", 206, b"89", "bytes 8-9/10"),
        ("bytes=0-0,5-5", 200, b"0123456789", None),
        ("lines=0-0", 200, b"0123456789", None),
    ]:
        answer = await client.get("/digits.txt", headers={"range": value})
        assert (answer.status_code, answer.content, answer.headers.get("content-range")) == (status, content, said)
        assert answer.headers["content-length"] == str(len(content))
        assert answer.headers["accept-ranges"] == "bytes"
        assert (await server.records.next(Completed)).response_body_bytes == len(content)
    refused = await client.get("/digits.txt", headers={"range": "bytes=10-"})
    assert (refused.status_code, refused.headers["content-range"]) == (416, "bytes */10")
    assert "none of the file's 10 bytes" in refused.text
    last = await server.records.next(Completed)
    assert (last.exchange_number, last.status) == (6, 416)


async def test_httpx_resumes_only_what_has_not_changed(client, root):
    etag = (await client.head("/digits.txt")).headers["etag"]
    fields = {"range": "bytes=5-", "if-range": etag}
    assert (await client.get("/digits.txt", headers=fields)).content == b"56789"
    (root / "digits.txt").write_bytes(b"a new file")
    answer = await client.get("/digits.txt", headers=fields)
    assert (answer.status_code, answer.content) == (200, b"a new file")


async def test_httpx_gets_the_head_of_a_file(client):
    answer = await client.head("/large.bin", headers={"range": "bytes=0-5"})
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == str(len(LARGE))
    assert (await client.get("/digits.txt")).content == b"0123456789"


async def test_httpx_gets_an_empty_file(client):
    answer = await client.get("/empty")
    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "0")
    assert (await client.get("/empty", headers={"range": "bytes=0-"})).status_code == 200
    assert (await client.get("/digits.txt")).content == b"0123456789"


@pytest.mark.parametrize(
    "path", ["/missing", "/%2e%2e/secret.txt", "/..%2fsecret.txt", "/%2Fetc%2Fpasswd", "/secret", "/%00", "/."]
)
async def test_httpx_finds_nothing_outside_of_the_root(client, path):
    answer = await client.get(httpx.URL(client.base_url, raw_path=path.encode()))
    assert answer.status_code == 404
    assert "there is nothing at this address" in answer.text


# curl


async def test_curl_gets_a_large_file_whole(server, root):
    assert (await curl(server, "/large.bin")).stdout == LARGE
    assert (await server.records.next(Completed)).response_body_bytes == len(LARGE)
    assert not open_files(root / "large.bin")


@pytest.mark.parametrize(
    ("ask", "got"),
    [
        ("0-99", slice(100)),
        ("1000000-", slice(1_000_000, None)),
        ("-100", slice(-100, None)),
        ("19999999-99999999", slice(-1, None)),
    ],
)
async def test_curl_gets_a_range(server, ask, got):
    assert (await curl(server, "/large.bin", "-r", ask)).stdout == LARGE[got]


@pytest.mark.parametrize("size", [1, 10_000_000, len(LARGE) - 1])
async def test_curl_goes_on_with_a_download(server, tmp_path, size):
    (tmp_path / "part").write_bytes(LARGE[:size])
    await curl(server, "/large.bin", "-C", "-", "-o", str(tmp_path / "part"))
    assert (tmp_path / "part").read_bytes() == LARGE
    assert (await server.records.next(Completed)).response_body_bytes == len(LARGE) - size


async def test_curl_is_told_that_a_download_was_complete(server, tmp_path):
    (tmp_path / "part").write_bytes(LARGE)
    await curl(server, "/large.bin", "-C", "-", "-o", str(tmp_path / "part"), check=False)
    assert (await server.records.next(Completed)).status == 416
    assert (tmp_path / "part").read_bytes() == LARGE


async def test_curl_saves_a_download_only_if_it_is_newer(server, tmp_path):
    (tmp_path / "copy").write_bytes(b"copy")
    await curl(server, "/digits.txt", "-z", str(tmp_path / "copy"), "-o", str(tmp_path / "copy"))
    assert (tmp_path / "copy").read_bytes() == b"copy"
    os.utime(tmp_path / "copy", (LONG_AGO - 1, LONG_AGO - 1))
    await curl(server, "/digits.txt", "-z", str(tmp_path / "copy"), "-R", "-o", str(tmp_path / "copy"))
    assert (tmp_path / "copy").read_bytes() == b"0123456789"
    assert (tmp_path / "copy").stat().st_mtime == LONG_AGO


async def test_curl_saves_a_download_under_its_name(server, tmp_path):
    done = await curl(server, "/download/digits.txt", "-i")
    assert b"attachment; filename=\"r_sum_.txt\"; filename*=UTF-8''r%C3%A9sum%C3%A9.txt" in done.stdout
    await curl(server, "/download/digits.txt", "-OJ", "--output-dir", str(tmp_path))
    assert (tmp_path / "r_sum_.txt").read_bytes() == b"0123456789"


# Raw clients


async def test_a_slow_client_gets_a_large_file_whole(server, root):
    slow = await server.connect(receive_buffer=8192)
    await slow.send(b"GET /large.bin HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
    head, content = await slow.receive(), hashlib.sha256()
    head, _, first = head.partition(b"\r\n\r\n")
    assert b"content-length: %d" % len(LARGE) in head
    content.update(first)
    size = len(first)
    while part := await slow.receive():
        content.update(part)
        size += len(part)
    assert size == len(LARGE)
    assert content.digest() == hashlib.sha256(LARGE).digest()
    assert (await server.records.next(Completed)).response_body_bytes == size
    assert not open_files(root / "large.bin")


async def test_an_http_1_0_client_gets_a_file_with_its_length(server):
    client = await server.ask(b"GET /digits.txt HTTP/1.0\r\n\r\n")
    head, _, content = (await client.read_to_end()).partition(b"\r\n\r\n")
    assert b"content-length: 10" in head
    assert b"chunked" not in head
    assert content == b"0123456789"


async def test_pipelined_files_come_in_order(server):
    get = b"GET /%b HTTP/1.1\r\nHost: test\r\n\r\n"
    client = await server.ask(get % b"digits.txt" + get % b"large.bin" + get % b"empty" + get % b"digits.txt")
    received = bytearray()
    for expected in (b"0123456789", LARGE, b"", b"0123456789"):
        while b"\r\n\r\n" not in received:
            received += await client.receive()
        end = received.index(b"\r\n\r\n") + 4
        while len(received) < end + len(expected):
            received += await client.receive()
        assert received[end : end + len(expected)] == expected
        del received[: end + len(expected)]
    assert not received


async def test_a_file_is_sent_on_a_unix_socket(nursery, root, tmp_path):
    address = UnixAddress(str(tmp_path / "socket"))
    await start(nursery, app_for(root), listen=(address,))
    client = await connect(address)
    await client.send(b"GET /large.bin HTTP/1.0\r\n\r\n")
    received = bytearray()
    while part := await client.receive():
        received += part
    client.close()
    assert received.partition(b"\r\n\r\n")[2] == LARGE


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
async def test_where_the_system_does_not_send_files_they_are_read(nursery, root, tmp_path, monkeypatch, family):
    monkeypatch.setattr(transport_module, "_sendfile", transport_module._no_sendfile)
    settings = {"listen": (UnixAddress(str(tmp_path / "socket")),)} if family == socket.AF_UNIX else {}
    server = await start(nursery, app_for(root), **settings)
    client = await server.connect()
    await client.send(b"GET /large.bin HTTP/1.0\r\n\r\n")
    received = bytearray()
    while part := await client.receive():
        received += part
    assert received.partition(b"\r\n\r\n")[2] == LARGE


async def test_a_file_that_becomes_shorter_is_seen_to_be_cut_and_logged(server, root, caplog):
    client = await server.connect(receive_buffer=8192)
    await client.send(b"GET /large.bin HTTP/1.1\r\nHost: test\r\n\r\n")
    received = await client.receive()
    os.truncate(root / "large.bin", 5)
    received += await client.read_to_end()
    assert len(received) < len(LARGE)
    (message,) = errors(caplog)
    assert "GET" in message
    assert "the file has become shorter while it was sent" in caplog.text
    assert not open_files(root / "large.bin")


# What handlers can rely on


async def test_a_missing_file_has_the_apps_own_page_and_passes_through_middleware(nursery, root):
    app, seen = app_for(root), []
    (root / "404.html").write_text("<h1>no such page</h1>")

    @app.error_handler(404)
    async def not_found(_request: Request, _error: HTTPError) -> Response:
        return Response.file(root / "404.html", status=404)

    @app.middleware
    async def see(request, call_next):
        response = await call_next(request)
        response.headers["x-seen"] = "yes"
        seen.append(response.status)
        return response

    server = await start(nursery, app)
    async with httpx.AsyncClient(base_url=server.url) as client:
        answer = await client.get("/missing", headers={"if-none-match": "*", "range": "bytes=0-0"})
        assert (answer.status_code, answer.text) == (404, "<h1>no such page</h1>")
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert "etag" not in answer.headers
        part = await client.get("/digits.txt", headers={"range": "bytes=0-0"})
        assert (part.status_code, part.content, part.headers["x-seen"]) == (206, b"0", "yes")
    assert seen == [404, 206]


async def test_a_file_is_opened_before_the_dependency_that_holds_its_directory_is_left(nursery, tmp_path):
    app = App()
    path = tmp_path / "work" / "report.txt"

    @app.dependency
    async def folder() -> AsyncIterator[Path]:
        path.parent.mkdir()
        yield path.parent
        path.unlink()
        path.parent.rmdir()

    @app.get("/")
    async def report(work: Path) -> Response:
        (work / "report.txt").write_bytes(LARGE)
        return Response.file(work / "report.txt", filename="report.txt")

    server = await start(nursery, app)
    async with httpx.AsyncClient(base_url=server.url) as client:
        assert (await client.get("/")).content == LARGE
        assert not path.parent.exists()


async def test_a_file_that_middleware_does_not_send_is_closed(nursery, root):
    app, held = app_for(root), []

    @app.middleware
    async def instead(request, call_next):
        await call_next(request)
        held.append(len(open_files(root / "digits.txt")))
        return Response("instead")

    server = await start(nursery, app)
    client = await server.connect()
    assert (await client.get("/digits.txt")).body == b"instead"
    assert held == [1]
    await client.get("/missing")  # the first exchange is over
    assert not open_files(root / "digits.txt")


async def test_a_plain_handler_may_return_a_file_with_a_single_thread(nursery, root):
    app = App()

    @app.get("/")
    def plain() -> Response:
        return Response.file(root / "digits.txt")

    server = await start(nursery, app, limits=Limits(threads=1))
    client = await server.connect()
    for _ in range(3):
        assert (await client.get("/")).body == b"0123456789"
