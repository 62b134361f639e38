"""A response's header section, for those who write one.

A response keeps raw fields, as they are sent: (lower-case name, value) in bytes. `MutableHeaders` is the view for
people and holds nothing of its own, so a response that nobody changes pays nothing for it. Whatever comes in by text
is checked here, where the one who wrote it is still in the traceback: a field that HTTP cannot carry, such as a value
with a line break that would forge a further field, is refused when it is set and not when it is sent.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

from trioserve.core.errors import ResponseError
from trioserve.core.fields import field_of
from trioserve.core.messages import Field, Headers

HeaderItems = Mapping[str, str] | Iterable[tuple[str, str]]


class MutableHeaders(Headers):
    """The header section of a response: `response.headers["x-request-id"] = "1"`. Read like any `Headers`.

    Args:
        raw: raw fields. Of a list this is a view: what is set here is set there.

    Raises:
        ResponseError: from whatever sets a field: the name is no token (RFC 9110 §5.1), or one that the server
            sets, such as Transfer-Encoding; or the value is not text of ISO-8859-1, has a control character such as a
            line break, or begins or ends with white space (§5.5).
    """

    __slots__ = ()

    raw: list[Field]

    def __init__(self, raw: Iterable[Field] = ()) -> None:  # it is complete: the parent would make a copy
        self.raw = raw if isinstance(raw, list) else list(raw)

    def add(self, name: str, value: str) -> None:
        """Add a field line; other values of this name stay. For fields that are lists, and for Set-Cookie."""
        self.raw.append(_field(name, value))

    def setdefault(self, name: str, value: str) -> str:
        """The first value of field `name`, which becomes `value` if there is none."""
        field = _field(name, value)
        present = self.get(name)
        if present is not None:
            return present
        self.raw.append(field)
        return value

    def __setitem__(self, name: str, value: str) -> None:
        """Set the field's one value, in the place of its first."""
        field = _field(name, value)
        places = [place for place, (present, _) in enumerate(self.raw) if present == field[0]]
        if not places:
            self.raw.append(field)
            return
        self.raw[places[0]] = field
        for place in reversed(places[1:]):
            del self.raw[place]

    def __delitem__(self, name: str) -> None:
        """Take every value of the field away; no error where there is none."""
        key = name.lower().encode("latin-1", "replace")
        self.raw[:] = [field for field in self.raw if field[0] != key]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Headers) and list(self.raw) == list(other.raw)

    __hash__ = None  # type: ignore[assignment]  # it changes


def fields_of(headers: HeaderItems, content_type: str | None) -> list[Field]:
    """Headers as fields; `content_type` is added unless they have one.

    Raises:
        ResponseError: they are no names and values, or HTTP cannot carry one; see `MutableHeaders`.
    """
    if not headers:
        return [] if content_type is None else [_content_type(content_type)]
    try:
        items = headers.items() if isinstance(headers, Mapping) else headers
        fields = [_field(name, value) for name, value in items]
    except (TypeError, ValueError):
        raise ResponseError(f"headers are a mapping, or pairs of name and value, not {headers!r}") from None
    if content_type is not None and b"content-type" not in [name for name, _ in fields]:
        fields.append(_content_type(content_type))
    return fields


def _field(name: Any, value: Any) -> Field:
    try:
        return field_of(name, value)
    except (TypeError, ValueError) as error:
        raise ResponseError(str(error)) from None


@functools.lru_cache(64)
def _content_type(value: str) -> Field:
    return _field("content-type", value)
