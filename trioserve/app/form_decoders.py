"""The two encodings of a form: bytes in, fields out. Nothing here waits; what goes to disk is put into the storage.

Refused with 413: more fields than `Limits.form_parts`, more text than `Limits.form_memory`, and a part whose head is
larger than `PART_HEAD`. Nothing is wrong with such a form; it is only too much. Refused with 400: whatever is
malformed, and any charset but UTF-8. No message of the multipart library reaches a client.

What browsers do is in the HTML standard ("multipart/form-data encoding algorithm") and not in RFC 7578: names and file
names are raw UTF-8, with `"`, CR and LF as %22, %0D and %0A. A file input in which nothing was chosen comes as a file
without name and content, and is left out: then `"photo" in form` says what the user did.
"""

from __future__ import annotations

import logging
import re
import sys
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import unquote_to_bytes

from trioserve.app.parameters import charset_of, is_utf8, parse_parameters
from trioserve.app.uploads import Content, Storage, UploadedFile
from trioserve.core.errors import ConfigError, HTTPError
from trioserve.core.limits import Limits
from trioserve.core.messages import Field, Headers

URLENCODED = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"

PART_HEAD = 4096
"""Bytes of one part's head: names in it are as long as a file system takes them (255 characters), and some fields."""

Fields = list[tuple[str, str | UploadedFile]]

# The library warns of every malformed form. The 400 tells of it to whom it concerns; no client is to fill the log.
_SILENT = logging.Logger("form_decoders", logging.CRITICAL + 1)  # noqa: LOG001 - nobody else is to find it
_ENCODED = re.compile(r"%(22|0D|0A)")
_NOT_HEX = re.compile(rb"%(?![0-9A-Fa-f]{2})")


class Decoder(Protocol):
    """Bytes of a form in, its fields out."""

    def feed(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            HTTPError: they are malformed (400), or too many (413).
        """
        ...

    def end(self) -> Fields:
        """The fields. May be called again.

        Raises:
            HTTPError: the form is malformed, or not complete (400).
        """
        ...


class UrlencodedDecoder:
    """application/x-www-form-urlencoded, by the URL standard (§5.1), but that what is no UTF-8 is refused."""

    __slots__ = ("_content", "_limits")

    def __init__(self, limits: Limits) -> None:
        self._content = bytearray()
        self._limits = limits

    def feed(self, data: bytes) -> None:
        self._content += data
        if len(self._content) > self._limits.form_memory:
            raise _too_much_text(self._limits)

    def end(self) -> Fields:
        if (match := _NOT_HEX.search(self._content)) is not None:
            raise HTTPError(
                400, f"the form has a % at byte {match.start()} that no two hexadecimal digits follow; write % as %25"
            )
        if self._content.count(b"&") >= self._limits.form_parts:
            raise _too_many(self._limits)
        fields: Fields = []
        for piece in bytes(self._content).split(b"&"):
            if piece:
                name, _, value = piece.replace(b"+", b" ").partition(b"=")
                decoded = _utf8(unquote_to_bytes(name), "the name of a field")
                fields.append((decoded, _utf8(unquote_to_bytes(value), f"the field {decoded!r}")))
        _check_charset_field(fields)
        return fields


# Multipart


class MultipartDecoder:
    """multipart/form-data: RFC 7578, on the events of python-multipart's parser."""

    __slots__ = (
        "_content",
        "_count",
        "_ended",
        "_fed",
        "_field_name",
        "_field_value",
        "_fields",
        "_head",
        "_head_size",
        "_limits",
        "_malformed",
        "_parser",
        "_part",
        "_storage",
        "_text_left",
    )

    def __init__(self, boundary: bytes, limits: Limits, storage: Storage) -> None:
        # Only now: it is an extra.
        try:
            from python_multipart.exceptions import FormParserError
            from python_multipart.multipart import MultipartParser
        except ImportError:
            raise ConfigError(
                f"a form in {MULTIPART} needs the package python-multipart; install it with "
                "pip install 'trioserve[forms]'"
            ) from None
        self._malformed = FormParserError
        # The bounds of a part's head are ours; these would be told from malformed heads by the words of an error only.
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._part_begins,
                "on_header_field": self._field_name_comes,
                "on_header_value": self._field_value_comes,
                "on_header_end": self._field_ends,
                "on_headers_finished": self._head_ends,
                "on_part_data": self._content_comes,
                "on_part_end": self._part_ends,
                "on_end": self._form_ends,
            },
            max_header_count=sys.maxsize,
            max_header_size=sys.maxsize,
        )
        self._parser.logger = _SILENT
        self._limits = limits
        self._storage = storage
        self._fed = 0
        self._fields: Fields = []
        self._ended = False
        self._text_left = limits.form_memory
        # Of the part that is being read.
        self._count = 0
        self._head: list[Field] = []
        self._head_size = 0
        self._field_name = bytearray()
        self._field_value = bytearray()
        self._part = _Part("", None)
        self._content: bytearray | Content = bytearray()

    def feed(self, data: bytes) -> None:
        try:
            self._parser.write(data)
        except self._malformed as error:
            # Where it is, and not what the library says of it, which is about its own inside.
            at = self._fed + max(getattr(error, "offset", 0), 0)
            raise HTTPError(
                400,
                f"the form is malformed {MULTIPART} at byte {at}, in {self._whereabouts()}: a part is a line of -- and "
                "the boundary, header fields, an empty line, and the content (RFC 7578)",
            ) from None
        self._fed += len(data)

    def end(self) -> Fields:
        if not self._ended:
            raise HTTPError(
                400,
                f"the form is not complete: it ends after {self._fed} bytes, in {self._whereabouts()}, without the "
                "boundary's last line (--boundary--)",
            )
        _check_charset_field(self._fields)
        return self._fields

    def _whereabouts(self) -> str:
        return f"part {self._count}" if self._count else "front of the first part"

    # The parser's events, in their order

    def _part_begins(self) -> None:
        if self._count >= self._limits.form_parts:
            raise _too_many(self._limits)
        self._count += 1
        self._head = []
        self._head_size = 0

    def _field_name_comes(self, data: bytes, start: int, end: int) -> None:
        self._head_grows(end - start)
        self._field_name += data[start:end]

    def _field_value_comes(self, data: bytes, start: int, end: int) -> None:
        self._head_grows(end - start)
        self._field_value += data[start:end]

    def _field_ends(self) -> None:
        self._head.append((bytes(self._field_name).lower(), bytes(self._field_value).strip(b" \t")))
        self._field_name.clear()
        self._field_value.clear()

    def _head_ends(self) -> None:
        self._part = _part_of(self._head, self._count)
        self._content = bytearray() if self._part.filename is None else Content(self._storage)

    def _content_comes(self, data: bytes, start: int, end: int) -> None:
        if isinstance(self._content, bytearray):
            self._text_grows(end - start)
            self._content += data[start:end]
        else:
            self._content.append(data[start:end])

    def _part_ends(self) -> None:
        name, filename = self._part.name, self._part.filename
        if isinstance(self._content, bytearray):
            self._fields.append((name, _utf8(self._content, f"the field {name!r}")))
        elif filename or self._content.size:
            self._fields.append((name, UploadedFile(name, filename or "", Headers(self._head), self._content)))

    def _form_ends(self) -> None:
        self._ended = True

    def _head_grows(self, size: int) -> None:
        self._head_size += size
        if self._head_size > PART_HEAD:
            raise HTTPError(413, f"the head of part {self._count} of the form is larger than {PART_HEAD} bytes")
        self._text_grows(size)

    def _text_grows(self, size: int) -> None:
        self._text_left -= size
        if self._text_left < 0:
            raise _too_much_text(self._limits)


