r"""The PROXY protocol, versions 1 and 2, on the side that receives: who a proxy says that it speaks for.

A proxy that passes a connection on without understanding it (HAProxy in TCP mode, a network load balancer) sends a
header before all else: `PROXY TCP4 192.0.2.1 192.0.2.2 51234 443\r\n`, or the same in binary. HAProxy's
doc/proxy-protocol.txt describes both, and the sections named here are its.

Rules:

* Never guessed (§2): where a header is asked for, one must come, and nothing is done before it is whole and right. What
  begins otherwise is refused at its first wrong byte. Where none is asked for, one is malformed like any other garbage.
* A header that names nobody (UNKNOWN, LOCAL, UNSPEC, and what HTTP over TCP does not meet: UDP and Unix sockets) is
  right, and the connection counts as the proxy's own (§2.1, §2.2).
* What version 2 adds behind the addresses is skipped unread, its checksum included: that is for proxies on lines less
  reliable than TCP, and who can send a header at all can send a right one.
* At most 107 bytes (§2.1), or `LONGEST_V2`.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple

from trioserve.core.addresses import IpAddress, unmapped
from trioserve.core.errors import TrioserveError
from trioserve.core.records import ClientAddress

LONGEST_V2 = 4096
"""Bytes, nginx's own limit. Addresses take 232 at the most; the rest is for a client's certificate, say."""

_LONGEST_V1: Final = 107
_V1: Final = b"PROXY "
_V2: Final = b"\r\n\r\n\0\r\nQUIT\n"
# What stands before the addresses of version 2.
_FIXED: Final = 16

# §2.1: exactly one space between two words, and numbers without zeros in front of them.
_V1_LINE: Final = re.compile(
    rb"PROXY (?:UNKNOWN(?: .*)?|TCP(?P<family>[46]) (?P<source>[0-9a-fA-F.:]+) (?P<target>[0-9a-fA-F.:]+)"
    rb" (?P<port>0|[1-9][0-9]{0,4}) (?P<target_port>0|[1-9][0-9]{0,4}))"
)


class ProxyHeaderError(TrioserveError):
    """The bytes are no PROXY protocol header, and cannot become one."""


class ProxyHeader(NamedTuple):
    """A header: how many bytes it takes, and the client that it names; None if it names nobody."""

    size: int
    client: ClientAddress | None


def parse_proxy_header(data: bytes) -> ProxyHeader | None:
    """The header with which `data` begins; None if more bytes are needed. What follows it may be there already.

    Raises:
        ProxyHeaderError: `data` does not begin with a header.
    """
    if _begins_alike(data, _V1):
        return _parse_v1(data)
    if _begins_alike(data, _V2):
        return _parse_v2(data)
    raise ProxyHeaderError("no PROXY protocol header comes first, as this address asks for")


def _begins_alike(data: bytes, signature: bytes) -> bool:
    """True as far as both go."""
    return data[: len(signature)] == signature[: len(data)]


def _parse_v1(data: bytes) -> ProxyHeader | None:
    line = data[:_LONGEST_V1]
    end = line.find(b"\r\n")
    # A CR at the end may be half of what we look for.
    text = line.removesuffix(b"\r") if end == -1 else line[:end]
    if b"\r" in text or b"\n" in text:
        raise ProxyHeaderError("the line of the PROXY protocol does not end with CR and LF")
    if end == -1:
        if len(data) >= _LONGEST_V1:
            raise ProxyHeaderError(f"the line of the PROXY protocol is longer than {_LONGEST_V1} bytes")
        return None
    match = _V1_LINE.fullmatch(text)
    if match is None:
        raise ProxyHeaderError("the line of the PROXY protocol is malformed")
    client = None
    if match["family"] is not None:
        kind = IPv4Address if match["family"] == b"4" else IPv6Address
        client = (str(unmapped(_ip_v1(kind, match["source"]))), _port_v1(match["port"]))
        # Not of interest, but to be right as well.
        _ip_v1(kind, match["target"])
        _port_v1(match["target_port"])
    return ProxyHeader(end + 2, client)


def _ip_v1(kind: type[IPv4Address | IPv6Address], text: bytes) -> IpAddress:
    try:
        return kind(text.decode("ascii"))
    except ValueError:
        raise ProxyHeaderError("the line of the PROXY protocol has a malformed address") from None


def _port_v1(text: bytes) -> int:
    port = int(text)
    if port > 65_535:
        raise ProxyHeaderError("the line of the PROXY protocol has a port above 65535")
    return port


# Version 2, §2.2. The upper half of the 13th byte is the version, the lower one the command; of the 14th, the family of
# addresses and the kind of socket.
_VERSION: Final = 0x2
_LOCAL, _PROXY = 0x0, 0x1
_LAST_FAMILY, _LAST_SOCKET = 0x3, 0x2  # UNIX, DGRAM
# (family, socket) of TCP: the kind of its addresses, and the size of one.
_TCP: Final[dict[tuple[int, int], tuple[type[IPv4Address | IPv6Address], int]]] = {
    (0x1, 0x1): (IPv4Address, 4),
    (0x2, 0x1): (IPv6Address, 16),
}


def _parse_v2(data: bytes) -> ProxyHeader | None:
    if len(data) > len(_V2):
        version, command = divmod(data[len(_V2)], 16)
        if version != _VERSION or command not in {_LOCAL, _PROXY}:
            raise ProxyHeaderError(f"version {version} and command {command} of the PROXY protocol are not known")
    if len(data) < _FIXED:
        return None
    size = _FIXED + int.from_bytes(data[14:_FIXED])
    if size > LONGEST_V2:
        raise ProxyHeaderError(f"the header of the PROXY protocol is longer than {LONGEST_V2} bytes")
    if command == _LOCAL:  # then the family is ignored, whatever it is
        return ProxyHeader(size, None) if len(data) >= size else None
    family, socket = divmod(data[13], 16)
    if family > _LAST_FAMILY or socket > _LAST_SOCKET:
        raise ProxyHeaderError(f"family {family} and socket {socket} of the PROXY protocol are not known")
    kind, width = _TCP.get((family, socket), (None, 0))
    if kind is None:
        return ProxyHeader(size, None) if len(data) >= size else None
    # Source, target, the source's port, the target's.
    ports = _FIXED + 2 * width
    if size < ports + 4:
        raise ProxyHeaderError("the header of the PROXY protocol is too short for its addresses")
    if len(data) < size:
        return None
    source = kind(bytes(data[_FIXED : _FIXED + width]))
    return ProxyHeader(size, (str(unmapped(source)), int.from_bytes(data[ports : ports + 2])))
