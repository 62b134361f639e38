"""Parameters: what follows a media type or a disposition in a field value (RFC 9110 §5.6.6), and the charset there.

One reading for both. It takes what RFC 9110 says, and what browsers send beyond it: a backslash in a file's name stands
for itself unless a quote or a backslash follows it, and also at the end of the name. Two parameters of one name are
refused, since two readers might take different ones.
"""

from __future__ import annotations

import re

_PARAMETER = re.compile(
    r"""
    ;[ \t]*
    (?:
        (?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]+)=
        (?:
            "(?P<quoted>(?:[^"\\]|\\.)*)"(?=[ \t]*(?:;|\Z))
            | "(?P<plain>[^"]*)"(?=[ \t]*(?:;|\Z))
            | (?P<token>[^\s;"]+)
        )
    )?
    [ \t]*
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPED = re.compile(r'\\(["\\])')


def parse_parameters(text: str) -> tuple[str, dict[str, str]] | None:
    """What stands before the first semicolon and the parameters behind it, by their names; None if it is malformed.

    The former and the names come in lower case.
    """
    value = text.partition(";")[0]
    position, parameters = len(value), dict[str, str]()
    while position < len(text):
        match = _PARAMETER.match(text, position)
        if match is None:
            return None
        position = match.end()
        if match["name"] is None:
            continue
        name = match["name"].lower()
        if name in parameters:
            return None
        if match["quoted"] is not None:
            parameters[name] = _ESCAPED.sub(r"\1", match["quoted"])
        else:
            parameters[name] = match["token"] or match["plain"]
    return value.strip(" \t").lower(), parameters


def charset_of(content_type: str | None) -> str | None:
    """The charset that a Content-Type declares; None if it declares none, or is malformed."""
    if content_type is None or ";" not in content_type:
        return None
    parsed = parse_parameters(content_type)
    return None if parsed is None else parsed[1].get("charset")


def is_utf8(charset: str) -> bool:
    """True if text in `charset` can be read as UTF-8. ASCII can."""
    return charset.lower() in {"utf-8", "utf8", "us-ascii", "ascii"}
