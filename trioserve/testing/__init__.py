"""For tests: the real server on connections in memory with TCP's semantics, in virtual time if you like."""

from trioserve.testing.server import MemoryServer, memory_server
from trioserve.testing.transport import MemoryPeer, MemoryTransport, memory_connection

__all__ = ["MemoryPeer", "MemoryServer", "MemoryTransport", "memory_connection", "memory_server"]
