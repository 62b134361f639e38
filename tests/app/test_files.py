"""Files: what is decided by conditions and ranges, as tables; then what a file response answers, and closes."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest
from fake_exchange import FakeExchange
from hypothesis import given
from hypothesis import strategies as st

from tests.support import open_files
from trioserve import HTTPError, Response, ResponseError
from trioserve.app import files
from trioserve.app.files import (
    SETTLED_AFTER,
    Validators,
    attachment,
    byte_range,
    content_type_of,
    failed_condition,
    selected_range,
    validators_of,
)
from trioserve.core.messages import Headers

SECOND = 1_000_000_000
NOW = 1_700_000_000 * SECOND


def headers(**fields: str) -> Headers:
    return Headers([(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in fields.items()])


# Validators


@pytest.mark.parametrize(
    ("age", "strong"),
    [(SETTLED_AFTER + 1, True), (SETTLED_AFTER, False), (0, False), (-1, False), (-(10**18), False)],
)
def test_rfc9110_8_8_1_the_etag_is_strong_once_the_file_has_settled(age, strong):
    validators = validators_of(5, NOW - age, NOW)
    assert validators.are_strong is strong
    assert validators.etag.startswith("W/") is not strong


def test_rfc9110_8_8_2_1_last_modified_is_whole_seconds_and_never_in_the_future():
    assert validators_of(5, NOW - 1, NOW).last_modified == 1_699_999_999
    assert validators_of(5, NOW, NOW).last_modified == 1_700_000_000
    assert validators_of(5, NOW + 60 * SECOND, NOW).last_modified == 1_700_000_000


def test_rfc9110_8_8_3_the_etag_changes_with_the_size_and_with_the_time():
    states = [(5, NOW), (6, NOW), (5, NOW + 1), (5, NOW - 1)]
    assert len({validators_of(size, at, NOW + 9 * SECOND).etag for size, at in states}) == 4


# Conditions

AT = "Tue, 14 Nov 2023 22:13:20 GMT"  # NOW
BEFORE = "Tue, 14 Nov 2023 22:13:19 GMT"
AFTER = "Tue, 14 Nov 2023 22:13:21 GMT"
STRONG = Validators('"a"', 1_700_000_000)
WEAK = Validators('W/"a"', 1_700_000_000)


@pytest.mark.parametrize(
    ("fields", "strong", "weak"),
    [
        ({}, None, None),
        # 13.1.1 If-Match: strong comparison
        ({"if_match": "*"}, None, None),
        ({"if_match": '"a"'}, None, 412),
        ({"if_match": '"b", "a"'}, None, 412),
        ({"if_match": '"b","c"'}, 412, 412),
        ({"if_match": 'W/"a"'}, 412, 412),
        ({"if_match": "a"}, 412, 412),
        ({"if_match": ""}, 412, 412),
        ({"if_match": '"b,"a"'}, 412, 412),
        # 13.1.2 If-None-Match: weak comparison
        ({"if_none_match": "*"}, 304, 304),
        ({"if_none_match": '"a"'}, 304, 304),
        ({"if_none_match": 'W/"a"'}, 304, 304),
        ({"if_none_match": '"b" , W/"a"'}, 304, 304),
        ({"if_none_match": '"b"'}, None, None),
        ({"if_none_match": '"b, \xe9"'}, None, None),
        ({"if_none_match": "a"}, None, None),
        # 13.1.3 If-Modified-Since, in the three formats of 5.6.7
        ({"if_modified_since": AT}, 304, 304),
        ({"if_modified_since": AFTER}, 304, 304),
        ({"if_modified_since": BEFORE}, None, None),
        ({"if_modified_since": "Tuesday, 14-Nov-23 22:13:20 GMT"}, 304, 304),
        ({"if_modified_since": "Tuesday, 14-Nov-23 22:13:19 GMT"}, None, None),
        ({"if_modified_since": "Tue Nov 14 22:13:20 2023"}, 304, 304),
        ({"if_modified_since": "Tue Nov 14 22:13:19 2023"}, None, None),
        ({"if_modified_since": "yesterday"}, None, None),
        ({"if_modified_since": ""}, None, None),
        ({"if_modified_since": "Tue, 14 Nov 99999 22:13:20 GMT"}, None, None),
        # 13.1.4 If-Unmodified-Since
        ({"if_unmodified_since": AT}, None, None),
        ({"if_unmodified_since": AFTER}, None, None),
        ({"if_unmodified_since": BEFORE}, 412, 412),
        ({"if_unmodified_since": "tomorrow"}, None, None),
        # 13.2.2: which of them is asked, and which first
        ({"if_match": '"a"', "if_unmodified_since": BEFORE}, None, 412),
        ({"if_match": '"b"', "if_unmodified_since": AT}, 412, 412),
        ({"if_match": '"a"', "if_none_match": '"a"'}, 304, 412),
        ({"if_match": '"b"', "if_none_match": '"a"'}, 412, 412),
        ({"if_unmodified_since": AT, "if_modified_since": AT}, 304, 304),
        ({"if_none_match": '"b"', "if_modified_since": AT}, None, None),
        ({"if_none_match": '"a"', "if_modified_since": BEFORE}, 304, 304),
    ],
)
def test_rfc9110_13_conditions(fields, strong, weak):
    assert failed_condition(headers(**fields), STRONG) == strong
    assert failed_condition(headers(**fields), WEAK) == weak


def test_rfc9110_5_3_a_list_of_tags_may_come_on_several_lines_and_a_date_may_not():
    tags = Headers([(b"if-none-match", b'"b"'), (b"if-none-match", b'"a"')])
    assert failed_condition(tags, STRONG) == 304
    dates = Headers([(b"if-modified-since", AT.encode())] * 2)
    assert failed_condition(dates, STRONG) is None


# Ranges


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        # first and last position
        ("bytes=0-0", range(1)),
        ("bytes=0-9", range(10)),
        ("bytes=9-9", range(9, 10)),
        ("bytes=0-10", range(10)),
        ("bytes=2-5", range(2, 6)),
        ("bytes=2-18446744073709551615", range(2, 10)),
        # open-ended
        ("bytes=0-", range(10)),
        ("bytes=9-", range(9, 10)),
        # the last bytes
        ("bytes=-1", range(9, 10)),
        ("bytes=-9", range(1, 10)),
        ("bytes=-10", range(10)),
        ("bytes=-11", range(10)),
        ("bytes=-99999999999999999999999", range(10)),
        # spelled in unusual ways
        ("BYTES=0-1", range(2)),
        ("bytes=, 0-1 ,", range(2)),
        ("bytes=00-01", range(2)),
        # not satisfiable
        ("bytes=10-", range(0)),
        ("bytes=10-10", range(0)),
        ("bytes=99999999999999999999-", range(0)),
        ("bytes=-0", range(0)),
        # several, invalid or malformed, or in another unit
        ("bytes=0-0,2-2", None),
        ("bytes=0-0, bytes=2-2", None),
        ("bytes=5-4", None),
        ("bytes=11-10", None),
        ("bytes=-", None),
        ("bytes=", None),
        ("bytes", None),
        ("", None),
        ("bytes=0", None),
        ("bytes=a-b", None),
        ("bytes=+1-2", None),
        ("bytes=1_0-", None),
        ("bytes=\u0660-\u0661", None),
        ("bytes=0 - 1", None),
        ("bytes =0-1", None),
        ("bytes=--1", None),
        ("bytes=0-1-2", None),
        ("lines=0-1", None),
        (f"bytes={'9' * 99}-", range(0)),
        (f"bytes={'9' * 100}-", None),
        (f"bytes=-{'9' * 5000}", None),
    ],
)
def test_rfc9110_14_1_2_a_range_of_ten_bytes(value, expected):
    found = byte_range(value, 10)
    assert found == expected
    assert (found is None) == (expected is None)


@pytest.mark.parametrize("value", ["bytes=0-", "bytes=0-0", "bytes=-1", "bytes=-0", "bytes=5-"])
def test_an_empty_file_has_no_ranges_and_is_sent_whole(value):
    assert byte_range(value, 0) is None


@given(st.integers(0, 50), st.integers(0, 60), st.integers(0, 60))
def test_a_range_selects_what_a_slice_would(size, first, last):
    content = bytes(range(size))
    found = byte_range(f"bytes={first}-{last}", size)
    if last < first or not size:
        assert found is None
    else:
        assert bytes(found) == content[first : last + 1]
        suffix = byte_range(f"bytes=-{first}", size)
        assert bytes(suffix) == (content[-first:] if first else b"")


@pytest.mark.parametrize(
    ("if_range", "strong", "weak"),
    [
        ('"a"', True, False),
        (' "a" ', True, False),
        ('W/"a"', False, False),
        ('"b"', False, False),
        ('"a", "b"', False, False),
        (AT, True, False),
        ("Tuesday, 14-Nov-23 22:13:20 GMT", True, False),
        (BEFORE, False, False),
        (AFTER, False, False),
        ("a", False, False),
        ("*", False, False),
        ("", False, False),
    ],
)
def test_rfc9110_13_1_5_a_range_holds_only_if_the_file_is_surely_the_same(if_range, strong, weak):
    fields = headers(range="bytes=1-2", if_range=if_range)
    assert selected_range(fields, 10, STRONG) == (range(1, 3) if strong else None)
    assert selected_range(fields, 10, WEAK) == (range(1, 3) if weak else None)


def test_rfc9110_14_2_without_a_range_field_all_is_selected():
    assert selected_range(headers(if_range='"a"'), 10, STRONG) is None
    two_lines = Headers([(b"range", b"bytes=0-0"), (b"range", b"bytes=2-2")])
    assert selected_range(two_lines, 10, STRONG) is None


# Names


@pytest.mark.parametrize(
    ("filename", "value"),
    [
        ("report.pdf", 'attachment; filename="report.pdf"'),
        ("annual report (1).pdf", 'attachment; filename="annual report (1).pdf"'),
        ("a;b,c=d.txt", 'attachment; filename="a;b,c=d.txt"'),
        ('say "hi".txt', "attachment; filename=\"say _hi_.txt\"; filename*=UTF-8''say%20%22hi%22.txt"),
        ("back\\slash", "attachment; filename=\"back_slash\"; filename*=UTF-8''back%5Cslash"),
        ("50%41", "attachment; filename=\"50_41\"; filename*=UTF-8''50%2541"),
        ("résumé.txt", "attachment; filename=\"r_sum_.txt\"; filename*=UTF-8''r%C3%A9sum%C3%A9.txt"),
        ("€ 'x'*~.txt", "attachment; filename=\"_ 'x'*~.txt\"; filename*=UTF-8''%E2%82%AC%20%27x%27%2A~.txt"),
        ("!#$&+-.^_`|~é", "attachment; filename=\"!#$&+-.^_`|~_\"; filename*=UTF-8''!#$&+-.^_`|~%C3%A9"),
        ("\udc80", "attachment; filename=\"_\"; filename*=UTF-8''%3F"),
    ],
)
def test_rfc6266_a_download_has_a_name_for_every_client(filename, value):
    assert attachment(filename) == value


@pytest.mark.parametrize("filename", ["", "a\nb", "a\rb", "a\0b", "\x7f", "\t"])
def test_a_download_name_that_no_field_can_carry_is_refused(filename):
    with pytest.raises(ResponseError, match="name of a file"):
        Response.file("x", filename=filename)


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("a.html", "text/html; charset=utf-8"),
        ("a.txt", "text/plain; charset=utf-8"),
        ("A.CSS", "text/css; charset=utf-8"),
        ("a.json", "application/json"),
        ("a.png", "image/png"),
        ("a.tar.gz", "application/gzip"),
        ("a.svg.bz2", "application/x-bzip2"),
        ("a.txt.Z", "application/octet-stream"),
        ("a.unknown-to-all", "application/octet-stream"),
        ("data:text,a.png", "image/png"),
        ("a", "application/octet-stream"),
        ("", "application/octet-stream"),
    ],
)
def test_a_content_type_is_guessed_from_the_name(name, content_type):
    assert content_type_of(name) == content_type


# What is answered

CONTENT = b"0123456789"
LONG_AGO = 1_600_000_000
LONG_AGO_TEXT = "Sun, 13 Sep 2020 12:26:40 GMT"


@pytest.fixture
def path(tmp_path) -> Path:
    return written(tmp_path / "digits.txt")


def written(path: Path, at: float = LONG_AGO) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(CONTENT)
    os.utime(path, (at, at))
    return path


async def sent(response: Response, method: str = "GET", **fields: str) -> FakeExchange:
    exchange = FakeExchange(method, fields=headers(**fields).raw)
    await response.send_to(exchange)
    assert exchange.completed
    return exchange


ETAG = f'"{LONG_AGO * SECOND:x}-a"'


async def test_a_file_is_sent_with_all_that_caches_and_clients_ask_for(path):
    exchange = await sent(Response.file(path, headers={"cache-control": "no-cache"}))
    assert exchange.status == 200
    assert exchange.headers == {
        "cache-control": "no-cache",
        "content-type": "text/plain; charset=utf-8",
        "etag": ETAG,
        "last-modified": LONG_AGO_TEXT,
        "accept-ranges": "bytes",
    }
    assert exchange.body == CONTENT
    assert "thread" in exchange.log


async def test_a_path_may_be_text(path):
    assert (await sent(Response.file(str(path)))).body == CONTENT


async def test_what_the_handler_says_of_the_content_prevails(path):
    response = Response.file(path, content_type="text/x-digits", headers={"etag": '"v1"', "last-modified": AT})
    exchange = await sent(response)
    assert exchange.headers["content-type"] == "text/x-digits"
    assert (exchange.headers["etag"], exchange.headers["last-modified"]) == ('"v1"', AT)
    assert (await sent(response, if_none_match='"v1"')).status == 304
    assert (await sent(response, if_none_match=ETAG)).status == 200
    assert (await sent(response, if_modified_since=BEFORE)).status == 200
    assert (await sent(Response.file(path, headers={"content-type": "a/b"}))).headers["content-type"] == "a/b"


async def test_a_last_modified_of_the_handlers_that_is_no_date_decides_nothing(path):
    response = Response.file(path, headers={"last-modified": "lately"})
    assert (await sent(response, if_modified_since=LONG_AGO_TEXT)).status == 304


async def test_a_download_has_its_name_and_its_type(path):
    exchange = await sent(Response.file(path, filename="page.html"))
    assert exchange.headers["content-disposition"] == 'attachment; filename="page.html"'
    assert exchange.headers["content-type"] == "text/html; charset=utf-8"


async def test_rfc9110_15_3_7_a_part_is_206_and_says_which(path):
    exchange = await sent(Response.file(path), range="bytes=2-4")
    assert (exchange.status, exchange.body) == (206, b"234")
    assert exchange.headers["content-range"] == "bytes 2-4/10"
    assert exchange.headers["etag"] == ETAG
    assert exchange.headers["content-type"] == "text/plain; charset=utf-8"


async def test_rfc9110_15_5_17_a_range_with_nothing_in_it_is_416_and_says_the_size(path):
    with pytest.raises(HTTPError) as refused:
        await sent(Response.file(path), range="bytes=10-")
    assert (refused.value.status, refused.value.headers) == (416, {"content-range": "bytes */10"})
    assert not open_files(path)


async def test_rfc9110_15_4_5_a_304_has_what_caches_need_and_nothing_of_the_content(path):
    response = Response.file(path, filename="x", headers={"cache-control": "max-age=5", "vary": "cookie"})
    exchange = await sent(response, if_none_match=ETAG, range="bytes=2-4")
    assert (exchange.status, exchange.body) == (304, b"")
    assert exchange.headers == {"cache-control": "max-age=5", "vary": "cookie", "etag": ETAG}
    assert not open_files(path)


async def test_rfc9110_13_1_1_a_failed_condition_is_412(path):
    with pytest.raises(HTTPError) as refused:
        await sent(Response.file(path), if_match='"other"')
    assert refused.value.status == 412
    assert not open_files(path)


async def test_rfc9110_9_3_2_head_has_conditions_and_no_ranges(path):
    exchange = await sent(Response.file(path), "HEAD", range="bytes=2-4")
    assert (exchange.status, exchange.body) == (200, b"")
    assert exchange.headers["accept-ranges"] == "bytes"
    assert (await sent(Response.file(path), "HEAD", if_none_match=ETAG)).status == 304


@pytest.mark.parametrize(("method", "status"), [("POST", 200), ("PUT", 200), ("GET", 404), ("HEAD", 404), ("GET", 201)])
async def test_rfc9110_13_2_1_any_other_response_is_whole_and_without_conditions(path, method, status):
    fields = {"if_none_match": "*", "if_match": '"b"', "range": "bytes=2-4"}
    exchange = await sent(Response.file(path, status=status), method, **fields)
    assert (exchange.status, exchange.body) == (status, b"" if method == "HEAD" else CONTENT)
    assert exchange.headers == {"content-type": "text/plain; charset=utf-8"}


async def test_a_file_that_has_just_changed_is_not_sent_in_parts_that_may_not_fit(tmp_path):
    path = written(tmp_path / "new", at=time.time())
    etag = (await sent(Response.file(path))).headers["etag"]
    assert etag.startswith("W/")
    assert (await sent(Response.file(path), if_none_match=etag)).status == 304
    assert (await sent(Response.file(path), range="bytes=2-4", if_range=etag)).status == 200
    assert (await sent(Response.file(path), range="bytes=2-4")).status == 206


async def test_an_empty_file_is_sent(tmp_path):
    (tmp_path / "empty").touch()
    exchange = await sent(Response.file(tmp_path / "empty"), range="bytes=0-5")
    assert (exchange.status, exchange.body) == (200, b"")


async def test_a_file_response_may_be_sent_again_and_sees_the_file_as_it_is_then(path):
    response = Response.file(path)
    assert (await sent(response)).body == CONTENT
    path.write_bytes(b"new")
    assert (await sent(response)).body == b"new"
    assert not open_files(path)


# What is not there


def socket_at(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


@pytest.mark.parametrize(
    "name",
    [
        "missing",
        "missing/file",
        "digits.txt/x",
        "directory",
        "pipe",
        "socket",
        "loop",
        "a\0b",
        "\udc80\ud800",
        "x" * 300,
    ],
)
@pytest.mark.parametrize("with_root", [False, True])
async def test_what_is_no_regular_file_is_404(path, tmp_path, name, with_root):
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    socket_at(tmp_path / "socket")
    (tmp_path / "loop").symlink_to("loop")
    response = Response.file(name, root=tmp_path) if with_root else Response.file(f"{tmp_path}/{name}")
    with pytest.raises(HTTPError, match="there is nothing at this address") as refused:
        await sent(response)
    assert refused.value.status == 404


@pytest.mark.parametrize("device", ["/dev/null", "/dev/zero"])
async def test_a_device_is_404(device):
    with pytest.raises(HTTPError, match="404"):
        await sent(Response.file(device))


def refuse(*_: object) -> int:
    raise PermissionError(13, "Permission denied")


async def test_a_file_that_may_not_be_read_is_404(path, monkeypatch):
    monkeypatch.setattr(files, "_open_at_once", refuse)
    with pytest.raises(HTTPError, match="404"):
        await sent(Response.file(path))


def fail(*_: object) -> int:
    raise OSError(24, "Too many open files")


async def test_a_file_that_cannot_be_opened_for_the_servers_own_reasons_is_its_failure(path, monkeypatch):
    monkeypatch.setattr(files, "_open_at_once", fail)
    with pytest.raises(OSError, match="Too many open files"):
        await sent(Response.file(path))


@pytest.fixture
def root(tmp_path) -> Path:
    written(tmp_path / "secret.txt")
    root = tmp_path / "root"
    written(root / "digits.txt")
    written(root / "inner" / "digits.txt")
    (root / "link").symlink_to("inner/digits.txt")
    (root / "inner-link").symlink_to("inner")
    (root / "out").symlink_to(tmp_path / "secret.txt")
    (root / "up").symlink_to("..")
    (root / "loop").symlink_to("loop")
    written(tmp_path / "root-and-more" / "digits.txt")
    return root


@pytest.mark.parametrize(
    "name",
    [
        "digits.txt",
        "./digits.txt",
        "inner/digits.txt",
        "inner/../digits.txt",
        "link",
        "inner-link/digits.txt",
        "/digits.txt",
    ],
)
async def test_a_path_below_its_root_is_served(root, name):
    if name.startswith("/"):
        name = f"{root}{name}"
    assert (await sent(Response.file(name, root=root))).body == CONTENT


@pytest.mark.parametrize(
    "name",
    [
        "../secret.txt",
        "inner/../../secret.txt",
        "/secret.txt",
        "/etc/passwd",
        "out",
        "up/secret.txt",
        "loop/../up/secret.txt",
        "missing/../up/secret.txt",
        "../root-and-more/digits.txt",
        "",
        ".",
        "..",
    ],
)
async def test_a_path_that_leaves_its_root_is_404(root, name):
    if name == "/secret.txt":
        name = f"{root.parent}{name}"
    with pytest.raises(HTTPError, match="there is nothing at this address"):
        await sent(Response.file(name, root=root))


async def test_a_root_may_be_a_link_and_text(root):
    (root.parent / "current").symlink_to(root)
    assert (await sent(Response.file("digits.txt", root=str(root.parent / "current")))).body == CONTENT


async def test_a_root_that_does_not_exist_is_the_servers_failure(tmp_path):
    with pytest.raises(FileNotFoundError):
        await sent(Response.file("x", root=tmp_path / "missing"))


@pytest.mark.parametrize("path", [None, b"x", 5])
def test_a_path_that_is_none_is_refused_where_it_is_given(path):
    with pytest.raises(TypeError):
        Response.file(path)


# What is held


async def test_the_file_is_closed_when_it_was_sent(path):
    opened = await Response.file(path).opened(FakeExchange())
    assert len(open_files(path)) == 1
    await opened.send_to(FakeExchange())
    assert not open_files(path)


async def test_the_file_is_closed_when_it_is_not_sent_after_all(path):
    opened = await Response.file(path).opened(FakeExchange())
    await opened.aclose()
    await opened.aclose()
    assert not open_files(path)


async def test_the_file_is_closed_when_sending_fails(path):
    exchange = FakeExchange()
    await exchange.start_response(200, [])
    with pytest.raises(ResponseError):
        await Response.file(path).send_to(exchange)
    assert not open_files(path)
