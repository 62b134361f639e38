"""When a client and a server may go over to another protocol (RFC 9110 §7.8)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from trioserve.core.errors import ResponseError
from trioserve.core.fields import SERVERS_OWN, TOKEN
from trioserve.core.messages import Field, RequestHead

_PROTOCOL = re.compile(f"{TOKEN}(?:/{TOKEN})?".encode())
_NOT_IN_101 = frozenset({b"content-length", *SERVERS_OWN})


def check_switch(head: RequestHead, fields: Sequence[Field]) -> None:
    """See that the client has asked for what the fields of a 101 say.

    It has, if it speaks HTTP/1.1 and names the protocol in Upgrade, with the connection option upgrade beside it; one
    malformed name spoils all. The answer has both as well.

    Raises:
        ResponseError: it has not, or the answer has not, or a field has no place in a 101.
    """
    offered = _protocols(head.fields) if head.http_version == "1.1" else ()
    if not offered:
        raise ResponseError("101 was not asked for: the request has no Upgrade field with its connection option")
    lowered = [(name.lower(), value) for name, value in fields]
    for name, _ in lowered:
        if name in _NOT_IN_101:
            raise ResponseError(f"the 101 has {name.decode()}; leave it out, as what follows is no content of HTTP")
    chosen = _protocols(lowered)
    if not chosen or not set(chosen).issubset(offered):
        raise ResponseError(
            "the 101 does not say in Upgrade, with the connection option upgrade, which of the protocols that the "
            "client offers it changes to (RFC 9110 §7.8)"
        )


def _protocols(fields: Iterable[Field]) -> Sequence[bytes]:
    """The protocols of Upgrade, their names in lower case and their versions as they are; none if one is malformed, or
    the connection option is missing.
    """
    upgrade = _members(fields, b"upgrade")
    if b"upgrade" not in [option.lower() for option in _members(fields, b"connection")]:
        return ()
    if not all(map(_PROTOCOL.fullmatch, upgrade)):
        return ()
    parts = [protocol.partition(b"/") for protocol in upgrade]
    return [name.lower() + slash + version for name, slash, version in parts]


def _members(fields: Iterable[Field], name: bytes) -> list[bytes]:
    """What a field that is a list has for members (RFC 9110 §5.6.1)."""
    values = b",".join([value for field_name, value in fields if field_name == name])
    return [member for part in values.split(b",") if (member := part.strip(b" \t"))]
