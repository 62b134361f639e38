"""Forms: whatever is sent comes out the same, however it is split, and what is refused is told helpfully."""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
import threading
import urllib.parse
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st

from trioserve import ConfigError, Form, Limits
from trioserve.app.form_decoders import PART_HEAD, UrlencodedDecoder
from trioserve.app.forms import WRITE_SIZE, FormReader, FormType
from trioserve.app.uploads import READ_SIZE
from trioserve.core.errors import HTTPError, RequestError

BOUNDARY = "----boundary"
MULTIPART = f"multipart/form-data; boundary={BOUNDARY}"
URLENCODED = "application/x-www-form-urlencoded"

SMALL = Limits(form_memory=1000)
"""So that an upload of more goes to disk."""


class Parts:
    """A body in parts; an exception among them is raised when its turn comes."""

    def __init__(self, parts: Iterable[bytes | Exception | trio.Event]) -> None:
        self._parts = list(parts)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._parts and isinstance(self._parts[0], trio.Event):
            await self._parts[0].wait()
            self._parts.pop(0)
        if not self._parts:
            raise StopAsyncIteration
        part = self._parts.pop(0)
        if isinstance(part, Exception):
            raise part
        return part


def reader(
    stack: AsyncExitStack, *parts: bytes | Exception | trio.Event, content_type: str | None = MULTIPART, limits=None
) -> FormReader:
    return FormReader(FormType.of(content_type), Parts(parts), limits or Limits(), stack)


@contextlib.asynccontextmanager
async def form_of(*parts: bytes, content_type: str | None = MULTIPART, limits=None) -> AsyncIterator[Form]:
    async with AsyncExitStack() as stack:
        yield await reader(stack, *parts, content_type=content_type, limits=limits).read()


async def refused(*parts: bytes, content_type: str | None = MULTIPART, limits=None) -> HTTPError:
    with pytest.raises(HTTPError) as caught:
        async with form_of(*parts, content_type=content_type, limits=limits):
            pass
    assert not isinstance(caught.value, RequestError), "HTTP itself was right: the connection may go on"
    return caught.value


def part(disposition: str, content: bytes = b"", *fields: str) -> bytes:
    head = "".join(f"{field}\r\n" for field in (f"Content-Disposition: {disposition}", *fields))
    return f"--{BOUNDARY}\r\n{head}\r\n".encode() + content + b"\r\n"


def text(name: str, value: bytes = b"") -> bytes:
    return part(f'form-data; name="{name}"', value)


def upload(name: str, filename: str, content: bytes, content_type: str = "application/octet-stream") -> bytes:
    return part(f'form-data; name="{name}"; filename="{filename}"', content, f"Content-Type: {content_type}")


def body(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


async def content_of(form: Form) -> list[tuple]:
    """The form as plain values: a file is (filename, content type, content)."""
    return [
        (name, value if isinstance(value, str) else (value.filename, value.content_type, await value.read()))
        for name, value in form
    ]


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


# Its type


@pytest.mark.parametrize(
    "content_type",
    [URLENCODED, f"{URLENCODED}; charset=UTF-8", "Application/X-WWW-Form-Urlencoded ;charset=utf-8"],
)
def test_the_urlencoded_type_is_known(content_type):
    assert FormType.of(content_type).boundary is None


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/form-data; boundary=x", b"x"),
        ('Multipart/Form-Data; charset=utf-8; Boundary="a b:c"', b"a b:c"),
        ("multipart/form-data; boundary=" + 70 * "x", 70 * b"x"),
    ],
)
def test_a_boundary_is_read(content_type, boundary):
    assert FormType.of(content_type).boundary == boundary


@pytest.mark.parametrize(
    "parameters", ["", '; boundary=""', "; boundary=" + 71 * "x", '; boundary="x "', "; boundary=é"]
)
def test_rfc2046_5_1_1_what_is_no_boundary_is_a_400(parameters):
    with pytest.raises(HTTPError, match=r"boundary, of 1 to 70 characters") as caught:
        FormType.of("multipart/form-data" + parameters)
    assert caught.value.status == 400


