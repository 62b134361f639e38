"""Nobody is fast by being wrong: each server must answer a workload rightly before it is measured with it."""

from __future__ import annotations

import http.client
import socket
import ssl

from benchmarks.suite.workloads import Manner, Workload

PATIENCE = 20.0
"""Seconds for an answer: the first one may have to wait until a worker has started."""


def complaint(workload: Workload, port: int) -> str | None:
    """What is wrong with a server's answers; None: nothing. Asks twice, and once all at once if they are pipelined."""
    try:
        return _sequential(workload, port) or (_pipelined(workload, port) if workload.pipelined > 1 else None)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"it does not answer: {error!r}"


def _sequential(workload: Workload, port: int) -> str | None:
    connection = _connection(workload, port)
    try:
        for _ in range(2):
            connection.request(workload.method, workload.target, workload.body or None, dict(workload.fields))
            response = connection.getresponse()
            content = response.read()
            if response.status != 200:
                return f"it answers {response.status}"
            if not workload.right(content):
                return f"it answers {content[:60]!r} ({len(content)} bytes)"
            if workload.closes != response.will_close:
                return "it keeps a connection that is to be closed" if workload.closes else "it closes the connection"
    finally:
        connection.close()
    return None


def _connection(workload: Workload, port: int) -> http.client.HTTPConnection:
    if workload.manner is Manner.TLS:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return http.client.HTTPSConnection("127.0.0.1", port, timeout=PATIENCE, context=context)
    return http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)


def _pipelined(workload: Workload, port: int) -> str | None:
    request = f"{workload.method} {workload.target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as sock:
        sock.sendall(request.encode() * workload.pipelined)
        while received.count(b"HTTP/1.1 200") < workload.pipelined:
            data = sock.recv(65_536)
            if not data:
                return (
                    f"it answers {received.count(b'HTTP/1.1 200')} of {workload.pipelined} requests that come at once"
                )
            received += data
    return None
