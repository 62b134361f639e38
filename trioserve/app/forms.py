"""Forms: what an HTML form sends, as text and files in its order: urlencoded, or multipart/form-data (RFC 7578).

A form is read as it arrives. Each part of the body is decoded when it comes and before the next is asked for, so a
client is held back by a slow disk as it is by a slow handler. Text is in memory, up to `Limits.form_memory`; files are
in memory up to the same size once more, and beyond it on disk, until the exchange ends.

Read `form_decoders` for what is refused, and `uploads` for where files are.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from trioserve.app.form_decoders import (
    MULTIPART,
    URLENCODED,
    Decoder,
    MultipartDecoder,
    UrlencodedDecoder,
    check_charset,
)
from trioserve.app.multidict import MultiDict
from trioserve.app.parameters import parse_parameters
from trioserve.app.uploads import Storage, UploadedFile
from trioserve.core.errors import HTTPError
from trioserve.core.limits import Limits

WRITE_SIZE = 262_144
"""Bytes that are written to disk at a time: a thread costs as much as writing so many, some 100 microseconds."""

_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")  # RFC 2046 §5.1.1
_MISSING: Any = object()

D = TypeVar("D")


class Form(MultiDict[str | UploadedFile]):
    """A form's fields in their order: text, and files. See `MultiDict` for how it is read.

    `form.text("name")` and `form.file("photo")` are what a handler mostly wants: the value, or an answer of 400 that
    says what is missing. With a second argument that is the value of a field that is not there.
    """

    __slots__ = ()

    @overload
    def text(self, name: str) -> str: ...
    @overload
    def text(self, name: str, default: D) -> str | D: ...
    def text(self, name: str, default: Any = _MISSING) -> Any:
        """The first value of `name`, which is text.

        Raises:
            HTTPError: it is a file, or there is none and no `default` (400).
        """
        return self._text(name, self._first(name)) if default is _MISSING or name in self else default

    @overload
    def file(self, name: str) -> UploadedFile: ...
    @overload
    def file(self, name: str, default: D) -> UploadedFile | D: ...
    def file(self, name: str, default: Any = _MISSING) -> Any:
        """The first value of `name`, which is a file.

        Raises:
            HTTPError: it is text, or there is none and no `default` (400).
        """
        return self._file(name, self._first(name)) if default is _MISSING or name in self else default

    def texts(self, name: str) -> list[str]:
        """All values of `name`, which are text; empty if there are none.

        Raises:
            HTTPError: one is a file (400).
        """
        return [self._text(name, value) for value in self.get_all(name)]

    def files(self, name: str) -> list[UploadedFile]:
        """All values of `name`, which are files; empty if there are none.

        Raises:
            HTTPError: one is text (400).
        """
        return [self._file(name, value) for value in self.get_all(name)]

    def _first(self, name: str) -> str | UploadedFile:
        value = self.get(name)
        if value is None:
            raise HTTPError(400, f"the form has no field {name!r}")
        return value

    @staticmethod
    def _text(name: str, value: str | UploadedFile) -> str:
        if not isinstance(value, str):
            raise HTTPError(400, f"the form's field {name!r} is a file; send it as text")
        return value

    @staticmethod
    def _file(name: str, value: str | UploadedFile) -> UploadedFile:
        if not isinstance(value, UploadedFile):
            raise HTTPError(400, f"the form's field {name!r} is text; send it as a file, in {MULTIPART}")
        return value


@dataclass(frozen=True, slots=True)
class FormType:
    """How a form is encoded: as a Content-Type says it. `boundary` is None for the urlencoded one."""

    boundary: bytes | None

    @classmethod
    def of(cls, content_type: str | None) -> FormType:
        """Judge a request's Content-Type.

        Raises:
            HTTPError: it is no form's (415, RFC 9110 §15.5.16), or its parameters are malformed (400).
        """
        if content_type is None:
            raise _not_a_form("the request has no Content-Type")
        kind = content_type.partition(";")[0].strip(" \t").lower()
        if kind not in {URLENCODED, MULTIPART}:
            raise _not_a_form(f"the request's Content-Type is {content_type!r}")
        parsed = parse_parameters(content_type)
        if parsed is None:
            raise HTTPError(400, f"the Content-Type is malformed: {content_type!r}")
        _, parameters = parsed
        check_charset(parameters.get("charset"), "the form")
        if kind == URLENCODED:
            return cls(None)
        boundary = parameters.get("boundary", "")
        if not _BOUNDARY.fullmatch(boundary):
            raise HTTPError(
                400,
                f"the Content-Type {MULTIPART} needs the parameter boundary, of 1 to 70 characters as RFC 2046 §5.1.1 "
                "allows them; clients set it when they are left to set the Content-Type",
            )
        return cls(boundary.encode("ascii"))


class FormReader:
    """Reads one form from a body's parts.

    Args:
        form_type: how it is encoded.
        parts: the body, from its beginning. An iterator that can be left and taken up again.
        limits: `form_memory` and `form_parts` bind it.
        resources: closed when the exchange ends; with it everything that the form holds.

    Raises:
        ConfigError: the form is multipart, and python-multipart is not installed.
    """

    __slots__ = ("_decoder", "_failure", "_form", "_parts", "_storage")

    def __init__(
        self, form_type: FormType, parts: AsyncIterator[bytes], limits: Limits, resources: AsyncExitStack
    ) -> None:
        self._parts = parts
        self._storage = Storage(limits.form_memory)
        self._decoder: Decoder = (
            UrlencodedDecoder(limits)
            if form_type.boundary is None
            else MultipartDecoder(form_type.boundary, limits, self._storage)
        )
        resources.push_async_callback(self._storage.aclose)
        self._form: Form | None = None
        # Why there is none; another attempt would go on in the middle.
        self._failure: HTTPError | None = None

    async def read(self) -> Form:
        """The form; the same one when it is asked for again.

        Cancellation: between two parts of the body, and not while one is written to disk: that is waited for. It may
        then be asked for again, and is read on.

        Raises:
            HTTPError: it is malformed (400), or too large (413).
            OSError: it cannot be written to disk.
        """
        if self._failure is not None:
            raise self._failure
        if self._form is None:
            try:
                async for part in self._parts:
                    self._decoder.feed(part)
                    if self._storage.unwritten >= WRITE_SIZE:
                        await self._storage.write()
                fields = self._decoder.end()
            except HTTPError as error:
                self._failure = error
                raise
            if self._storage.unwritten:
                await self._storage.write()
            self._form = Form(fields)
        return self._form


def _not_a_form(why: str) -> HTTPError:
    return HTTPError(
        415, f"{why}; a form is sent as {URLENCODED} or {MULTIPART}", headers={"accept": f"{URLENCODED}, {MULTIPART}"}
    )