@pytest.mark.parametrize("parameters", ["; boundary=a; boundary=b", '; boundary="a', "; boundary", "; boundary="])
def test_malformed_parameters_are_a_400(parameters):
    with pytest.raises(HTTPError, match="Content-Type is malformed") as caught:
        FormType.of("multipart/form-data" + parameters)
    assert caught.value.status == 400


@pytest.mark.parametrize("content_type", [None, "", "application/json", "multipart/mixed; boundary=x", "text/plain"])
def test_rfc9110_15_5_16_what_is_no_form_is_a_415_that_says_what_is(content_type):
    with pytest.raises(HTTPError, match=r"a form is sent as application/x-www-form-urlencoded or multi") as caught:
        FormType.of(content_type)
    assert caught.value.status == 415
    assert caught.value.headers == {"accept": "application/x-www-form-urlencoded, multipart/form-data"}


@pytest.mark.parametrize("kind", [URLENCODED, MULTIPART])
def test_another_charset_is_a_400(kind):
    with pytest.raises(HTTPError, match="'iso-8859-1'; send it in UTF-8") as caught:
        FormType.of(f"{kind}; charset=iso-8859-1")
    assert caught.value.status == 400


# Urlencoded


@pytest.mark.parametrize(
    ("content", "fields"),
    [
        (b"", []),
        (b"a=1&b=2&a=3", [("a", "1"), ("b", "2"), ("a", "3")]),
        (b"a", [("a", "")]),
        (b"a=&=b&=", [("a", ""), ("", "b"), ("", "")]),
        (b"&a=1&&b=2&", [("a", "1"), ("b", "2")]),
        (b"a=b=c", [("a", "b=c")]),
        (b"a+b=+c%2B%20", [("a b", " c+ ")]),
        (b"caf%C3%A9=%f0%9f%8d%80", [("café", "🍀")]),
        ("é=ü".encode(), [("é", "ü")]),
        (b"a;b=c%00", [("a;b", "c\0")]),
        (b"_charset_=UTF-8&a=1", [("_charset_", "UTF-8"), ("a", "1")]),
        (b"_charset_=&a=1", [("_charset_", ""), ("a", "1")]),
    ],
)
async def test_urlencoded_fields_are_what_was_sent(content, fields):
    async with form_of(content, content_type=URLENCODED) as form:
        assert list(form) == fields


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a=100%", "a % at byte 5"),
        (b"a=%zz", "a % at byte 2"),
        (b"a=%e", "a % at byte 2"),
        (b"a=%ff", "the field 'a' is not UTF-8: byte 0xff at 0"),
        (b"%c3=1", "the name of a field is not UTF-8"),
        (b"_charset_=windows-1252&a=b", "'windows-1252'; send it in UTF-8"),
    ],
)
async def test_what_is_malformed_urlencoded_is_a_400(content, words):
    error = await refused(content, content_type=URLENCODED)
    assert error.status == 400
    assert words in error.detail


# But for `_charset_`, which says in what the others are sent. Hypothesis knows it from our own source.
NAMES = st.text().filter(lambda name: name != "_charset_")


@given(fields=st.lists(st.tuples(NAMES, st.text())), cuts=st.lists(st.integers(0, 200)))
def test_whatever_is_sent_urlencoded_comes_out_the_same(fields, cuts):
    content = urllib.parse.urlencode(fields).encode()
    decoder = UrlencodedDecoder(Limits())
    for piece in split(content, cuts):
        decoder.feed(piece)
    assert decoder.end() == fields


# Multipart


def split(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """`data` in pieces, cut at these places (beyond the end they count from the beginning again)."""
    places = sorted({cut % len(data) for cut in cuts} - {0}) if data else []
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True) if start < end]


