"""For tests: the real server on connections in memory with TCP's semantics, in virtual time if you like."""

from trioserve.testing.answers import Asked, RawAnswer, WrongAnswer, read_answers, read_answers_before_leaving
from trioserve.testing.clock import VirtualClock, run
from trioserve.testing.leaving import BodyBytes, Checkpoint, HeadBytes, Point, ResponseBytes, Way
from trioserve.testing.model import Allowed, allowed_after_leaving
from trioserve.testing.peer import Left, Peer
from trioserve.testing.places import Place
from trioserve.testing.records import Records
from trioserve.testing.server import MemoryServer, memory_server
from trioserve.testing.transport import MemoryPeer, MemoryTransport, memory_connection
from trioserve.testing.watching import Wait, Watch
from trioserve.testing.wire import Wire, wire_of

__all__ = [
    "Allowed",
    "Asked",
    "BodyBytes",
    "Checkpoint",
    "HeadBytes",
    "Left",
    "MemoryPeer",
    "MemoryServer",
    "MemoryTransport",
    "Peer",
    "Place",
    "Point",
    "RawAnswer",
    "Records",
    "ResponseBytes",
    "VirtualClock",
    "Wait",
    "Watch",
    "Way",
    "Wire",
    "WrongAnswer",
    "allowed_after_leaving",
    "memory_connection",
    "memory_server",
    "read_answers",
    "read_answers_before_leaving",
    "run",
    "wire_of",
]
