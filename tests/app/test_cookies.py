"""Cookies: the Cookie field read, and Set-Cookie written."""

from __future__ import annotations

import http.cookies
import string
from datetime import UTC, datetime, timedelta, timezone

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.server import start
from trioserve import App, Request, Response, ResponseError
from trioserve.app.cookies import LARGEST, parse_cookies

# Reading


@pytest.mark.parametrize(
    ("values", "cookies"),
    [
        ([], {}),
        ([""], {}),
        (["a=1"], {"a": "1"}),
        (["a=1; b=2"], {"a": "1", "b": "2"}),
        (["a=1;b=2;"], {"a": "1", "b": "2"}),
        (["a=1", "b=2"], {"a": "1", "b": "2"}),
        ([" a = 1 ;\tb=2\t"], {"a": "1", "b": "2"}),
        (["a=1; a=2", "a=3"], {"a": "1"}),  # RFC 6265 §5.4: the more specific path comes first
        (["a=b=c=="], {"a": "b=c=="}),
        (["a="], {"a": ""}),
        (["=1; ;; nothing; a=1"], {"a": "1"}),
        (['a="1"; b="; c="x y"; d=""'], {"a": "1", "b": '"', "c": "x y", "d": ""}),
        (['a="1; b=2"'], {"a": '"1', "b": '2"'}),  # quotes do not hide a semicolon
        (["a=1, b=2"], {"a": "1, b=2"}),
        (["A=1; a=2"], {"A": "1", "a": "2"}),
        (["$Version=1; a=2"], {"$Version": "1", "a": "2"}),
        (["a=%20"], {"a": "%20"}),
        (["é=ü".encode().decode("latin-1")], {"é": "ü"}),
        (["a=\xe9"], {"a": "\xe9"}),  # no UTF-8
        (["a=ε"], {"a": "ε"}),
        (["\u2003__Host-a=1"], {"\u2003__Host-a": "1"}),  # no white space to a browser
        (["\x85__Host-a=1"], {"\x85__Host-a": "1"}),
        (["a=1\0"], {"a": "1\0"}),
    ],
)
def test_what_a_client_sends_is_read_leniently(values, cookies):
    assert parse_cookies(values) == cookies


@given(values=st.lists(st.text(st.characters(codec="latin-1")) | st.text(st.sampled_from('a="; \t,é'))))
def test_reading_never_fails(values):
    for name, value in parse_cookies(values).items():
        assert name
        assert ";" not in name + value


@given(
    pairs=st.dictionaries(
        # Prefixes ask for attributes: they have tests of their own.
        st.text(st.sampled_from(string.ascii_letters + "!#$%&'*+-.^_`|~"), min_size=1).filter(
            lambda name: not name.lower().startswith(("__host-", "__secure-"))
        ),
        st.text(st.sampled_from(sorted(set(map(chr, range(0x21, 0x7F))) - set('",;\\')))),
    )
)
def test_what_was_set_is_read_again(pairs):
    response = Response()
    for name, value in pairs.items():
        response.set_cookie(name, value)
    sent = [field.partition(";")[0] for field in response.headers.get_all("set-cookie")]
    assert parse_cookies(["; ".join(sent)]) == pairs


# Writing


def set_cookie(*arguments, **options) -> str:
    response = Response()
    response.set_cookie(*arguments, **options)
    return response.headers["set-cookie"]


@pytest.mark.parametrize(
    ("options", "written"),
    [
        ({}, "Path=/; Secure; HttpOnly; SameSite=Lax"),
        ({"max_age": 60}, "Max-Age=60; Path=/; Secure; HttpOnly; SameSite=Lax"),
        ({"max_age": 0}, "Max-Age=0; Path=/; Secure; HttpOnly; SameSite=Lax"),
        ({"max_age": -1}, "Max-Age=-1; Path=/; Secure; HttpOnly; SameSite=Lax"),
        (
            {"expires": datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)},
            "Expires=Wed, 02 Jan 2030 03:04:05 GMT; Path=/; Secure; HttpOnly; SameSite=Lax",
        ),
        (
            {"expires": datetime(2030, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=4)))},
            "Expires=Tue, 01 Jan 2030 23:04:05 GMT; Path=/; Secure; HttpOnly; SameSite=Lax",
        ),
        ({"path": "/a/b c"}, "Path=/a/b c; Secure; HttpOnly; SameSite=Lax"),
        ({"domain": "example.com"}, "Domain=example.com; Path=/; Secure; HttpOnly; SameSite=Lax"),
        ({"domain": ".example.com"}, "Domain=.example.com; Path=/; Secure; HttpOnly; SameSite=Lax"),
        ({"secure": False}, "Path=/; HttpOnly; SameSite=Lax"),
        ({"http_only": False}, "Path=/; Secure; SameSite=Lax"),
        ({"same_site": "strict"}, "Path=/; Secure; HttpOnly; SameSite=Strict"),
        ({"same_site": "none"}, "Path=/; Secure; HttpOnly; SameSite=None"),
        ({"partitioned": True}, "Path=/; Secure; HttpOnly; SameSite=Lax; Partitioned"),
    ],
)
def test_a_cookie_is_written_with_its_attributes(options, written):
    assert set_cookie("a", "1", **options) == f"a=1; {written}"


@pytest.mark.parametrize("name", ["__Host-a", "__Secure-a", "__host-a", "a"])
def test_a_prefix_is_allowed_where_its_conditions_hold(name):
    assert set_cookie(name, "1") == f"{name}=1; Path=/; Secure; HttpOnly; SameSite=Lax"


def test_the_prefix_for_secure_cookies_allows_a_domain_and_a_path():
    assert "Domain=b.example; Path=/x" in set_cookie("__Secure-a", "1", domain="b.example", path="/x")