async def test_a_form_is_its_text_and_files_in_their_order():
    sent = body(text("b", b"1"), upload("f", "x.png", b"\x89PNG", "image/png"), text("a", b""), text("b", b"2"))
    async with form_of(sent) as form:
        assert [name for name, _ in form] == ["b", "f", "a", "b"]
        assert form.texts("b") == ["1", "2"]
        assert form.text("a") == ""
        file = form.file("f")
        assert (file.name, file.filename, file.content_type, file.size) == ("f", "x.png", "image/png", 4)
        assert file.headers["Content-Type"] == "image/png"
        assert await file.read() == b"\x89PNG"
        assert repr(file) == "<UploadedFile 'f': 'x.png', 4 bytes>"


async def test_a_form_may_be_empty():
    async with form_of(body()) as form:
        assert len(form) == 0


async def test_a_file_without_a_type_has_none():
    async with form_of(body(part('form-data; name="f"; filename="x"', b"1"))) as form:
        assert form.file("f").content_type is None


async def test_a_file_that_was_not_chosen_is_left_out():
    async with form_of(body(upload("f", "", b""), upload("g", "", b"1"), upload("h", "empty", b""))) as form:
        assert "f" not in form
        assert await content_of(form) == [
            ("g", ("", "application/octet-stream", b"1")),
            ("h", ("empty", "application/octet-stream", b"")),
        ]


async def test_names_are_read_as_browsers_write_them():
    sent = body(
        part('form-data; name="a%22b%0D%0Ac"; filename="100% %22é🍀%22.txt"', b"1"),
        part(r'form-data; name="\\ \""; filename="C:\new.txt"', b"2"),
        part("Form-Data;name=token; filename=token.txt", b"3"),
        part('form-data; name="x"; filename="plain"; filename*=utf-8\'\'star', b"4"),
    )
    async with form_of(sent) as form:
        assert [(name, value.filename) for name, value in form] == [
            ('a"b\r\nc', '100% "é🍀".txt'),
            ('\\ "', r"C:\new.txt"),
            ("token", "token.txt"),
            ("x", "plain"),
        ]


async def test_the_charset_of_text_may_be_said_if_it_is_utf8():
    sent = body(
        part('form-data; name="a"', "é".encode(), "Content-Type: text/plain; charset=UTF-8"),
        part('form-data; name="b"', b"{}", "Content-Type: application/json", "Content-Transfer-Encoding: 8bit"),
        text("_charset_", b"UTF-8"),
    )
    async with form_of(sent) as form:
        assert (form["a"], form["b"]) == ("é", "{}")


WHOLE = body(text("name", b"J\xc3\xb6rg"), upload("f", "x", b"\r\n--\r\n----boundar\r\n------boundaryy"), text("z"))


@pytest.mark.parametrize("place", range(1, len(WHOLE)))
async def test_a_form_may_be_split_anywhere(place):
    async with form_of(WHOLE[:place], WHOLE[place:]) as form:
        assert await content_of(form) == [
            ("name", "Jörg"),
            ("f", ("x", "application/octet-stream", b"\r\n--\r\n----boundar\r\n------boundaryy")),
            ("z", ""),
        ]


@pytest.mark.parametrize("limits", [Limits(), Limits(form_memory=150)])
async def test_a_form_may_come_byte_by_byte(limits):
    async with form_of(*(WHOLE[i : i + 1] for i in range(len(WHOLE))), limits=Limits(form_memory=400)) as form:
        assert [name for name, _ in form] == ["name", "f", "z"]


async def test_what_follows_the_last_boundary_is_thrown_away():
    async with form_of(WHOLE, b"\r\nan epilogue") as form:
        assert len(form) == 3


# A browser's words for these are the same as for others, or no form at all.
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\\%\0"), max_size=20)
# What is apt to be taken for a boundary.
CONTENT = st.one_of(
    st.binary(max_size=300),
    st.lists(st.sampled_from([b"\r", b"\n", b"-", b"--", BOUNDARY.encode(), b"\r\n--", b"a"]), max_size=8).map(
        b"".join
    ),
).filter(lambda content: f"--{BOUNDARY}".encode() not in content)


