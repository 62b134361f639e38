"""For whom a request is: its target and its Host field, held together (RFC 9112 §3.2-3.3, RFC 9110 §7.1-7.2).

Whoever stands between a client and us, a cache or a filter, decides by these two what a request asks for, and so do we.
So nothing passes that two readers could read in two ways. There are four forms of a target:

* *origin-form*, a path with perhaps a query: for whom it is, says Host alone;
* *absolute-form*, an http or https URI: says it itself. It prevails over Host, which has to say the same. Its scheme is
  that by which the client made the request (`check_scheme`);
* *authority-form*, host and port: of CONNECT, and of nothing else;
* *asterisk-form*: of OPTIONS, and of nothing else.

Every request above HTTP/1.0 has one Host, and a 1.0 request at most one. Its value is a host by the grammar of RFC 3986
with perhaps a port, or empty, by which a client says that it knows of none. The characters of a target are those of a
URI (RFC 3986 §2), and every % begins a percent-encoding. Only square brackets are let through where that grammar would
have them encoded: browsers send them as they are (`?a[]=1`), and nobody reads them otherwise.

The usual request, a path and a Host that came before, costs a look through the fields and one regular expression.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Sequence
from typing import Final, Literal
from urllib.parse import quote

from trioserve.core.errors import RequestError
from trioserve.core.messages import Field

Scheme = Literal["http", "https"]
"""The schemes that there are for us: RFC 9110 §4.2."""

DEFAULT_PORTS: Final[dict[str, int]] = {"http": 80, "https": 443}
"""With their ports."""

_UNRESERVED_AND_SUB_DELIMS = r"A-Za-z0-9._~!$&'()*+,;=\-"
_ENCODED = "%[0-9A-Fa-f]{2}"
_IN_TARGET = rf"[{_UNRESERVED_AND_SUB_DELIMS}:@/?\[\]]"

_ORIGIN_FORM = re.compile(rf"/(?:{_IN_TARGET}++|{_ENCODED})*+")
_FLAW = re.compile(rf"(?!{_IN_TARGET}|{_ENCODED}).", re.DOTALL)
_URI = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]*+)://(?P<authority>[^/?#]*+)(?P<rest>.*+)", re.DOTALL)
_ONLY_AUTHORITY = re.compile(r"[^/?:]++://[^/?]++")
_AUTHORITY = re.compile(
    rf"(?P<host>(?:[{_UNRESERVED_AND_SUB_DELIMS}]++|{_ENCODED})++"
    rf"|\[(?P<ipv6>[0-9A-Fa-f:.]++)\]|\[[vV][0-9A-Fa-f]++\.[{_UNRESERVED_AND_SUB_DELIMS}:]++\])"
    r"(?::(?P<port>[0-9]*+))?"
)
# What a refusal shows of what the client sent.
_SHOWN = 80


def host_of(http_version: str, fields: Sequence[Field]) -> str | None:
    """What Host says: "" if it is empty, None if there is none.

    Raises:
        RequestError: it is no host, or not one, and not allowed to be missing (400).
    """
    hosts = [value for name, value in fields if name == b"host"]
    if len(hosts) == 1:
        host = _of_host(hosts[0])
        if host is None:
            raise RequestError(
                400,
                f"the Host field is {_shown(hosts[0].decode('latin-1'))}; it must be a host, such as example.com or "
                "[::1], with perhaps a port (RFC 9110 §7.2)",
            )
        return host
    if hosts:
        raise RequestError(400, f"the request has {len(hosts)} Host fields; it must have one (RFC 9112 §3.2)")
    if http_version != "1.0":
        raise RequestError(400, "the request has no Host field; since HTTP/1.1 it must have one (RFC 9112 §3.2)")
    return None


def authority_of(method: str, target: str, host: str | None) -> str | None:
    """For whom a request is: "host" or "host:port" in lower case, as the client says it. None if it says nothing.

    `host` is what `host_of` its fields says.

    Raises:
        RequestError: the target is none for this method, or contradicts Host (400).
    """
    if target.startswith("/") and method != "CONNECT":
        if _ORIGIN_FORM.fullmatch(target) is None:
            raise RequestError(400, _flaw(target))
        return host or None
    if target == "*" and method == "OPTIONS":
        return host or None
    authority, default_port = _of_connect(target) if method == "CONNECT" else _of_uri(target)
    if host is not None and host.removesuffix(default_port) != authority.removesuffix(default_port):
        raise RequestError(
            400, f"the request target is for {_shown(authority)}, but Host says {_shown(host)} (RFC 9112 §3.2)"
        )
    return authority


def check_scheme(target: str, scheme: Scheme) -> None:
    """Refuse a valid target that is a URI of another scheme than the one by which the client made its request.

    Raises:
        RequestError: so it is (421, RFC 9110 §7.4).
    """
    if not target.startswith("/"):
        asked_for, separator, _ = target.lower().partition("://")
        if separator and asked_for != scheme:
            raise RequestError(
                421, f"the request target is for {asked_for}, but the request was made by {scheme} (RFC 9110 §7.4)"
            )


def is_for_server(method: str, target: str) -> bool:
    """True for OPTIONS that asks about the server as a whole, and about no resource of it (RFC 9110 §9.3.7).

    As a URI, such a target has no path and no query (RFC 9112 §3.2.4).
    """
    return method == "OPTIONS" and (target == "*" or _ONLY_AUTHORITY.fullmatch(target) is not None)


def path_of(target: str) -> str:
    """The path of a valid target in origin-form ("/x?y") or absolute-form ("http://host/x?y"); others are their own."""
    if not target.startswith("/"):
        scheme, separator, rest = target.partition("://")
        if scheme and separator:
            target = "/" + rest.partition("?")[0].partition("/")[2]
    return target.partition("?")[0]


@functools.lru_cache(128)  # few, since a client may send ever new ones, each as long as a field may be
def _of_host(value: bytes) -> str | None:
    """A Host field's value as authority; None if it is none."""
    return parse_authority(value.decode("latin-1")) if value else ""