def test_the_standard_library_reads_what_is_written():
    morsel = http.cookies.SimpleCookie(set_cookie("a", "x/y=z", max_age=5, domain="b.example", same_site="strict"))["a"]
    assert morsel.value == "x/y=z"
    assert {name: value for name, value in morsel.items() if value} == {
        "max-age": "5",
        "domain": "b.example",
        "path": "/",
        "secure": True,
        "httponly": True,
        "samesite": "Strict",
    }


@pytest.mark.parametrize(
    ("name", "value", "options", "said"),
    [
        ("", "1", {}, "no name"),
        ("a b", "1", {}, "no name"),
        ("a=", "1", {}, "no name"),
        ("é", "1", {}, "no name"),
        (None, "1", {}, "no name"),
        ("a", 1, {}, "not int"),
        ("a", None, {}, "not NoneType"),
        *(("a", f"x{c}y", {}, r"urllib\.parse\.quote") for c in ' ",;\\\r\n\t\0\x7fé'),
        ("a", "1\n", {}, r"urllib\.parse\.quote"),
        ("a", "1" * LARGEST, {}, "4097 bytes"),
        ("a", "1", {"max_age": 1.5}, "max_age=1.5"),
        ("a", "1", {"max_age": True}, "max_age=True"),
        ("a", "1", {"max_age": "1"}, "max_age='1'"),
        ("a", "1", {"expires": datetime(2030, 1, 1)}, "with a time zone"),  # noqa: DTZ001 - it is to be refused
        ("a", "1", {"expires": 5}, "expires=5"),
        ("a", "1", {"path": "x"}, "path='x'"),
        ("a", "1", {"path": ""}, "path=''"),
        ("a", "1", {"path": None}, "path=None"),
        ("a", "1", {"path": "/;x"}, "path='/;x'"),
        ("a", "1", {"path": "/é"}, "path='/é'"),
        ("a", "1", {"path": "/\n"}, "path="),
        ("a", "1", {"domain": ""}, "domain=''"),
        ("a", "1", {"domain": "a;b"}, "domain='a;b'"),
        ("a", "1", {"domain": "a\n"}, "domain="),
        ("a", "1", {"domain": "é.example"}, "domain="),
        ("a", "1", {"same_site": "Lax"}, "same_site='Lax'"),
        ("a", "1", {"same_site": None}, "same_site=None"),
        ("a", "1", {"same_site": "none", "secure": False}, "needs secure"),
        ("a", "1", {"partitioned": True, "secure": False}, "needs secure"),
        ("__Secure-a", "1", {"secure": False}, "needs secure"),
        ("__Host-a", "1", {"secure": False}, "needs secure"),
        ("__HOST-a", "1", {"secure": False}, "needs secure"),
        ("__Host-a", "1", {"path": "/x"}, "no domain"),
        ("__Host-a", "1", {"domain": "a.example"}, "no domain"),
    ],
)
def test_a_cookie_that_browsers_would_not_keep_as_meant_is_refused_with_advice(name, value, options, said):
    response = Response()
    with pytest.raises(ResponseError, match=said):
        response.set_cookie(name, value, **options)
    assert len(response.headers) == 0


def test_a_cookie_may_be_as_large_as_browsers_keep_them():
    assert set_cookie("a", "1" * (LARGEST - 1)).startswith("a=1")


def test_each_cookie_has_a_field_of_its_own():
    response = Response()
    response.set_cookie("a", "1")
    response.set_cookie("b", "2")
    assert [field[:3] for field in response.headers.get_all("set-cookie")] == ["a=1", "b=2"]


def test_a_cookie_is_deleted_by_one_that_is_over_and_otherwise_the_same():
    response = Response()
    response.delete_cookie("a")
    response.delete_cookie("b", path="/x", domain="b.example", same_site="none", partitioned=True)
    response.delete_cookie("c", secure=False)
    assert response.headers.get_all("set-cookie") == [
        "a=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=Lax",
        "b=; Max-Age=0; Domain=b.example; Path=/x; Secure; HttpOnly; SameSite=None; Partitioned",
        "c=; Max-Age=0; Path=/; HttpOnly; SameSite=Lax",
    ]


# On a socket


async def test_a_client_keeps_cookies_sends_them_and_forgets_them(nursery):
    app = App()

    @app.get("/set")
    async def set_two() -> Response:
        response = Response("set")
        response.set_cookie("a", "1", secure=False)
        response.set_cookie("b", "x%20y", secure=False, path="/read")
        response.set_cookie("c", "no TLS here".replace(" ", "-"))
        return response

    @app.get("/read")
    async def read(request: Request) -> dict:
        return parse_cookies(request.headers.get_all("cookie"))

    @app.get("/delete")
    async def delete() -> Response:
        response = Response("deleted")
        response.delete_cookie("a", secure=False)
        return response

    server = await start(nursery, app)
    async with httpx.AsyncClient(base_url=server.url) as client:
        await client.get("/set")
        assert (await client.get("/read")).json() == {"a": "1", "b": "x%20y"}
        await client.get("/delete")
        assert (await client.get("/read")).json() == {"b": "x%20y"}
    nursery.cancel_scope.cancel()


async def test_a_cookie_that_cannot_be_set_is_a_500_and_not_half_a_header(nursery):
    app = App()

    @app.get("/")
    async def forge() -> Response:
        response = Response("x")
        response.set_cookie("a", "1\r\nx-forged: 1")
        return response

    server = await start(nursery, app)
    async with httpx.AsyncClient(base_url=server.url) as client:
        answer = await client.get("/")
    assert answer.status_code == 500
    assert "x-forged" not in answer.headers
    nursery.cancel_scope.cancel()