def is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def as_a_browser_writes(name: str) -> str:
    return name.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22")


@given(
    fields=st.lists(
        st.tuples(NAMES, st.one_of(CONTENT.filter(is_text).map(bytes.decode), st.tuples(NAMES, CONTENT))),
        max_size=6,
    ),
    cuts=st.lists(st.integers(0, 5000), max_size=20),
    memory=st.integers(1, 400),
)
@example(fields=[("f", ("x", b"\r\n------boundar"))], cuts=[], memory=1)
def test_whatever_is_sent_comes_out_the_same_however_it_is_split(fields, cuts, memory):
    sent = body(
        *(
            text(as_a_browser_writes(name), value.encode())
            if isinstance(value, str)
            else upload(as_a_browser_writes(name), as_a_browser_writes(value[0]), value[1])
            for name, value in fields
        )
    )

    async def read() -> list[tuple]:
        # The memory is for files; text would be refused.
        limits = Limits()
        async with AsyncExitStack() as stack:
            form = reader(stack, *split(sent, cuts), limits=limits)
            form._storage._memory_left = memory
            return await content_of(await form.read())

    assert trio.run(read) == [
        (name, value if isinstance(value, str) else (value[0], "application/octet-stream", value[1]))
        for name, value in fields
        if isinstance(value, str) or value != ("", b"")
    ]


FILENAMES = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"], exclude_characters="%"), min_size=1)


@given(
    texts=st.dictionaries(FILENAMES, st.text(st.characters(codec="utf-8")), max_size=3),
    files=st.lists(st.tuples(FILENAMES, FILENAMES, st.binary(max_size=300)), max_size=3),
    cuts=st.lists(st.integers(0, 5000), max_size=20),
)
def test_whatever_httpx_sends_comes_out_the_same(texts, files, cuts):
    request = httpx.Request(
        "POST",
        "http://x/",
        data=texts,
        # With one file of our own it is multipart in any case.
        files=[("own", ("own", b"")), *((name, (filename, content, "image/png")) for name, filename, content in files)],
    )
    parts = split(request.read(), cuts)

    async def read() -> list[tuple]:
        async with form_of(*parts, content_type=request.headers["content-type"]) as form:
            return await content_of(form)

    received = trio.run(read)
    assert [entry for entry in received if isinstance(entry[1], str)] == list(texts.items())
    assert [entry for entry in received if not isinstance(entry[1], str)][1:] == [
        (name, (filename, "image/png", content)) for name, filename, content in files
    ]


# Malformed multipart


@pytest.mark.parametrize("place", range(len(WHOLE) - 2))
async def test_a_form_that_ends_early_is_a_400(place):
    error = await refused(WHOLE[:place])
    assert error.status == 400
    assert "the form is not complete" in error.detail
    assert f"after {place} bytes" in error.detail


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b"a=1&b=2", "malformed multipart/form-data at byte 0, in front of the first part"),
        (b"--other\r\n", "malformed multipart/form-data at byte 2, in front of the first part"),
        (body(text("a"), f"--{BOUNDARY}\r\nno colon\r\n\r\n".encode()), "in part 2"),
        (body(f"--{BOUNDARY}\r\n: x\r\n\r\n".encode()), "in part 1"),
        (body(part('form-data; name="a"', b"", "bad\rline")), "in part 1"),
    ],
)
async def test_what_is_malformed_is_a_400_that_says_where(sent, words):
    error = await refused(sent)
    assert error.status == 400
    assert words in error.detail
    assert "(RFC 7578)" in error.detail


async def test_a_client_cannot_fill_the_log_with_malformed_forms(caplog):
    await refused(b"nonsense")
    assert caplog.records == []


async def test_where_it_is_malformed_is_counted_from_the_beginning():
    whole = await refused(text("a", b"1") + b"nonsense")
    parts = await refused(text("a", b"1"), b"nonsense")
    assert whole.detail == parts.detail


