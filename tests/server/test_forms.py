"""Forms on real sockets, from clients that others wrote."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from tests.support.server import Running, start
from tests.support.sockets import PATIENCE
from trioserve import App, Limits, Request

LIMITS = Limits(form_memory=100_000, form_parts=10)

LARGE = bytes(range(256)) * 10_000
"""2.5 MB: more than the form's memory, and more than goes to disk at a time."""


@pytest.fixture
async def server(nursery: trio.Nursery) -> Running:
    app = App()

    @app.post("/", max_body=10_000_000)
    async def show(request: Request) -> list[Any]:
        """What the form contains; of a file's content only how much of it is as it should be."""
        shown: list[Any] = []
        for name, value in await request.form():
            if isinstance(value, str):
                shown.append([name, value])
            else:
                content = await value.read()
                shown.append([name, value.filename, value.content_type, value.size, content == LARGE[: value.size]])
        return shown

    @app.post("/photo", max_body=2_000_000)
    async def photo(request: Request) -> str:
        form = await request.form()
        return f"{form.text('title')}: {form.file('photo').size}"

    @app.post("/json")
    async def json(request: Request) -> Any:
        return await request.json()

    return await start(nursery, app, limits=LIMITS)


@pytest.fixture
async def client(server: Running):
    async with httpx.AsyncClient(base_url=server.url) as made:
        yield made


async def curl(server: Running, *arguments: str, path: str = "/") -> str:
    command = ["curl", "-sS", "--noproxy", "*", *arguments, server.url + path]
    with trio.fail_after(PATIENCE):
        done = await trio.run_process(command, capture_stdout=True, stderr=subprocess.STDOUT)
    return done.stdout.decode()


async def test_httpx_sends_an_urlencoded_form(client):
    answer = await client.post("/", data={"a b": "é+&", "c": ["1", "2"]})
    assert answer.json() == [["a b", "é+&"], ["c", "1"], ["c", "2"]]


@pytest.mark.parametrize("size", [0, 10, 100_000, 100_001, len(LARGE)])
async def test_httpx_sends_a_multipart_form_with_files_of_any_size(client, size):
    answer = await client.post("/", data={"a": "é"}, files={"f": ('say "é".bin', LARGE[:size], "image/png")})
    assert answer.json() == [["a", "é"], ["f", 'say "é".bin', "image/png", size, True]]


async def test_httpx_sends_a_multipart_form_in_chunks(client):
    request = client.build_request("POST", "/", files={"f": ("x", LARGE)})

    async def pieces():
        yield request.read()[:1000]
        yield request.read()[1000:]

    answer = await client.post("/", content=pieces(), headers={"content-type": request.headers["content-type"]})
    assert answer.json() == [["f", "x", "application/octet-stream", len(LARGE), True]]


async def test_curl_sends_an_urlencoded_form(server):
    assert await curl(server, "--data-urlencode", "a=1 + 1 = é") == '[["a","1 + 1 = é"]]'


async def test_curl_sends_a_multipart_form(server, tmp_path: Path):
    path = tmp_path / 'the "large" one.bin'
    path.write_bytes(LARGE)
    answer = await curl(server, "-F", "a=é", "-F", f'f=@{tmp_path}/the "large" one.bin;type=image/png')
    assert answer == f'[["a","é"],["f","the \\"large\\" one.bin","image/png",{len(LARGE)},true]]'


async def test_curl_waits_for_the_100_before_a_large_form(server, tmp_path: Path):
    (tmp_path / "x").write_bytes(LARGE)
    answer = await curl(server, "-F", f"f=@{tmp_path}/x", "-H", "Expect: 100-continue", "--expect100-timeout", "60")
    assert answer == f'[["f","x","application/octet-stream",{len(LARGE)},true]]'


async def test_a_handler_asks_for_what_it_needs_and_the_client_learns_what_is_missing(client):
    answer = await client.post("/photo", data={"title": "a"}, files={"photo": ("x", b"123")})
    assert answer.text == "a: 3"
    for sent, words in [
        ({"data": {"title": "a"}}, "the form has no field 'photo'"),
        ({"files": {"photo": ("x", b"123")}}, "the form has no field 'title'"),
        ({"data": {"title": "a", "photo": "x"}}, "the form's field 'photo' is text; send it as a file"),
    ]:
        answer = await client.post("/photo", **sent)
        assert answer.status_code == 400
        assert words in answer.text


@pytest.mark.parametrize(
    ("content_type", "content", "status", "words"),
    [
        ("application/json", b"{}", 415, "a form is sent as application/x-www-form-urlencoded or multipart/form-data"),
        ("application/x-www-form-urlencoded", b"a=%", 400, "write % as %25"),
        ("application/x-www-form-urlencoded; charset=latin-1", b"a=1", 400, "send it in UTF-8"),
        ("application/x-www-form-urlencoded", b"a=" + bytes(100_000), 413, "larger than 100000 bytes"),
        ("application/x-www-form-urlencoded", 11 * b"a=1&", 413, "more than 10 fields"),
        ("multipart/form-data", b"", 400, "needs the parameter boundary"),
        ("multipart/form-data; boundary=x", b"--x\r\n", 400, "the form is not complete"),
        ("multipart/form-data; boundary=x", b"nonsense", 400, "malformed multipart/form-data at byte 0"),
    ],
)
async def test_what_is_refused_is_answered_helpfully_and_the_connection_goes_on(
    server: Running, content_type: str, content: bytes, status: int, words: str
):
    client = await server.connect()
    answer = await client.post(content, "/", f"Content-Type: {content_type}")
    assert answer.status == status
    assert words in answer.body.decode()
    assert not answer.closes
    answer = await client.post(b"a=1", "/", "Content-Type: application/x-www-form-urlencoded")
    assert answer.body == b'[["a","1"]]'


async def test_a_415_says_what_is_accepted(client):
    answer = await client.post("/", content=b"x")
    assert answer.status_code == 415
    assert answer.headers["accept"] == "application/x-www-form-urlencoded, multipart/form-data"


@pytest.mark.parametrize("over", [0, 1])
async def test_an_upload_larger_than_the_route_allows_is_a_413(client, over):
    request = client.build_request("POST", "/photo", data={"title": "a"}, files={"photo": ("x", b"")})
    size = 2_000_000 - len(request.read()) + over
    answer = await client.post("/photo", data={"title": "a"}, files={"photo": ("x", bytes(size))})
    assert answer.status_code == (413 if over else 200)


async def test_the_upload_of_one_exchange_is_gone_when_the_connections_next_one_begins(client):
    before = open_temporary_files()
    assert (await client.post("/", files={"f": ("x", LARGE)})).json()[0][-1] is True
    await client.post("/", data={"a": "1"})
    assert open_temporary_files() == before


def open_temporary_files() -> list[str]:
    """The files of this process that have no name."""
    links = [str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return [link for link in links if link.startswith("/") and link.endswith(" (deleted)")]


async def test_json_in_another_charset_is_a_400(client):
    assert (await client.post("/json", json={"a": "é"})).json() == {"a": "é"}
    answer = await client.post("/json", content=b"[]", headers={"content-type": "application/json; charset=utf-16"})
    assert answer.status_code == 400
    assert "send JSON in UTF-8" in answer.text
