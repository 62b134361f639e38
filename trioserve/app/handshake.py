"""The handshake of a WebSocket: what a client must ask for, and what the 101 says (RFC 6455 §4.2). Pure.

A wrong handshake is answered as HTTP: 426 where none was asked for, or one of another version, and 400 for the rest.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence

from trioserve.core.errors import HTTPError, ResponseError
from trioserve.core.messages import Field, Headers, RequestHead

_VERSION = "13"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3

_NOT_TO_SET = frozenset(
    {b"connection", b"upgrade", b"content-length", b"transfer-encoding"}
    | {b"sec-websocket-" + name for name in (b"accept", b"extensions", b"protocol", b"version")}
)
"""Fields of the 101 that belong to the handshake, or that HTTP forbids there."""


def is_websocket_upgrade(head: RequestHead) -> bool:
    """True if the client asks for a WebSocket. Whether its handshake is right is another question."""
    if head.method != "GET" or head.http_version != "1.1":
        return False  # in an HTTP/1.0 request Upgrade is to be ignored: RFC 9110 §7.8
    headers = head.headers
    return "websocket" in _tokens(headers, "upgrade") and "upgrade" in _tokens(headers, "connection")


def check_handshake(head: RequestHead) -> None:
    """Refuse what is no handshake for a WebSocket of version 13 (RFC 6455 §4.2.1).

    Raises:
        HTTPError: 426, if the client asks for no WebSocket or for another version; 400, if its handshake is wrong.
    """
    asked_for = {"upgrade": "websocket", "connection": "Upgrade", "sec-websocket-version": _VERSION}
    if not is_websocket_upgrade(head):
        raise HTTPError(426, "this address speaks WebSocket", headers=asked_for)
    headers = head.headers
    if headers.get_all("sec-websocket-version") != [_VERSION]:
        raise HTTPError(426, f"this server speaks version {_VERSION} of WebSocket", headers=asked_for)
    keys = headers.get_all("sec-websocket-key")
    if len(keys) != 1 or not _is_key(keys[0]):
        raise HTTPError(400, "a WebSocket handshake has one Sec-WebSocket-Key: 16 bytes in Base64")
    if head.content_length != 0:
        raise HTTPError(400, "a WebSocket handshake has no content")


def _is_key(key: str) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False


def _tokens(headers: Headers, name: str) -> list[str]:
    """The members of a field that is a list of tokens, in lower case."""
    return [member.lower() for member in _members(headers, name)]


def _members(headers: Headers, name: str) -> list[str]:
    return [member.strip() for member in ",".join(headers.get_all(name)).split(",") if member.strip()]


def subprotocols(headers: Headers) -> list[str]:
    """The subprotocols that a client offers, the one that it likes best first (RFC 6455 §1.9)."""
    return _members(headers, "sec-websocket-protocol")


def accepting_fields(headers: Headers, subprotocol: str | None, further: Sequence[Field]) -> list[Field]:
    """The fields of the 101 that accepts a client's handshake.

    Raises:
        ResponseError: the client does not offer `subprotocol`, or one of the `further` fields cannot be set.
    """
    key = headers["sec-websocket-key"].encode("latin-1")
    digest = hashlib.sha1(key + _GUID, usedforsecurity=False).digest()
    fields = [
        (b"upgrade", b"websocket"),
        (b"connection", b"Upgrade"),
        (b"sec-websocket-accept", base64.b64encode(digest)),
    ]
    if subprotocol is not None:
        if subprotocol not in subprotocols(headers):
            raise ResponseError(f"the client offers {subprotocols(headers)}, not the subprotocol {subprotocol!r}")
        fields.append((b"sec-websocket-protocol", subprotocol.encode("latin-1")))
    for name, value in further:
        if name in _NOT_TO_SET:
            raise ResponseError(f"{name.decode()!r} is not yours to set in a WebSocket's handshake")
        fields.append((name, value))
    return fields
