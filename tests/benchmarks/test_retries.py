"""What is made of a retry storm."""

import math
import socket
from collections import Counter

import trio
from trio.testing import MockClock

from benchmarks.abandonment.retries import ANSWERED, BROKEN, REFUSED, Connections, Point, capacity


def test_the_capacity_has_a_place_taken_by_an_answer_and_by_what_was_given_up_before_it() -> None:
    # Two places; each answer takes 20 ms, and a quarter of a call of 50 ms.
    assert math.isclose(capacity(), 2 / (0.020 + 0.25 * 0.050))


def test_answers_a_second_are_those_of_the_time_that_is_counted() -> None:
    assert Point(load=1.0, requests=90, seconds=3.0, answered=60, ends=Counter()).answers_a_second == 20


async def served(answers: list[bytes]) -> list[str]:
    """How the tries end that get these answers, each on the connection of the one before."""
    with trio.socket.socket() as listener:
        await listener.bind(("127.0.0.1", 0))
        listener.listen()
        connections = Connections(listener.getsockname()[1])

        async def serve() -> None:
            peer, _ = await listener.accept()
            with peer:
                for answer in answers:
                    await peer.recv(4096)
                    await peer.send(answer)
                peer.shutdown(socket.SHUT_WR)
                await peer.recv(4096)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            ends = [await connections.one_try(0.02) for _ in range(len(answers) + 1)]
            connections.close()
            return ends


async def test_a_connection_that_brought_an_answer_is_used_again_until_it_breaks(mock_clock: MockClock) -> None:
    # On this clock no time passes, and nobody gives up.
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone"
    full = b"HTTP/1.1 503 Busy\r\nx: y\r\ncontent-length:4\r\ndate: now\r\n\r\nbusy"
    assert await served([ok, full, ok]) == [ANSWERED, REFUSED, ANSWERED, BROKEN]
