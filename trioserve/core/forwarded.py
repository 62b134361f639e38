"""What proxies say of a request that they pass on: for whom they do it, by which scheme, and for which host.

They say it in fields: X-Forwarded-For, -Proto and -Host, or Forwarded (RFC 7239). Whoever can send us a request can
write them too. So:

* They are believed from a peer only that is listed as trusted; from others they are not looked at.
* Each proxy adds at the right whom it was spoken to by. So one walks from the right, as long as who was reached is
  trusted, and the first who is not is the client (the rightmost-untrusted rule). What stands left of it was written by
  the client or by others that nobody knows. If all are trusted, it is the leftmost.
* Where a trusted proxy names no address ("unknown", "_hidden", garbage), the walk ends too, and the client is the last
  that is known, that proxy. So it is never somebody whom no trusted peer vouches for.
* In Forwarded, what a proxy says of scheme and host stands beside whom it was spoken to by: so what the outermost
  trusted proxy says prevails. X-Forwarded-Proto and -Host have nothing that tells who wrote what, and proxies that add
  are mixed with those that replace: only the rightmost is believed, the word of the peer itself.
* A scheme other than http and https (ws and wss are the same), and what no Host field could be, count as not said.
* Which of the two kinds a proxy writes, nobody can see; the other would be the client's, passed on. A request that has
  both is refused (400), unless it is said which one the proxies write, and then the other is not looked at.

A port that is not said is 0.

Elements of Forwarded are read from the right as well, each for itself: a client may have begun a quoted string that it
does not end, to swallow what its proxy adds behind it. That an element is taken for one within another's quoted string
cannot be: such a part has an odd number of quotes.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from trioserve.core.addresses import IpNetwork, parse_ip, parse_network
from trioserve.core.errors import ConfigError, RequestError
from trioserve.core.fields import TOKEN
from trioserve.core.messages import Field
from trioserve.core.records import ClientAddress
from trioserve.core.target import Scheme, parse_authority

UNIX = "unix"
"""Stands among the trusted proxies for whoever connects to a Unix socket."""


class ForwardedFields(StrEnum):
    """In which fields trusted proxies say for whom they pass on a request."""

    EITHER = "either"  # one kind or the other; a request that has both is refused
    X_FORWARDED = "x-forwarded"  # X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host
    FORWARDED = "forwarded"  # Forwarded: RFC 7239


class Forwarded(NamedTuple):
    """What is known of a request from who passed it on. `scheme` and `authority` are None if nobody has said them."""

    client: ClientAddress | None
    scheme: Scheme | None = None
    authority: str | None = None


_FORWARDED: Final = b"forwarded"
_FOR, _PROTO, _HOST = b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"
_X_FORWARDED: Final = frozenset({_FOR, _PROTO, _HOST})
_BELIEVED: Final = {
    ForwardedFields.EITHER: _X_FORWARDED | {_FORWARDED},
    ForwardedFields.X_FORWARDED: _X_FORWARDED,
    ForwardedFields.FORWARDED: frozenset({_FORWARDED}),
}


class TrustedProxies:
    """The peers whose word is believed, and the fields in which they give it.

    Args:
        networks: addresses and networks as text, and "unix".
        fields: what they write.

    Raises:
        ConfigError: one of the networks is none.
    """

    def __init__(self, networks: Sequence[str], fields: ForwardedFields = ForwardedFields.EITHER) -> None:
        self._networks = [_network(text) for text in networks if text != UNIX]
        self._unix = UNIX in networks
        self._believed = _BELIEVED[fields]
        # The same few peers come again and again.
        self._is_covered = functools.lru_cache(256)(self._look_up)

    def trusts(self, client: ClientAddress | None) -> bool:
        """True if this peer is listed; None is one of a Unix socket."""
        return self._unix if client is None else self._is_covered(client[0])

    def _look_up(self, host: str) -> bool:
        address = parse_ip(host.partition("%")[0])  # of a peer that the system names, there may be a zone
        return any(address in network for network in self._networks)

    def forwarded(self, peer: ClientAddress | None, fields: Sequence[Field]) -> Forwarded:
        """What is known of a request with these fields, that this peer has sent.

        Raises:
            RequestError: there are fields of both kinds, and it is not said which one is written by the proxies (400).
        """
        if not self.trusts(peer):
            return Forwarded(peer)
        lines: dict[bytes, list[str]] = {}
        for name, value in fields:
            if name in self._believed:
                lines.setdefault(name, []).append(value.decode("latin-1"))
        if _FORWARDED not in lines:
            return self._walk(_last_x_forwarded(peer, lines), _x_forwarded_for(lines))
        if len(lines) > 1:
            raise RequestError(
                400,
                "the request has both Forwarded and X-Forwarded fields, and nobody can see which of them a proxy has "
                "written; let the proxy remove the other, or tell the server which to believe (forwarded_fields)",
            )
        return self._walk(Forwarded(peer), _elements_of(lines[_FORWARDED]))

    def _walk(self, known: Forwarded, further: Iterable[Forwarded]) -> Forwarded:
        """Go on from a trusted peer, as long as who is reached is trusted."""
        for client, scheme, authority in further:
            known = Forwarded(client or known.client, scheme or known.scheme, authority or known.authority)
            if client is None or not self.trusts(client):
                break
        return known


def _network(text: str) -> IpNetwork:
    try:
        return parse_network(text)
    except ValueError as error:
        raise ConfigError(f'Config.trusted_proxies: {error}; for Unix sockets there is "{UNIX}"') from None


# X-Forwarded-...: lists, of which each proxy may add to the last line or add a line.


def _from_right(lines: Sequence[str]) -> Iterator[str]:
    """The members of a list field (RFC 9110 §5.6.1), from right to left. Empty ones are none."""
    for line in reversed(lines):
        for member in reversed(line.split(",")):
            if text := member.strip(" \t"):
                yield text


def _last_x_forwarded(peer: ClientAddress | None, lines: Mapping[bytes, Sequence[str]]) -> Forwarded:
    scheme, host = (next(_from_right(lines.get(name, ())), "") for name in (_PROTO, _HOST))
    return Forwarded(peer, _scheme(scheme), parse_authority(host))


def _x_forwarded_for(lines: Mapping[bytes, Sequence[str]]) -> Iterator[Forwarded]:
    for text in _from_right(lines.get(_FOR, ())):
        yield Forwarded(_node(text))


_SCHEMES: Final[dict[str, Scheme]] = {"http": "http", "https": "https", "ws": "http", "wss": "https"}


def _scheme(text: str) -> Scheme | None:
    return _SCHEMES.get(text.lower())


# RFC 7239 §6; and as X-Forwarded-For mostly has IPv6 addresses, without brackets.
_NODE: Final = re.compile(
    r"(?:(?P<ipv4>[0-9.]++)|\[(?P<ipv6>[0-9A-Fa-f.]*+:[0-9A-Fa-f:.]*+)\])"
    r"(?::(?P<port>[0-9]{1,5}|_[0-9A-Za-z._-]++))?|(?P<bare>[0-9A-Fa-f:.]++)"
)


def _node(text: str) -> ClientAddress | None:
    """Whom a proxy names; None if this is no address."""
    match = _NODE.fullmatch(text)
    if match is None:
        return None
    port = match["port"] or "0"
    if port.startswith("_"):  # hidden on purpose, and that of a proxy is of no use to anybody
        port = "0"
    try:
        address = parse_ip(match["ipv4"] or match["ipv6"] or match["bare"])
    except ValueError:
        return None
    return (str(address), int(port)) if int(port) <= 65_535 else None


# Forwarded: a list of elements `name=value;name=value` (RFC 7239 §4). Common slips are let through: white space around
# the semicolon, and values with a colon or brackets, such as an address with its port, without quotes.
_QUOTED: Final = r'"(?P<quoted>(?:[^"\\]|\\.)*+)"'
_VALUE: Final = rf"(?P<value>(?:{TOKEN}|[:\[\]]+)++)"
_PAIR: Final = re.compile(rf"[ \t]*+(?:(?P<name>{TOKEN})=(?:{_QUOTED}|{_VALUE}))?[ \t]*+(?:;|\Z)")
_ESCAPED: Final = re.compile(r"\\(.)")

_LONGEST_ELEMENT: Final = 1024
"""Characters. Four values, the longest a host's name of 255. It bounds the search for where a malformed one begins."""