@pytest.mark.parametrize(
    "sent",
    [
        f"--{BOUNDARY}\r\n\r\nx\r\n".encode(),
        f"--{BOUNDARY}\r\nContent-Type: text/plain\r\n\r\nx\r\n".encode(),
        part("form-data", b"x"),
        part('form-data; filename="x"', b"x"),
        part('attachment; name="a"', b"x"),
        part('form-data; name="a', b"x"),
        part('form-data; name="a"; name="b"', b"x"),
    ],
)
async def test_a_part_without_a_name_is_a_400_that_says_which(sent):
    error = await refused(body(text("first"), sent))
    assert error.status == 400
    assert "part 2 of the form has no name; it needs Content-Disposition: form-data" in error.detail


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (text("a", b"caf\xe9"), "the field 'a' is not UTF-8: byte 0xe9 at 3"),
        (text("\xff").decode("utf-8").encode("latin-1"), "the head of part 1 is not UTF-8"),
        (part('form-data; name="a"', b"", "Content-Type: text/plain; charset=utf-16"), "'utf-16'; send it in UTF-8"),
        (text("_charset_", b"iso-8859-1"), "'iso-8859-1'; send it in UTF-8"),
        (part("form-data; name=\"a\"; filename*=utf-8''x", b""), "send filename"),
        (
            part('form-data; name="a"', b"", "Content-Transfer-Encoding: base64"),
            "'base64'; send it without Content-Transfer-Encoding",
        ),
    ],
)
async def test_what_cannot_be_read_is_a_400_that_says_why(sent, words):
    error = await refused(body(sent))
    assert error.status == 400
    assert words in error.detail


# Limits


@pytest.mark.parametrize(
    ("content_type", "sent"),
    [(URLENCODED, lambda n: b"&".join(n * [b"a=1"])), (MULTIPART, lambda n: body(*(n * [text("a")])))],
)
async def test_more_fields_than_the_limit_are_a_413(content_type, sent):
    limits = Limits(form_parts=5)
    async with form_of(sent(5), content_type=content_type, limits=limits) as form:
        assert len(form) == 5
    error = await refused(sent(6), content_type=content_type, limits=limits)
    assert error.status == 413
    assert "more than 5 fields" in error.detail


async def test_more_urlencoded_content_than_the_limit_is_a_413():
    limits = Limits(form_memory=100)
    async with form_of(b"a=", 98 * b"x", content_type=URLENCODED, limits=limits) as form:
        assert form["a"] == 98 * "x"
    error = await refused(b"a=", 99 * b"x", content_type=URLENCODED, limits=limits)
    assert error.status == 413
    assert "larger than 100 bytes" in error.detail


HEAD = len('Content-Dispositionform-data; name="a"')


@pytest.mark.parametrize("parts", [1, 3])
async def test_more_text_than_the_limit_is_a_413_the_heads_of_parts_included(parts):
    limits = Limits(form_memory=1000)
    size = 1000 - HEAD * parts
    others = (parts - 1) * [text("a")]
    async with form_of(body(*others, text("a", size * b"x")), limits=limits):
        pass
    error = await refused(body(*others, text("a", (size + 1) * b"x")), limits=limits)
    assert error.status == 413
    assert "the text of the form is larger than 1000 bytes" in error.detail


async def test_a_file_is_no_text():
    async with form_of(body(upload("f", "x", bytes(10_000)), text("a", b"1")), limits=SMALL) as form:
        assert form.file("f").size == 10_000
        assert form["a"] == "1"


async def test_a_head_of_a_part_larger_than_the_limit_is_a_413():
    def sent(size: int) -> bytes:
        return body(part('form-data; name="a"', b"x", "X: " + (size - HEAD - 1) * "x"))

    async with form_of(sent(PART_HEAD)) as form:
        assert form["a"] == "x"
    error = await refused(sent(PART_HEAD + 1))
    assert error.status == 413
    assert f"the head of part 1 of the form is larger than {PART_HEAD} bytes" in error.detail


