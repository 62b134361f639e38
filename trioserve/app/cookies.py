"""Cookies: reading the Cookie field, and writing Set-Cookie (RFC 6265, and its revision RFC 6265bis). Pure.

Reading is lenient: it never fails, since what a client sends in this field is often another application's doing. What
is no `name=value` is passed over. It is strict in one thing: only what the RFC calls white space, space and tab, is
taken off a name. Whoever takes off more lets " __Host-x" with some exotic space pass for "__Host-x", which a browser
had no reason to protect.

Writing is strict: a value that browsers would cut, or a cookie that they would throw away, is refused with advice.

The standard library's `http.cookies` is not used: its reader gives up at the first pair that it does not understand,
and its writer quotes values with octal escapes that no browser decodes, checks none of the rules that browsers apply,
and learned Partitioned only in Python 3.14.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Literal

from trioserve.core.errors import ResponseError
from trioserve.core.fields import TOKEN

SameSite = Literal["strict", "lax", "none"]

_TOKEN = re.compile(TOKEN)
_COOKIE_OCTETS = re.compile(r"[!#-+\--:<-\[\]-~]*")  # RFC 6265 §4.1.1: no space, quote, comma, semicolon or backslash
_PATH = re.compile(r"/[ -:<-~]*")
_DOMAIN = re.compile(r"\.?[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*")

LARGEST = 4096
"""Bytes of a name and its value together; browsers throw larger cookies away (RFC 6265bis §5.6)."""


def parse_cookies(values: Iterable[str]) -> dict[str, str]:
    """The cookies of a request, from the values of its Cookie fields.

    Of several cookies with one name the first counts: browsers send the one with the more specific path first (RFC
    6265 §5.4). Quotes around a value are taken off. A value is otherwise as it was set: who has encoded it decodes it.
    Bytes beyond ASCII, which only scripts can set, are read as the UTF-8 that browsers send.
    """
    cookies: dict[str, str] = {}
    for field in values:
        for pair in field.split(";"):
            name, separator, value = pair.partition("=")
            name, value = name.strip(" \t"), value.strip(" \t")
            if not separator or not name:
                continue
            if len(value) >= 2 and value[0] == value[-1] == '"':
                value = value[1:-1]
            cookies.setdefault(_as_utf_8(name), _as_utf_8(value))
    return cookies


def _as_utf_8(text: str) -> str:
    """Text that was read as ISO-8859-1, read as UTF-8 if it is that."""
    if text.isascii():
        return text
    try:
        return text.encode("latin-1").decode()
    except UnicodeError:
        return text


def cookie_field(
    name: str,
    value: str,
    *,
    max_age: int | None,
    expires: datetime | None,
    path: str,
    domain: str | None,
    secure: bool,
    http_only: bool,
    same_site: SameSite,
    partitioned: bool,
) -> str:
    """The value of a Set-Cookie field. What the arguments mean stands at `Response.set_cookie`.

    Raises:
        ResponseError: browsers would not keep this cookie, or not as it is meant.
    """
    _check_pair(name, value)
    _check_needs(name, path=path, domain=domain, secure=secure, same_site=same_site, partitioned=partitioned)
    parts = [f"{name}={value}"]
    if max_age is not None:
        if not isinstance(max_age, int) or isinstance(max_age, bool):
            raise ResponseError(f"cookie {name}: max_age={max_age!r}; it is a whole number of seconds")
        parts.append(f"Max-Age={max_age}")
    if expires is not None:
        if not isinstance(expires, datetime) or expires.tzinfo is None:
            raise ResponseError(
                f"cookie {name}: expires={expires!r}; it is a datetime with a time zone, such as datetime.now(UTC) + "
                "timedelta(days=30)"
            )
        parts.append(f"Expires={format_datetime(expires.astimezone(UTC), usegmt=True)}")
    if domain is not None:
        parts.append(f"Domain={domain}")
    parts.append(f"Path={path}")
    if secure:
        parts.append("Secure")
    if http_only:
        parts.append("HttpOnly")
    parts.append(f"SameSite={same_site.capitalize()}")
    if partitioned:
        parts.append("Partitioned")
    return "; ".join(parts)


def _check_pair(name: str, value: str) -> None:
    if not isinstance(name, str) or not _TOKEN.fullmatch(name):
        raise ResponseError(f"{name!r} is no name of a cookie; it may have letters, digits and !#$%&'*+.^_`|~-")
    if not isinstance(value, str):
        raise ResponseError(f"cookie {name}: the value is text, not {type(value).__name__}")
    if not _COOKIE_OCTETS.fullmatch(value):
        raise ResponseError(
            f"cookie {name}: the value has a character that cookies cannot carry (white space, a quote, comma, "
            "semicolon, backslash, or one beyond ASCII); encode it, with urllib.parse.quote and unquote for example"
        )
    if len(name) + len(value) > LARGEST:
        raise ResponseError(
            f"cookie {name}: name and value have {len(name) + len(value)} bytes; browsers keep {LARGEST} at most. Keep "
            "the data at the server, and its key in the cookie"
        )


def _check_needs(
    name: str, *, path: str, domain: str | None, secure: bool, same_site: SameSite, partitioned: bool
) -> None:
    """What one attribute, or the name's prefix, demands of the others: browsers ignore the cookie otherwise."""
    if not isinstance(path, str) or not _PATH.fullmatch(path):
        raise ResponseError(f"cookie {name}: path={path!r}; it begins with a slash and is ASCII without semicolons")
    if domain is not None and not (isinstance(domain, str) and _DOMAIN.fullmatch(domain)):
        raise ResponseError(f"cookie {name}: domain={domain!r}; it is a host name in ASCII, such as example.com")
    if same_site not in {"strict", "lax", "none"}:
        raise ResponseError(f'cookie {name}: same_site={same_site!r}; it is "strict", "lax" or "none"')
    if not secure and same_site == "none":
        raise ResponseError(f'cookie {name}: same_site="none" needs secure=True')
    if not secure and partitioned:
        raise ResponseError(f"cookie {name}: partitioned=True needs secure=True")
    prefix = name.lower()
    if not secure and prefix.startswith(("__secure-", "__host-")):
        raise ResponseError(f"cookie {name}: this prefix needs secure=True")
    if prefix.startswith("__host-") and (path != "/" or domain is not None):
        raise ResponseError(f'cookie {name}: the prefix __Host- needs path="/" and no domain')