@dataclass(frozen=True, slots=True)
class _Part:
    """What a part's head says. `filename` is None for text, and perhaps "" for a file."""

    name: str
    filename: str | None


def _part_of(head: list[Field], number: int) -> _Part:
    """Judge a part's head: RFC 7578 §4.

    Raises:
        HTTPError: there is no name in it, or the content is encoded in a way that we do not know (400).
    """
    fields = dict(reversed(head))
    disposition = parse_parameters(_utf8(fields.get(b"content-disposition", b""), f"the head of part {number}"))
    if disposition is None or disposition[0] != "form-data" or "name" not in disposition[1]:
        raise HTTPError(
            400,
            f'part {number} of the form has no name; it needs Content-Disposition: form-data; name="..." '
            "(RFC 7578 §4.2)",
        )
    parameters = disposition[1]
    name, filename = _raw(parameters["name"]), parameters.get("filename")
    if filename is None and "filename*" in parameters:
        raise HTTPError(
            400, f"the field {name!r} has filename*, which a form must not have; send filename (RFC 7578 §4.2)"
        )
    encoding = fields.get(b"content-transfer-encoding", b"binary").decode("latin-1").lower()
    if encoding not in {"binary", "8bit", "7bit"}:
        raise HTTPError(
            400,
            f"the field {name!r} is sent as {encoding!r}; send it without Content-Transfer-Encoding (RFC 7578 §4.7)",
        )
    if filename is not None:
        return _Part(name, _raw(filename))
    check_charset(charset_of(fields.get(b"content-type", b"").decode("latin-1")), f"the field {name!r}")
    return _Part(name, None)


def _raw(text: str) -> str:
    """A name without what browsers encode in it. They leave % itself, so a raw %22 cannot be told from a quote."""
    return _ENCODED.sub(lambda match: chr(int(match[1], 16)), text)


# What is refused


def _utf8(data: bytes | bytearray, what: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise HTTPError(400, f"{what} is not UTF-8: byte 0x{data[error.start]:02x} at {error.start}") from None


def check_charset(charset: str | None, what: str) -> None:
    """Refuse any charset but UTF-8, if `what` declares one.

    Raises:
        HTTPError: it does (400).
    """
    if charset is not None and not is_utf8(charset):
        raise HTTPError(400, f"{what} is sent in the charset {charset!r}; send it in UTF-8")


def _check_charset_field(fields: Fields) -> None:
    """A browser puts the form's charset into the field `_charset_`: RFC 7578 §4.6."""
    for name, value in fields:
        if name == "_charset_" and isinstance(value, str) and value:
            check_charset(value, "the form")


def _too_much_text(limits: Limits) -> HTTPError:
    return HTTPError(413, f"the text of the form is larger than {limits.form_memory:.0f} bytes")


def _too_many(limits: Limits) -> HTTPError:
    return HTTPError(413, f"the form has more than {limits.form_parts:.0f} fields")
