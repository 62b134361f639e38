"""Files: conditional requests, ranges, and sending a file without reading it into memory.

First what is decided, as pure functions of the request's fields and what is known of the file; then `FileResponse`,
which opens the file in a worker thread, so that a slow disk holds nobody up, and hands a slice of it over, which the
system sends by itself where it can.

Conditions and ranges are for GET and HEAD with the status code 200 (RFC 9110 §13.2.1, §14.2); any other response has
the whole file, without validators. Sent as a whole too, as §14.2 allows, is what is asked for in

* several ranges: their answer would be a multipart message, which hardly any client asks for, and which many small or
  overlapping ranges make expensive for us alone;
* another unit than bytes, or a range that is malformed: it is no range that we know;
* any range of an empty file: there is none that an answer could name.

What must stay true: whoever has opened a file closes it, however the exchange ends. A path with a root never leads out
of that root. What is no regular file that may be read, is not there: for a client that may not see a file it makes no
difference whether it exists, and it should not learn it (§15.5.4).

A file that is replaced by renaming a new one over it is sent as it was when it was opened. One that is written to while
it is sent is the writer's business; if it becomes shorter, the response is cut.
"""

from __future__ import annotations

import email.utils
import errno
import io
import mimetypes
import os
import re
import stat
import time
from contextlib import ExitStack
from datetime import UTC
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote

from trioserve.app.headers import HeaderItems, MutableHeaders
from trioserve.app.response import Release, Response, nothing_to_release
from trioserve.core.application import Exchange
from trioserve.core.errors import HTTPError, ResponseError
from trioserve.core.messages import FileSlice, Headers, RequestHead

StrPath = str | os.PathLike[str]

# What is decided

SETTLED_AFTER: Final = 2_000_000_000
"""Nanoseconds after its last change for which a file's validators are weak: within the resolution of its time stamp it
may change again without a trace. The coarsest that is still met, FAT's, is two seconds."""


class Validators(NamedTuple):
    """What tells one state of a file from another (RFC 9110 §8.8). `last_modified`: whole seconds since the epoch."""

    etag: str
    last_modified: int

    @property
    def are_strong(self) -> bool:
        """True if the same validators mean the same bytes, so that two parts fit together."""
        return not self.etag.startswith("W/")


