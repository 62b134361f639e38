"""What tests on real sockets need: a server that keeps its records, and a client that sees every byte.

Everything that waits has a bound, so that a test whose event does not come fails and does not hang.
"""

from tests.support.client import Answer, Client, Cut, connect
from tests.support.descriptors import open_files
from tests.support.ear import Ear
from tests.support.server import Records, Running, happens, start
from tests.support.sockets import PATIENCE, reset, something_arrives, tcp_pair

__all__ = [
    "PATIENCE",
    "Answer",
    "Client",
    "Cut",
    "Ear",
    "Records",
    "Running",
    "connect",
    "happens",
    "open_files",
    "reset",
    "something_arrives",
    "start",
    "tcp_pair",
]