async def test_many_fields_in_a_head_are_bound_by_its_size_alone():
    async with form_of(body(part('form-data; name="a"', b"x", *(f"a{i}: b" for i in range(100))))) as form:
        assert form["a"] == "x"


# What a handler asks of it


async def test_what_is_missing_or_of_the_other_kind_is_a_400_that_names_it():
    async with form_of(body(text("t", b"1"), upload("f", "x", b"1"))) as form:
        for ask, words in [
            (lambda: form.text("x"), "the form has no field 'x'"),
            (lambda: form.file("x"), "the form has no field 'x'"),
            (lambda: form.text("f"), "the form's field 'f' is a file; send it as text"),
            (lambda: form.text("f", ""), "the form's field 'f' is a file; send it as text"),
            (lambda: form.texts("f"), "the form's field 'f' is a file; send it as text"),
            (lambda: form.file("t"), "the form's field 't' is text; send it as a file"),
            (lambda: form.file("t", None), "the form's field 't' is text; send it as a file"),
            (lambda: form.files("t"), "the form's field 't' is text; send it as a file"),
        ]:
            with pytest.raises(HTTPError) as caught:
                ask()
            assert caught.value.status == 400
            assert words in caught.value.detail


async def test_there_may_be_a_default():
    async with form_of(body(text("t", b"1"), upload("f", "x", b"1"))) as form:
        assert form.text("t", "2") == "1"
        assert form.text("x", "2") == "2"
        assert form.text("x", None) is None
        assert form.file("f", None) is form["f"]
        assert form.file("x", None) is None
        assert form.texts("x") == form.files("x") == []
        assert form.files("f") == [form["f"]]


# Files


async def test_a_file_is_read_in_pieces_from_where_it_was_left():
    for content in (b"0123456789", b"0123456789" + bytes(2000)):
        async with form_of(body(upload("f", "x", content)), limits=SMALL) as form:
            file = form.file("f")
            assert await file.read(4) == b"0123"
            assert await file.read(0) == b""
            assert await file.read() == content[4:]
            assert await file.read(4) == await file.read() == b""
            await file.seek(8)
            assert await file.read(2) == b"89"
            await file.seek(len(content) + 5)
            assert await file.read() == b""
            await file.seek(0)
            assert b"".join([chunk async for chunk in file]) == content
            with pytest.raises(ValueError, match="position is counted from the beginning"):
                await file.seek(-1)


async def test_a_large_file_comes_in_chunks():
    content = bytes(range(256)) * 600
    async with form_of(body(upload("f", "x", content)), limits=SMALL) as form:
        assert [len(chunk) async for chunk in form.file("f")] == [READ_SIZE, READ_SIZE, len(content) - 2 * READ_SIZE]


async def test_files_in_memory_and_on_disk_are_each_their_own():
    contents = [bytes([number]) * size for number, size in enumerate([10, 900, 200, 5, 3000, 0, 1])]
    async with form_of(body(*(upload("f", "x", content) for content in contents)), limits=SMALL) as form:
        files = form.files("f")
        assert [await file.read() for file in reversed(files)] == contents[::-1]


async def test_two_tasks_may_read_two_files_on_disk():
    contents = {"f": bytes(300_000), "g": b"\x01" * 300_000}
    async with form_of(body(*(upload(name, "x", c) for name, c in contents.items())), limits=SMALL) as form:
        read = {}

        async def keep(name: str) -> None:
            read[name] = b"".join([chunk async for chunk in form.file(name)])

        async with trio.open_nursery() as nursery:
            for name in contents:
                nursery.start_soon(keep, name)
        assert read == contents


@pytest.fixture
def temporary_files(monkeypatch) -> list:
    """The temporary files that are made."""
    made = []
    make = tempfile.TemporaryFile

    def noted(**settings):
        made.append(make(**settings))
        return made[-1]

    monkeypatch.setattr(tempfile, "TemporaryFile", noted)
    return made


