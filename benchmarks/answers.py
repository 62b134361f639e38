"""Reads answers from a blocking socket: whole ones with a Content-Length, whose content is known."""

from __future__ import annotations

import socket

HELLO = b"Hello, world!"
"""What the servers answer to GET /."""


def request(host: str = "127.0.0.1", path: str = "/") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


def hello(sock: socket.socket) -> None:
    """Ask for / and take in the whole answer.

    Raises:
        OSError: the connection broke, or the socket's timeout passed (TimeoutError).
        ValueError: the answer is another one.
    """
    sock.sendall(request())
    status, content = read_answer(sock)
    if status != 200 or content != HELLO:
        raise ValueError(f"the answer is {status} {content[:80]!r}")


def read_answer(sock: socket.socket) -> tuple[int, bytes]:
    """Status code and content of the next answer; it must have a Content-Length.

    Raises:
        OSError, ValueError: as for `hello`.
    """
    data = b""
    while b"\r\n\r\n" not in data:
        data += _more(sock)
    head, _, content = data.partition(b"\r\n\r\n")
    status_line, *fields = head.split(b"\r\n")
    lengths = [int(field.split(b":")[1]) for field in fields if field.lower().startswith(b"content-length:")]
    if len(lengths) != 1:
        raise ValueError(f"the answer has no Content-Length, or several: {head!r}")
    while len(content) < lengths[0]:
        content += _more(sock)
    if len(content) > lengths[0]:
        raise ValueError(f"bytes follow the answer: {content[lengths[0] :][:80]!r}")
    return int(status_line.split(b" ")[1]), content


def _more(sock: socket.socket) -> bytes:
    data = sock.recv(65_536)
    if not data:
        raise ConnectionError("the server closed the connection instead of answering")
    return data
