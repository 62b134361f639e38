"""The traffic: so many clients at once, of which a third misbehave, and now and then a crowd that says nothing."""

from __future__ import annotations

import random
from collections import Counter
from functools import partial

import trio

from benchmarks.soak.behaved import Behaved
from benchmarks.soak.ledger import Complaints, Ledger
from benchmarks.soak.misbehaving import Misbehaving, Ports
from benchmarks.soak.server import HOST_NAME

CROWD_EVERY = 10.0
"""Seconds from one crowd to the next."""

OVER_TLS = 0.3
"""The part of the connections that speak TLS."""

WRONG_ANSWER = "answers wrong or missing"


class Traffic:
    """What clients do and see. `run` it several times, if need be.

    Args:
        clients: at once; each third misbehaves.
        crowd: how many connections come at once, besides, to say nothing.
        chance: where all that is left to chance comes from.
    """

    def __init__(
        self,
        ports: Ports,
        ledger: Ledger,
        complaints: Complaints,
        *,
        clients: int,
        crowd: int,
        chance: random.Random,
    ) -> None:
        self._ports = ports
        self._ledger = ledger
        self._complaints = complaints
        self._clients = clients
        self._crowd = crowd
        self._chance = chance
        self.answered: Counter[str] = Counter()
        self.misbehaved: Counter[str] = Counter()

    async def run(self, seconds: float) -> None:
        """Returns when every client that behaves has ended what it was about; the others are gone then."""
        until = trio.current_time() + seconds
        async with trio.open_nursery() as nursery:
            for number in range(self._clients):
                chance = random.Random(self._chance.random())
                if number % 3:
                    nursery.start_soon(self._behaved, chance, until)
                else:
                    nursery.start_soon(self._misbehaving, chance, until)
            nursery.start_soon(self._crowds, until)

    async def _behaved(self, chance: random.Random, until: float) -> None:
        client = Behaved(partial(self._connect, chance), self._ledger, chance, self._was_answered)
        while trio.current_time() < until:
            begun = trio.current_time()
            try:
                await client.one_connection()
            except Exception as error:
                after = f"{trio.current_time() - begun:.2f} s after it began to connect"
                self._complaints.add(WRONG_ANSWER, f"{client.doing}, {after}: {_in_words(error)}")

    async def _misbehaving(self, chance: random.Random, until: float) -> None:
        client = self._someone_misbehaving(chance)
        with trio.CancelScope(deadline=until):
            while True:
                await client.one_connection()

    async def _crowds(self, until: float) -> None:
        client = self._someone_misbehaving(self._chance)
        with trio.CancelScope(deadline=until):
            async with trio.open_nursery() as nursery:
                await trio.sleep(1)  # the first one early, so that it is a part of each run
                while True:
                    for _ in range(self._crowd):
                        nursery.start_soon(client.silence)
                    await trio.sleep(CROWD_EVERY)

    def _someone_misbehaving(self, chance: random.Random) -> Misbehaving:
        return Misbehaving(self._ports, self._ledger, chance, self._has_misbehaved)

    async def _connect(self, chance: random.Random) -> trio.abc.Stream:
        over_tls = chance.random() < OVER_TLS
        sock = trio.socket.socket()
        try:
            await sock.connect(("127.0.0.1", self._ports.tls if over_tls else self._ports.clear))
        except BaseException:
            sock.close()
            raise
        stream = trio.SocketStream(sock)
        return await _shaken_hands(stream, self._ports) if over_tls else stream

    def _was_answered(self, what: str) -> None:
        self.answered[what] += 1

    def _has_misbehaved(self, what: str) -> None:
        self.misbehaved[what] += 1


async def _shaken_hands(stream: trio.SocketStream, ports: Ports) -> trio.abc.Stream:
    # Strict: an end without close_notify is a broken connection.
    over_tls = trio.SSLStream(stream, ports.context, server_hostname=HOST_NAME)
    try:
        await over_tls.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(over_tls)
        raise
    return over_tls


def _in_words(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"