def validators_of(size: int, modified_ns: int, now_ns: int) -> Validators:
    """The validators of a file, by its size in bytes and its time stamp; times are nanoseconds since the epoch."""
    tag = f'"{modified_ns:x}-{size:x}"'
    settled = now_ns - modified_ns > SETTLED_AFTER
    # Never later than the answer's Date: RFC 9110 §8.8.2.1.
    return Validators(tag if settled else f"W/{tag}", min(modified_ns, now_ns) // 1_000_000_000)


def failed_condition(headers: Headers, validators: Validators) -> int | None:
    """The status code that a GET or HEAD is answered with because of its conditions, in the order of RFC 9110 §13.2.2:
    412, 304, or None if they all hold.
    """
    if "if-match" in headers:
        if not _is_among(headers, "if-match", validators.etag, weak=False):
            return 412
    elif (since := _date(headers, "if-unmodified-since")) is not None and validators.last_modified > since:
        return 412
    if "if-none-match" in headers:
        if _is_among(headers, "if-none-match", validators.etag, weak=True):
            return 304
    elif (since := _date(headers, "if-modified-since")) is not None and validators.last_modified <= since:
        return 304
    return None


def selected_range(headers: Headers, size: int, validators: Validators) -> range | None:
    """The positions that a GET for a file of `size` bytes asks for (RFC 9110 §14.2).

    None: the whole file. An empty range: none of the file's bytes, which is a 416.
    """
    if "range" not in headers or not _range_applies(headers, validators):
        return None
    return byte_range(", ".join(headers.get_all("range")), size)


def byte_range(value: str, size: int) -> range | None:
    """What the value of a Range field selects of `size` bytes; see `selected_range`."""
    unit, _, specs = value.partition("=")
    ranges = [spec for spec in map(_stripped, specs.split(",")) if spec]  # a list may have empty elements: §5.6.1
    match = _RANGE.fullmatch(ranges[0]) if len(ranges) == 1 and unit.lower() == "bytes" else None
    if match is None or not size:
        return None
    first, last = match["first"], match["last"]
    if not first:
        return range(max(size - int(match["suffix"]), 0), size)
    if last and int(last) < int(first):
        return None  # invalid, which is not the same as unsatisfiable: §14.1.1
    return range(int(first), min(int(last), size - 1) + 1 if last else size)


# As many digits as int() converts without being told to; no file is longer.
_RANGE = re.compile(r"(?P<first>[0-9]{1,99})-(?P<last>[0-9]{0,99})|-(?P<suffix>[0-9]{1,99})")
_TAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')  # RFC 9110 §8.8.3


def _stripped(text: str) -> str:
    return text.strip(" \t")


def _is_among(headers: Headers, name: str, etag: str, *, weak: bool) -> bool:
    """True if the field is "*" or has the tag in its list; by weak or strong comparison (RFC 9110 §8.8.3.2)."""
    value = ", ".join(headers.get_all(name))
    if _stripped(value) == "*":
        return True
    tags = _TAG.findall(value)
    if weak:
        return etag.removeprefix("W/") in {tag.removeprefix("W/") for tag in tags}
    return not etag.startswith("W/") and etag in tags


def _range_applies(headers: Headers, validators: Validators) -> bool:
    """If-Range (RFC 9110 §13.1.5): True if there is none, or it names the file as it is, beyond doubt."""
    value = headers.get("if-range")
    if value is None:
        return True
    if '"' in value:
        return validators.are_strong and _stripped(value) == validators.etag
    return validators.are_strong and _date(headers, "if-range") == validators.last_modified


def _date(headers: Headers, name: str) -> int | None:
    """The field's date in seconds since the epoch, in any of the three formats of RFC 9110 §5.6.7; None if there is
    none, or if it is no date or several, which is ignored.
    """
    values = headers.get_all(name)
    if len(values) != 1:
        return None
    try:
        date = email.utils.parsedate_to_datetime(values[0])
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return int((date if date.tzinfo is not None else date.replace(tzinfo=UTC)).timestamp())


def attachment(filename: str) -> str:
    """The Content-Disposition of a file to be saved as `filename` (RFC 6266): the name as it is (RFC 8187), preceded,
    where it is not plain ASCII, by one for old clients.

    Raises:
        ResponseError: it is empty, or has a control character.
    """
    if not filename or any(character < " " or character == "\x7f" for character in filename):
        raise ResponseError(f"filename={filename!r}; it is the name of a file, without control characters")
    # Quotes, backslashes and percent signs are read differently by different clients: RFC 6266, appendix D.
    plain = re.sub(r"[^ !#$&-\[\]-~]", "_", filename)
    if plain == filename:
        return f'attachment; filename="{filename}"'
    exact = quote(filename, safe="!#$&+^`|", errors="replace")
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{exact}"


_COMPRESSED = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}


def content_type_of(name: str) -> str:
    """The Content-Type of a file by its name. Text is taken to be UTF-8."""
    # It takes URLs, and a name with a colon in it is to be none.
    kind, encoding = mimetypes.guess_type(f"./{name}")
    if encoding is not None:
        # What is there is the compressed file, and is to be kept as such.
        return _COMPRESSED.get(encoding, "application/octet-stream")
    if kind is None:
        return "application/octet-stream"
    return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind


# The response