def parse_authority(text: str) -> str | None:
    """`uri-host [ ":" port ]` (RFC 9110 §7.2) in lower case, the port without zeros before it, left out if it is empty.

    None if it is something else.
    """
    match = _AUTHORITY.fullmatch(text)
    if match is None:
        return None
    host, ipv6, port = match["host"].lower(), match["ipv6"], match["port"]
    if ipv6 is not None and not _is_ipv6(ipv6):
        return None
    if not port:
        return host
    number = port.lstrip("0")
    return f"{host}:{number}" if 0 < len(number) <= len("65535") and int(number) <= 65_535 else None


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _of_connect(target: str) -> tuple[str, str]:
    """The authority, and no default port: CONNECT names it always."""
    authority = parse_authority(target)
    if authority is None or authority.endswith("]") or ":" not in authority:
        raise RequestError(400, f"CONNECT is for a host and a port, not for {_shown(target)} (RFC 9112 §3.2.3)")
    return authority, ""


def _of_uri(target: str) -> tuple[str, str]:
    """The authority of a target in absolute-form, and how one ends that has its scheme's default port."""
    if target == "*":
        raise RequestError(400, "only OPTIONS can have the request target * (RFC 9112 §3.2.4)")
    match = _URI.fullmatch(target)
    if match is None:
        raise RequestError(
            400, f"the request target is {_shown(target)}; it must be a path that begins with / (RFC 9112 §3.2.1)"
        )
    scheme = match["scheme"].lower()
    if scheme not in DEFAULT_PORTS:
        raise RequestError(400, f"the request target has the scheme {_shown(scheme)}; this server has http and https")
    authority = parse_authority(match["authority"])
    if authority is None:
        if "@" in match["authority"]:
            raise RequestError(400, "the request target has a user; leave user and password out (RFC 9110 §4.2.4)")
        raise RequestError(
            400, f"the request target has the host {_shown(match['authority'])}, which is none (RFC 9110 §4.2)"
        )
    path = match["rest"]
    if _ORIGIN_FORM.fullmatch(path if path.startswith("/") else "/" + path) is None:
        raise RequestError(400, _flaw(path))
    return authority, f":{DEFAULT_PORTS[scheme]}"


def _flaw(target: str) -> str:
    """What is wrong with the first character that a target must not have, and what to send instead."""
    match = _FLAW.search(target)
    assert match is not None, "a path has no other flaw than a character"
    if match[0] == "#":
        return "the request target has a fragment; leave it out, or send # as %23 (RFC 9110 §7.1)"
    if match[0] == "%":
        return (
            "the request target has a % without two hexadecimal digits behind it; send a percent sign as %25 "
            "(RFC 3986 §2.1)"
        )
    encoded = quote(match[0], safe="", errors="replace")
    return f"the request target has the character {match[0]!r}; send it as {encoded} (RFC 3986 §2)"


def _shown(text: str) -> str:
    return ascii(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")
