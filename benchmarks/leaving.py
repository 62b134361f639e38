"""The ways in which a client can leave."""

from __future__ import annotations

import ctypes
import socket
import struct
from enum import StrEnum

_SO_ATTACH_FILTER = 26  # asm-generic/socket.h
_BPF_RETURN = 0x06  # with the operand 0: keep nothing of the packet


class Leaving(StrEnum):
    """How a client leaves. What the server's kernel hears of it is not always what the client did."""

    CLOSE = "close"  # a FIN; but a RST if bytes lie there that the client has not read
    RESET = "RST"  # SO_LINGER 0: whatever the client had still to send is thrown away
    HALF_CLOSE = "half-close"  # shutdown(SHUT_WR): a FIN, and the client is still there
    SILENCE = "silence"  # the client's kernel drops whatever comes: no acknowledgement, no FIN, no RST


def leave(sock: socket.socket, how: Leaving) -> None:
    match how:
        case Leaving.CLOSE:
            sock.close()
        case Leaving.RESET:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
        case Leaving.HALF_CLOSE:
            sock.shutdown(socket.SHUT_WR)
        case Leaving.SILENCE:
            _become_deaf(sock)


def _become_deaf(sock: socket.socket) -> None:
    """Attach a packet filter that lets nothing in, as if the cable had been cut."""
    instruction = ctypes.create_string_buffer(struct.pack("HBBI", _BPF_RETURN, 0, 0, 0))
    program = struct.pack("HP", 1, ctypes.addressof(instruction))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
