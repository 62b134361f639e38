"""The hangup watch on real sockets: it hears FIN and RST the moment they come, and nothing else."""

from __future__ import annotations

import select
import socket

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support import happens, reset, something_arrives, tcp_pair
from tests.support.logs import tracebacks
from trioserve.connection.hangup import HangupWatch, current_hangup_watch, kernel_watch_available

pytestmark = pytest.mark.skipif(
    not kernel_watch_available(), reason="the hangup watch needs epoll with EPOLLRDHUP, which is Linux's"
)


class Ear:
    """A listener that keeps what it hears, in order."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self._news = trio.Event()

    def hung_up(self) -> None:
        self._hear("hung up")

    def bytes_arrived(self) -> None:
        self._hear("bytes")

    def _hear(self, what: str) -> None:
        self.heard.append(what)
        self._news.set()

    async def hears(self, *what: str) -> bool:
        """True as soon as this, and only this, has been heard altogether."""
        with trio.fail_after(5):
            while len(self.heard) < len(what):
                self._news = trio.Event()
                await self._news.wait()
        await wait_all_tasks_blocked()
        return self.heard == list(what)


@pytest.fixture
async def watch(nursery) -> HangupWatch:
    watch = HangupWatch()
    nursery.start_soon(watch.run)
    return watch


@pytest.fixture
def pair():
    with tcp_pair() as pair:
        yield pair


async def test_a_fin_is_heard_once(watch, pair):
    server, client = pair
    ear = Ear()
    watch.add(server.fileno(), ear)

    client.close()

    assert await ear.hears("hung up")


async def test_a_half_close_is_heard_as_a_hangup(watch, pair):
    server, client = pair
    ear = Ear()
    watch.add(server.fileno(), ear)

    client.shutdown(socket.SHUT_WR)

    assert await ear.hears("hung up")


async def test_a_reset_is_heard(watch, pair):
    server, client = pair
    ear = Ear()
    watch.add(server.fileno(), ear)

    reset(client)

    assert await ear.hears("hung up")


async def test_a_reset_after_a_fin_is_heard_too(watch, pair):
    server, client = pair
    ear = Ear()
    watch.add(server.fileno(), ear)

    client.shutdown(socket.SHUT_WR)
    assert await ear.hears("hung up")
    reset(client)

    assert await ear.hears("hung up", "hung up")


async def test_bytes_are_not_heard_and_a_fin_behind_unread_bytes_is(watch, pair):
    server, client = pair
    ear = Ear()
    watch.add(server.fileno(), ear)

    client.send(b"unread")
    await something_arrives(server)
    assert ear.heard == []
    client.close()

    assert await ear.hears("hung up")
    assert server.recv(100) == b"unread"


async def test_a_reset_is_heard_through_a_closed_window(watch):
    with tcp_pair(receive_buffer=4096) as (server, client):
        ear = Ear()
        watch.add(server.fileno(), ear)
        with pytest.raises(BlockingIOError):
            push(client)

        reset(client)

        assert await ear.hears("hung up")


def push(sock: socket.socket) -> None:
    """Send until there is no more room."""
    while True:
        sock.send(bytes(65_536))


async def test_a_hangup_that_came_before_the_watch_is_heard(watch, pair):
    server, client = pair
    client.close()
    await something_arrives(server)
    ear = Ear()

    watch.add(server.fileno(), ear)

    assert await ear.hears("hung up")


async def test_a_hangup_is_heard_while_others_wait_for_the_socket(watch, pair, nursery):
    """A task that reads and one that is blocked in a send do not take the news away."""
    server, client = pair
    ear = Ear()
    watch.add(server.fileno(), ear)
    with pytest.raises(BlockingIOError):
        push(server)

    async def wait(how) -> None:
        await how(server)

    nursery.start_soon(wait, trio.lowlevel.wait_readable)
    nursery.start_soon(wait, trio.lowlevel.wait_writable)
    await wait_all_tasks_blocked()
    client.shutdown(socket.SHUT_WR)

    assert await ear.hears("hung up")


async def test_look_tells_what_has_happened_without_waiting(pair):
    server, client = pair
    watch = HangupWatch()  # nobody runs it
    with watch._epoll:
        ear = Ear()
        watch.add(server.fileno(), ear)
        watch.look()
        assert ear.heard == []
        client.close()
        await something_arrives(watch._epoll.fileno())

        watch.look()
        watch.look()

        assert ear.heard == ["hung up"]


async def test_hear_bytes_begins_with_those_that_lie_there(watch, pair):
    server, client = pair
    ear = Ear()
    watch.add(server.fileno(), ear)
    client.send(b"first")
    await something_arrives(server)

    watch.hear_bytes(server.fileno())
    assert await ear.hears("bytes")
    client.send(b"second")
    assert await ear.hears("bytes", "bytes")
    client.close()

    assert await ear.hears("bytes", "bytes", "hung up", "bytes")
    assert server.recv(100) == b"firstsecond"


async def test_hear_hangups_only_takes_it_back(watch, pair):
    server, client = pair
    ear = Ear()
    watch.add(server.fileno(), ear)
    watch.hear_bytes(server.fileno())
    watch.hear_hangups_only(server.fileno())

    client.send(b"unread")
    await something_arrives(server)
    client.close()

    assert await ear.hears("hung up")


async def test_a_hangup_that_has_been_heard_is_not_heard_again_after_hear_bytes(watch, pair):
    """Changing what is listened for makes the kernel tell its state anew."""
    server, client = pair
    ear = Ear()
    watch.add(server.fileno(), ear)
    client.shutdown(socket.SHUT_WR)
    assert await ear.hears("hung up")

    watch.hear_bytes(server.fileno())
    watch.hear_hangups_only(server.fileno())
    reset(client)

    assert set(ear.heard) == {"hung up"}


async def test_what_was_removed_is_not_heard(watch, pair):
    server, client = pair
    ear = Ear()
    watch.add(server.fileno(), ear)
    watch.remove(server.fileno())

    client.close()
    await something_arrives(server)
    await wait_all_tasks_blocked()

    assert ear.heard == []


async def test_a_descriptor_that_is_used_again_belongs_to_its_new_listener(watch):
    old, new = Ear(), Ear()
    with tcp_pair() as (server, _):
        descriptor = server.fileno()
        watch.add(descriptor, old)
        watch.remove(descriptor)
    with tcp_pair() as (server, client):
        assert server.fileno() == descriptor, "the system gives out the lowest free number"
        watch.add(descriptor, new)
        client.close()

        assert await new.hears("hung up")
    assert old.heard == []


async def test_a_listener_may_remove_another_that_was_to_be_told_in_the_same_round(watch, caplog):
    with tcp_pair() as first, tcp_pair() as second:
        told: list[int] = []

        class Rival:
            """Removes the other one when it is told."""

            def __init__(self, own: int, other: int) -> None:
                self._own, self._other = own, other

            def hung_up(self) -> None:
                told.append(self._own)
                watch.remove(self._other)

            def bytes_arrived(self) -> None: ...

        one, two = first[0].fileno(), second[0].fileno()
        watch.add(one, Rival(one, two))
        watch.add(two, Rival(two, one))
        first[1].close()
        second[1].close()

        async def one_is_told() -> None:
            while not told:
                await trio.lowlevel.checkpoint()

        await happens(one_is_told())
        await wait_all_tasks_blocked()
        assert len(told) == 1
        assert not tracebacks(caplog)


async def test_a_listener_that_raises_is_logged_and_the_others_are_told(watch, caplog):
    class Broken(Ear):
        def hung_up(self) -> None:
            super().hung_up()
            raise ValueError("a mistake")

    with tcp_pair() as first, tcp_pair() as second:
        broken, ear = Broken(), Ear()
        watch.add(first[0].fileno(), broken)
        watch.add(second[0].fileno(), ear)

        first[1].close()
        assert await broken.hears("hung up")
        second[1].close()
        assert await ear.hears("hung up")

    assert [str(error) for error in tracebacks(caplog)] == ["a mistake"]


async def test_hundreds_of_hangups_in_one_instant_are_all_heard(watch):
    ears = [Ear() for _ in range(200)]
    pairs = [socket.socketpair() for _ in ears]
    for ear, (server, _) in zip(ears, pairs, strict=True):
        watch.add(server.fileno(), ear)

    for _, client in pairs:
        client.close()

    for ear in ears:
        assert await ear.hears("hung up")
    for server, _ in pairs:
        watch.remove(server.fileno())
        server.close()


async def test_the_watch_of_a_run_is_one_and_outlives_the_task_that_asked_for_it_first(pair):
    server, client = pair
    ear = Ear()
    with trio.CancelScope() as scope:
        watch = current_hangup_watch()
        scope.cancel()
        await trio.sleep_forever()
    watch.add(server.fileno(), ear)

    client.close()

    assert watch is current_hangup_watch()
    assert await ear.hears("hung up")
    watch.remove(server.fileno())


async def test_the_kernels_object_is_closed_when_the_watch_ends():
    watch = HangupWatch()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.run)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()

    assert watch._epoll.closed


def test_the_kernel_watch_is_available_exactly_where_the_kernel_has_it():
    assert kernel_watch_available() == hasattr(select, "EPOLLRDHUP")