class FileResponse(Response):
    """See `Response.file`. It holds no file: each exchange opens its own, so it may be sent several times."""

    __slots__ = ("_name", "_path", "_root")

    def __init__(
        self,
        path: StrPath,
        *,
        root: StrPath | None,
        filename: str | None,
        content_type: str | None,
        status: int,
        headers: HeaderItems,
    ) -> None:
        super().__init__(status=status, headers=headers, content_type=content_type)
        self._path = os.fspath(path)
        self._root = None if root is None else os.fspath(root)
        # By which the content type is guessed.
        self._name = filename or Path(self._path).name
        if filename is not None:
            self.headers.setdefault("content-disposition", attachment(filename))

    async def send_to(self, exchange: Exchange, release: Release = nothing_to_release) -> None:
        response = await self.opened(exchange)
        try:
            await response.send_to(exchange, release)
        finally:
            await response.aclose()

    async def opened(self, exchange: Exchange) -> Response:
        """What the exchange is answered: a response that holds the open file until it was sent or is closed; or a 304.

        Raises:
            HTTPError: there is no such file (404), a condition of the request failed (412), or its range has none of
                the file's bytes (416).
            OSError: `root` does not exist; or the system cannot open the file, for want of descriptors for example.
        """
        # The thread is waited for, so its file is never lost.
        return await exchange.run_in_thread(partial(self._open, exchange.head))

    def _open(self, head: RequestHead) -> Response:
        with ExitStack() as stack:
            file = stack.enter_context(open_file(self._path, self._root))
            response = self._answer(head, file, os.fstat(file.fileno()))
            if isinstance(response, _OpenedFile):
                stack.pop_all()
        return response

    def _answer(self, head: RequestHead, file: io.FileIO, facts: os.stat_result) -> Response:
        size, status, part = facts.st_size, self.status, range(facts.st_size)
        headers = MutableHeaders(list(self._fields))
        headers.setdefault("content-type", content_type_of(self._name))
        if status == 200 and head.method in {"GET", "HEAD"}:
            validators = _declared(headers, validators_of(size, facts.st_mtime_ns, time.time_ns()))
            headers.setdefault("accept-ranges", "bytes")
            match failed_condition(head.headers, validators):
                case 304:
                    return _not_modified(headers)
                case 412:
                    raise HTTPError(412, "the file is not in the state that the request's conditions name")
            selected = selected_range(head.headers, size, validators) if head.method == "GET" else None
            if selected is not None:
                if not selected:
                    raise _not_satisfiable(size)
                status, part = 206, selected
                headers["content-range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
        return _OpenedFile(file, part, status, headers)


class _OpenedFile(Response):
    """A part of an open file, all of it perhaps, for one exchange. To middleware its body is empty."""

    __slots__ = ("_file", "_part")

    def __init__(self, file: io.FileIO, part: range, status: int, headers: MutableHeaders) -> None:
        super().__init__(status=status, headers=headers)
        self._file = file
        self._part = FileSlice(file, part.start, len(part))

    async def send_to(self, exchange: Exchange, release: Release = nothing_to_release) -> None:
        try:
            await release()
            await exchange.respond(self.status, self._fields, self._part)
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        self._file.close()


def _declared(headers: MutableHeaders, own: Validators) -> Validators:
    """Tell the client the validators. Those that the handler has set prevail, here and in what is decided by them."""
    etag = headers.setdefault("etag", own.etag)
    headers.setdefault("last-modified", email.utils.formatdate(own.last_modified, usegmt=True))
    last_modified = _date(headers, "last-modified")
    return Validators(etag, own.last_modified if last_modified is None else last_modified)


def _not_modified(headers: MutableHeaders) -> Response:
    """304 has of the 200 what caches need, and nothing that describes the content (RFC 9110 §15.4.5)."""
    for name in _OF_CONTENT:
        del headers[name]
    return Response(status=304, headers=headers)


_OF_CONTENT = (
    "accept-ranges",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-length",
    "content-type",
    "last-modified",
)


def _not_satisfiable(size: int) -> HTTPError:
    return HTTPError(
        416, f"the range has none of the file's {size} bytes", headers={"content-range": f"bytes */{size}"}
    )


# The file


def open_file(path: str, root: str | None) -> io.FileIO:
    """Open a regular file for reading; see `Response.file` for what the path may be. Blocks.

    Raises:
        HTTPError: there is none that may be read, or it is not below the root (404).
        OSError: `root` does not exist; or the system cannot open the file.
    """
    base = None if root is None else os.path.realpath(root, strict=True)
    try:
        file = io.FileIO(path if base is None else _below(base, path), opener=_open_at_once)
    except ValueError:  # a NUL in it, or characters that file names cannot have
        raise _nothing_here() from None
    except OSError as error:
        if error.errno not in _NOT_THERE:
            raise
        raise _nothing_here() from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise _nothing_here()
    return file


def _below(base: str, path: str) -> str:
    """The file that `path` leads to from `base`, with all its links followed.

    Who can exchange a directory for a link between this and the opening can be served what the link leads to: such a
    one must not be given write access below a root.

    Raises:
        HTTPError: it is not below `base` (404).
        OSError: it does not exist, or its links lead round in a circle.
    """
    found = os.path.realpath(Path(base, path), strict=True)
    if not Path(found).is_relative_to(base):
        raise _nothing_here()
    return found


def _open_at_once(path: str, flags: int) -> int:
    """Opening a named pipe would wait for somebody to write to it, and a terminal might become ours."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


def _nothing_here() -> HTTPError:
    return HTTPError(404, "there is nothing at this address")


_NOT_THERE = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.EACCES,
        errno.EPERM,
        # Sockets, and devices that are not connected.
        errno.ENXIO,
        errno.ENODEV,
    }
)