def _elements_of(lines: Sequence[str]) -> Iterator[Forwarded]:
    """The elements from right to left, as far as they can be read."""
    for line in reversed(lines):
        end = len(line)
        while end >= 0:
            start, pairs = _last_element(line, end)
            if pairs is None:
                return
            if line[start:end].strip(" \t"):
                yield Forwarded(
                    _node(pairs.get("for", "")), _scheme(pairs.get("proto", "")), parse_authority(pairs.get("host", ""))
                )
            end = start - 1


def _last_element(line: str, end: int) -> tuple[int, dict[str, str] | None]:
    """Where the last element of line[:end] begins, and its pairs; these are None if it cannot be read."""
    lowest = max(end - _LONGEST_ELEMENT, 0)
    comma = end
    while (comma := line.rfind(",", lowest, comma)) != -1:
        pairs = _pairs(line, comma + 1, end)
        if pairs is not None:
            return comma + 1, pairs
    return 0, None if lowest else _pairs(line, 0, end)


def _pairs(line: str, start: int, end: int) -> dict[str, str] | None:
    """The pairs of the element line[start:end], names in lower case; None if it is none, or has a name twice."""
    pairs: dict[str, str] = {}
    while start < end:
        match = _PAIR.match(line, start, end)
        if match is None:
            return None
        start = match.end()
        name = match["name"]
        if name is not None:
            name, quoted = name.lower(), match["quoted"]
            if name in pairs:
                return None
            pairs[name] = match["value"] if quoted is None else _ESCAPED.sub(r"\1", quoted)
    return pairs