async def test_what_fits_in_memory_makes_no_temporary_file(temporary_files):
    async with form_of(body(upload("f", "x", bytes(500)), upload("g", "x", bytes(500))), limits=SMALL):
        pass
    assert temporary_files == []


async def test_one_byte_more_than_fits_goes_to_disk(temporary_files):
    async with form_of(body(upload("f", "x", bytes(500)), upload("g", "x", bytes(501))), limits=SMALL) as form:
        assert [file.size for _, file in form] == [500, 501]
        (file,) = temporary_files
        assert file.seek(0, 2) == 501


async def test_a_form_has_one_temporary_file_without_a_name(temporary_files, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    async with form_of(body(*(upload("f", "x", bytes(4000)) for _ in range(20))), limits=Limits(form_memory=3000)):
        assert len(temporary_files) == 1
        assert names_in(tmp_path) == []


async def test_disk_is_written_in_large_pieces_and_while_the_form_comes(temporary_files):
    chunk, written = bytes(WRITE_SIZE // 4), []

    class Watched(Parts):
        async def __anext__(self) -> bytes:
            written.append(sum(file.seek(0, 2) for file in temporary_files))
            return await super().__anext__()

    parts = Watched([upload("f", "x", b"")[:-2], *(8 * [chunk]), b"\r\n" + body()])
    async with AsyncExitStack() as stack:
        form = await FormReader(FormType.of(MULTIPART), parts, SMALL, stack).read()
        assert form.file("f").size == 2 * WRITE_SIZE
    assert written == sorted(written)
    assert len(set(written)) == 3, "nothing, a half, all"


async def test_when_the_exchange_has_ended_nothing_is_left_and_nothing_can_be_read(temporary_files):
    async with form_of(body(upload("f", "x", bytes(5)), upload("g", "x", bytes(2000))), limits=SMALL) as form:
        pass
    assert [file.closed for file in temporary_files] == [True]
    for file in (form.file("f"), form.file("g")):
        with pytest.raises(trio.ClosedResourceError, match="the exchange has ended"):
            await file.read()


@pytest.mark.parametrize("size", [0, 10, 200_000])
async def test_a_file_can_be_saved(tmp_path: Path, size: int):
    content = bytes(range(256)) * (size // 256) + bytes(size % 256)
    async with form_of(body(upload("f", "x", content)), limits=SMALL) as form:
        (tmp_path / "kept").write_bytes(b"what was there")
        await form.file("f").read(3)
        await form.file("f").save(tmp_path / "kept")
    assert (tmp_path / "kept").read_bytes() == content
    assert names_in(tmp_path) == ["kept"]


async def test_a_save_that_fails_leaves_what_was_there(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    async with form_of(body(upload("f", "x", bytes(10))), limits=SMALL) as form:
        with pytest.raises(OSError, match="folder"):
            await form.file("f").save(tmp_path / "folder")
    assert names_in(tmp_path) == ["folder"]


async def test_a_save_that_is_cancelled_leaves_what_was_there(tmp_path: Path):
    (tmp_path / "kept").write_bytes(b"what was there")
    async with form_of(body(upload("f", "x", bytes(200_000))), limits=SMALL) as form:
        file, scope = form.file("f"), trio.CancelScope()
        read_now = file._content.read_now

        class Cancelling:
            """The file's content, of which a part is read when the cancellation comes."""

            size = file.size

            def read_now(self, position: int, size: int) -> bytes:
                trio.from_thread.run_sync(scope.cancel)
                return read_now(position, size)

        file._content = Cancelling()
        with scope:
            await file.save(tmp_path / "kept")
        assert scope.cancelled_caught
    assert names_in(tmp_path) == ["kept"]
    assert (tmp_path / "kept").read_bytes() == b"what was there"


# Reading it again, and reading it in part


async def test_a_form_may_be_asked_for_again():
    async with AsyncExitStack() as stack:
        form = reader(stack, WHOLE)
        assert await form.read() is await form.read()


@pytest.mark.parametrize("parts", [[b"nonsense", WHOLE], [WHOLE[:20], RequestError(413), WHOLE[20:]]])
async def test_a_form_that_was_refused_stays_refused(parts):
    async with AsyncExitStack() as stack:
        form = reader(stack, *parts)
        with pytest.raises(HTTPError) as first:
            await form.read()
        with pytest.raises(HTTPError) as second:
            await form.read()
        assert first.value is second.value


async def test_a_cancelled_wait_for_a_form_can_be_made_again():
    go_on = trio.Event()
    async with AsyncExitStack() as stack:
        form = reader(stack, WHOLE[:100], go_on, WHOLE[100:])
        with trio.CancelScope() as scope:
            scope.cancel()
            await form.read()
        assert scope.cancelled_caught
        go_on.set()
        assert [name for name, _ in await form.read()] == ["name", "f", "z"]


class HeldFile:
    """A temporary file whose first write waits for us."""

    def __init__(self) -> None:
        self.file = io.BytesIO()
        self.writing = trio.Event()
        self.go_on = threading.Event()
        self._token = trio.lowlevel.current_trio_token()

    def __call__(self, **_settings) -> HeldFile:
        return self

    def write(self, data: bytes) -> int:
        self._token.run_sync_soon(self.writing.set)
        self.go_on.wait()
        return self.file.write(data)

    def __getattr__(self, name: str):
        return getattr(self.file, name)


async def test_a_write_that_is_cancelled_is_waited_for_and_the_form_may_be_read_on(monkeypatch, nursery):
    held, content = HeldFile(), bytes(range(256)) * 2000
    monkeypatch.setattr(tempfile, "TemporaryFile", held)
    async with AsyncExitStack() as stack:
        sent = body(upload("f", "x", content))
        form = reader(stack, sent[:300_000], sent[300_000:], limits=SMALL)
        scope, ended = trio.CancelScope(), trio.Event()

        async def read() -> None:
            with scope:
                await form.read()
            ended.set()

        nursery.start_soon(read)
        await held.writing.wait()
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert not ended.is_set()
        held.go_on.set()
        await ended.wait()
        assert scope.cancelled_caught
        assert await (await form.read()).file("f").read() == content
    assert held.closed


async def test_a_write_that_fails_is_the_servers_fault_and_leaves_no_file(monkeypatch):
    class Full:
        closed = False

        def seek(self, _: int) -> None: ...

        def write(self, _: bytes) -> int:
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            self.closed = True

    full = Full()
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: full)
    async with AsyncExitStack() as stack:
        with pytest.raises(OSError, match="No space left"):
            await reader(stack, body(upload("f", "x", bytes(2000))), limits=SMALL).read()
    assert full.closed


async def test_a_short_write_goes_on(monkeypatch):
    class Short:
        """A file that takes 100 bytes at a time."""

        def __init__(self, **_settings) -> None:
            self.file = io.BytesIO()

        def write(self, data: bytes) -> int:
            return self.file.write(data[:100])

        def __getattr__(self, name: str):
            return getattr(self.file, name)

    monkeypatch.setattr(tempfile, "TemporaryFile", Short)
    content = bytes(range(256)) * 10
    async with form_of(body(upload("f", "x", content)), limits=SMALL) as form:
        assert await form.file("f").read() == content


async def test_the_file_is_closed_also_when_the_exchange_is_cancelled(temporary_files):
    with trio.CancelScope() as scope:
        async with form_of(body(upload("f", "x", bytes(2000))), limits=SMALL):
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert [file.closed for file in temporary_files] == [True]


# The extra


async def test_without_python_multipart_it_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "python_multipart"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "python_multipart", None)
    async with form_of(b"a=1", content_type=URLENCODED) as form:
        assert form["a"] == "1"
    with pytest.raises(ConfigError, match=r"pip install 'trioserve\[forms\]'"):
        async with form_of(WHOLE):
            pass
