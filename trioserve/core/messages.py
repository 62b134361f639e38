"""What an HTTP/1.1 exchange consists of, as values.

The words are those of RFC 9110: a *message* has a head (control data and *fields*), content, and perhaps a
*trailer section*. These values carry no behaviour that needs a connection: the engine makes them from bytes, the
app layer reads them, the records keep them.

Field names are lower-case bytes and field values are bytes exactly as they came, in the order in which they came.
`Headers` is the view for people: text, case-insensitive, several values under one name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import Enum, auto
from typing import Final, NamedTuple, Protocol, overload

Field = tuple[bytes, bytes]
"""A field line: (lower-case name, value), RFC 9110 §5."""


class Headers:
    """The header section as text, case-insensitive and multi-valued (RFC 9110 §5.1-5.3).

    Made lazily from the raw fields; holds nothing of its own. Values decode as ISO-8859-1, which is what the bytes
    of a field value mean when nobody has said otherwise (RFC 9110 §5.5), so decoding never fails.
    """

    __slots__ = ("raw",)

    def __init__(self, raw: Iterable[Field] = ()) -> None:
        self.raw: Sequence[Field] = tuple(raw)

    @overload
    def get(self, name: str) -> str | None: ...
    @overload
    def get(self, name: str, default: str) -> str: ...
    def get(self, name: str, default: str | None = None) -> str | None:
        """The first value of field `name`, or `default` if the message has no such field."""
        key = name.lower().encode("latin-1", "replace")
        for field_name, value in self.raw:
            if field_name == key:
                return value.decode("latin-1")
        return default

    def get_all(self, name: str) -> list[str]:
        """All values of field `name` in the order in which they came; empty if there are none."""
        key = name.lower().encode("latin-1", "replace")
        return [value.decode("latin-1") for field_name, value in self.raw if field_name == key]

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """(name, value) pairs, one a field line."""
        for name, value in self.raw:
            yield name.decode("latin-1"), value.decode("latin-1")

    def __len__(self) -> int:
        return len(self.raw)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Headers) and self.raw == other.raw

    def __hash__(self) -> int:
        return hash(self.raw)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self)!r})"


class RequestLine(NamedTuple):
    """The first line of a request (RFC 9112 §3). The target may be none that a URI can have; its characters are visible
    ASCII, and the method is a token.
    """

    method: str
    target: str
    http_version: str


class RequestHead(NamedTuple):
    """Everything of a request but its content: RFC 9112 §2-3.

    `content_length` is None for chunked content and 0 where there is no content. `authority` says for whom the
    request is, by its target or its Host field: "host" or "host:port" in lower case; None where it says nothing.
    """

    method: str
    target: str
    http_version: str
    fields: Sequence[Field]
    content_length: int | None
    authority: str | None = None

    @property
    def headers(self) -> Headers:
        return Headers(self.fields)


class BodyPart(NamedTuple):
    """Some bytes of the request's content, in order. Never empty."""

    data: bytes


class EndOfRequest(NamedTuple):
    """The request is complete. `trailers` is the trailer section, almost always empty."""

    trailers: Sequence[Field]


class Waiting(Enum):
    """Stands where a `RequestEvent` would, as long as there is none."""

    NEED_DATA = auto()


NEED_DATA: Final = Waiting.NEED_DATA
RequestEvent = RequestHead | BodyPart | EndOfRequest
"""What a request comes as: its head, its content in parts, its end."""


class ResponseHead(NamedTuple):
    """A final response's status code and fields (RFC 9112 §4). Framing fields may be left to the engine.

    A field of `defaults` is sent where `fields` has none of its name; their names are in lower case.
    """

    status: int
    fields: Sequence[Field]
    defaults: Sequence[Field] = ()


class OpenFile(Protocol):
    """A regular file that is open for reading, such as an `io.FileIO`."""

    def fileno(self) -> int:
        """Its descriptor.

        Raises:
            ValueError: it is closed. So a number that the system has given to another file since is never used.
        """
        ...


class FileSlice:
    """`length` bytes of an open file from `offset` on, as content that is sent without being read into memory.

    What is left when the first `n` bytes are sent is `file_slice[n:]`. The file belongs to whoever opened it and must
    stay open until the slice is sent.
    """

    __slots__ = ("_length", "file", "offset")

    def __init__(self, file: OpenFile, offset: int, length: int) -> None:
        self.file = file
        self.offset = offset
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, part: slice) -> FileSlice:
        positions = range(self.offset, self.offset + self._length)[part]
        if positions.step != 1:
            raise ValueError(f"a slice of a file has no gaps, and is not read backwards: {part}")
        return FileSlice(self.file, positions.start, len(positions))


Content = bytes | FileSlice
"""Content of a response, or a part of it."""


class Wire(NamedTuple):
    """Bytes to hand to the transport: `prefix` and `suffix` are framing, `payload` is the response's content.

    They are kept apart so that the number of content bytes which left can be told from the number of bytes sent.
    """

    prefix: bytes
    payload: Content
    suffix: bytes

    def payload_sent(self, wire_bytes_sent: int) -> int:
        """How many bytes of the payload are among the first `wire_bytes_sent` bytes on the wire."""
        return min(max(wire_bytes_sent - len(self.prefix), 0), len(self.payload))
