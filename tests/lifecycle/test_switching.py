"""A switched protocol (RFC 9110 §7.8), raw: its bytes, its end, and departures in the middle of it."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import pytest
import trio

from lifecycle.stage import GET, Stage, Theatre, Visit, every_bare_stage, in_bare_clear_memory, in_bare_memory
from trioserve import (
    CANCEL,
    FINISH,
    App,
    Cause,
    ClientGone,
    Config,
    Deadlines,
    DisconnectPolicy,
    DropConnection,
    Grace,
    HalfClose,
    HTTPError,
    Outcome,
    Phase,
    ResponseError,
)
from trioserve.core.application import Endpoint, Exchange, Rules
from trioserve.core.messages import RequestHead

UPGRADE = b"GET / HTTP/1.1\r\nHost: example\r\nConnection: Upgrade\r\nUpgrade: shout\r\n\r\n"
FIELDS = [(b"upgrade", b"shout"), (b"connection", b"Upgrade")]
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: shout\r\nconnection: Upgrade\r\n\r\n"

Talk = Callable[[Exchange], Awaitable[None]]


class Switching(App):
    """Whatever is asked, `talk` is what happens after the switch; or, if `switch` is false, instead of it."""

    def __init__(
        self,
        talk: Talk,
        *,
        disconnect: DisconnectPolicy = CANCEL,
        half_close: HalfClose | None = None,
        deadline: float = math.inf,
        switch: bool = True,
    ) -> None:
        super().__init__()
        self.talk = talk
        self.switch = switch
        self.own_rules = Rules(disconnect=disconnect, half_close=half_close, deadline=deadline)

    def endpoint(self, _: RequestHead) -> Endpoint:
        return Shouting(self)


class Shouting:
    name = "/"

    def __init__(self, app: Switching) -> None:
        self.app = app
        self.rules = app.own_rules

    async def __call__(self, exchange: Exchange) -> None:
        exchange.handler_starts()
        if self.app.switch:
            await exchange.switch_protocols(FIELDS, lambda cause: f"<{cause}>".encode())
        await self.app.talk(exchange)


async def shout(exchange: Exchange) -> None:
    """Answer in capital letters, until a full stop."""
    while True:
        data = await exchange.receive_bytes()
        await exchange.send_bytes(data.upper())
        if data.endswith(b"."):
            exchange.client_may_go()
            await exchange.end_switched(b"BYE")
            return


async def switched(theatre: Theatre, data: bytes = UPGRADE, **settings: int):
    """A client that has seen the 101."""
    client = await theatre.connect(**settings)
    await client.send(data)
    received = b""
    while len(received) < len(SWITCHED):
        received += await client.receive(len(SWITCHED) - len(received))
    assert received == SWITCHED
    return client


@every_bare_stage
async def test_bytes_go_both_ways_and_the_last_ones_complete_the_exchange(stage: Stage) -> None:
    async with stage.serve(Switching(shout)) as theatre:
        client = await switched(theatre)
        await client.send(b"hello")
        assert await client.receive() == b"HELLO"
        await client.send(b"you.")
        assert await client.read_to_end() == b"YOU.BYE"
        record = await theatre.completed()
        assert record.status == 101
        assert (record.request_body_bytes, record.response_body_bytes) == (9, 12)


@in_bare_memory
async def test_bytes_right_behind_the_request_are_not_lost_however_they_are_split(stage: Stage) -> None:
    whole = UPGRADE + b"one two."
    async with stage.serve(Switching(shout)) as theatre:
        for split in range(1, len(whole)):
            client = await theatre.connect()
            await client.send(whole[:split])
            await trio.testing.wait_all_tasks_blocked()
            await client.send(whole[split:])
            assert await client.read_to_end() == SWITCHED + b"ONE TWO.BYE"
        assert {record.status for record in await theatre.records(len(whole) - 1)} == {101}


@every_bare_stage
@pytest.mark.parametrize("how", ["FIN", "RESET"])
async def test_a_departure_cancels_whatever_the_handler_awaits(stage: Stage, how: str) -> None:
    visit = Visit()
    async with stage.serve(Switching(lambda _: visit.until_cancelled())) as theatre:
        client = await switched(theatre)
        await visit.started.wait()
        client.leave(how)
        record = await theatre.abandoned()
        assert visit.cancelled
        assert (record.phase, record.cause, record.status) == (Phase.RESPONSE_BODY, Cause(how), 499)
        assert (record.sent_status, record.logged_status, record.outcome) == (101, 101, Outcome.CANCELLED)
        assert record.request_body_expected is None


@every_bare_stage
@pytest.mark.parametrize("how", ["FIN", "RESET"])
async def test_a_departure_cancels_a_handler_that_receives(stage: Stage, how: str) -> None:
    visit = Visit()

    async def receive(exchange: Exchange) -> None:
        async with visit:
            await exchange.receive_bytes()

    async with stage.serve(Switching(receive)) as theatre:
        client = await switched(theatre)
        await visit.started.wait()
        client.leave(how)
        record = await theatre.abandoned()
        assert visit.cancelled
        assert (record.phase, record.cause) == (Phase.RESPONSE_BODY, Cause(how))


@every_bare_stage
@pytest.mark.parametrize("half_close", HalfClose)
async def test_a_half_close_is_a_departure_under_every_half_close(stage: Stage, half_close: HalfClose) -> None:
    visit = Visit()
    async with stage.serve(Switching(lambda _: visit.until_cancelled(), half_close=half_close)) as theatre:
        client = await switched(theatre)
        await visit.started.wait()
        client.half_close()
        assert (await theatre.abandoned()).cause is Cause.FIN
        assert visit.cancelled


@every_bare_stage
async def test_a_client_that_is_done_may_half_close(stage: Stage) -> None:
    go_on = trio.Event()

    async def wait(exchange: Exchange) -> None:
        assert await exchange.receive_bytes() == b"last"
        exchange.client_may_go()
        await go_on.wait()
        await exchange.end_switched(b"bye")

    async with stage.serve(Switching(wait)) as theatre:
        client = await switched(theatre)
        await client.send(b"last")
        client.half_close()
        await trio.testing.wait_all_tasks_blocked()
        go_on.set()
        assert await client.read_to_end() == b"bye"
        assert (await theatre.completed()).status == 101


@every_bare_stage
async def test_a_fin_left_to_the_reader_is_judged_when_nobody_reads_on(stage: Stage) -> None:
    visit, receiving = Visit(), trio.Event()

    async def read_once(exchange: Exchange) -> None:
        receiving.set()
        await exchange.receive_bytes()
        exchange.pause_reading()
        await visit.until_cancelled()

    async with stage.serve(Switching(read_once)) as theatre:
        client = await switched(theatre)
        await receiving.wait()
        client.send_nowait(b"x" * 100)
        client.leave("FIN")
        record = await theatre.abandoned()
        assert (record.cause, record.request_body_bytes) == (Cause.FIN, 100)


@every_bare_stage
@pytest.mark.parametrize("policy", [FINISH, Grace(30)])
async def test_a_handler_that_runs_on_reads_the_rest_and_sends_into_the_void(
    stage: Stage, policy: DisconnectPolicy
) -> None:
    go_on, received = trio.Event(), []

    async def run_on(exchange: Exchange) -> None:
        await go_on.wait()
        while True:
            await exchange.send_bytes(b"unheard")
            try:
                received.append(await exchange.receive_bytes())
            except ClientGone:
                await exchange.end_switched(b"unheard")
                return

    app = Switching(run_on, disconnect=policy)
    async with stage.serve(app) as theatre:
        client = await switched(theatre)
        client.send_nowait(b"before")
        client.leave("FIN")
        await trio.testing.wait_all_tasks_blocked()
        go_on.set()
        record = await theatre.abandoned()
        assert b"".join(received) == b"before"
        assert (record.outcome, record.response_body_bytes) == (Outcome.FINISHED, 0)


# We give up


@every_bare_stage
async def test_a_client_hears_the_last_words_when_the_server_stops(stage: Stage) -> None:
    visit = Visit()
    config = Config(deadlines=Deadlines(drain=0.01))
    async with stage.serve(Switching(lambda _: visit.until_cancelled()), config) as theatre:
        client = await switched(theatre)
        await visit.started.wait()
        await theatre.drain()
        assert await client.read_to_end() == b"<DRAIN>"
        record = await theatre.abandoned()
        assert (record.phase, record.cause, record.status) == (Phase.RESPONSE_BODY, Cause.DRAIN, 503)


@every_bare_stage
async def test_a_client_hears_the_last_words_at_the_deadline(stage: Stage) -> None:
    visit = Visit()
    async with stage.serve(Switching(lambda _: visit.until_cancelled(), deadline=0.01)) as theatre:
        client = await switched(theatre)
        assert await client.read_to_end() == b"<DEADLINE>"
        assert (await theatre.abandoned()).cause is Cause.DEADLINE


@every_bare_stage
@pytest.mark.parametrize("error", [ValueError("oh"), HTTPError(404)], ids=["failure", "http-error"])
async def test_a_client_hears_the_last_words_when_the_handler_fails(
    stage: Stage, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(_: Exchange) -> None:
        raise error

    async with stage.serve(Switching(fail)) as theatre:
        client = await switched(theatre)
        assert await client.read_to_end() == b"<HANDLER_FAILED>"
        record = await theatre.abandoned()
        assert (record.cause, record.status, record.exception) == (Cause.HANDLER_FAILED, 500, error)
        assert len(caplog.records) == 1


@every_bare_stage
async def test_one_who_asks_for_silence_gets_it(stage: Stage) -> None:
    async def drop(_: Exchange) -> None:
        raise DropConnection

    async with stage.serve(Switching(drop)) as theatre:
        client = await switched(theatre)
        assert await client.read_to_end() == b""
        assert (await theatre.abandoned()).status == 444


@every_bare_stage
async def test_the_last_words_are_not_said_to_one_who_has_heard_the_last(stage: Stage) -> None:
    async def wait_for_the_answer(exchange: Exchange) -> None:
        await exchange.end_switched(b"bye")
        await trio.sleep_forever()

    async with stage.serve(Switching(wait_for_the_answer, deadline=0.01)) as theatre:
        client = await switched(theatre)
        assert await client.read_to_end() == b"bye"
        assert (await theatre.abandoned()).cause is Cause.DEADLINE


@in_bare_clear_memory
async def test_no_last_words_follow_a_piece_that_was_cut(stage: Stage) -> None:
    async def flood(exchange: Exchange) -> None:
        await exchange.send_bytes(bytes(100_000))

    config = Config(deadlines=Deadlines(drain=0.01))
    async with stage.serve(Switching(flood), config) as theatre:
        client = await switched(theatre, send_buffer=1000, window=1000)
        await trio.testing.wait_all_tasks_blocked()
        await theatre.drain()
        received = await client.read_to_end()
        assert received
        assert not received.strip(b"\0")
        assert (await theatre.abandoned()).cause is Cause.DRAIN


@in_bare_clear_memory
async def test_no_last_words_follow_a_piece_that_was_cut_though_there_is_room_again(stage: Stage) -> None:
    async def flood(exchange: Exchange) -> None:
        with trio.CancelScope(shield=True):
            with pytest.raises(ClientGone):
                await exchange.send_bytes(bytes(100_000))
            await trio.sleep(3)

    config = Config(deadlines=Deadlines(drain=0.01))
    async with stage.serve(Switching(flood), config) as theatre:
        client = await switched(theatre, send_buffer=1000, window=1000)
        await trio.testing.wait_all_tasks_blocked()
        await theatre.drain()
        await trio.sleep(1)
        received = await client.read_to_end()
        assert received
        assert not received.strip(b"\0")
        assert (await theatre.abandoned()).cause is Cause.DRAIN


@in_bare_memory
async def test_a_cancelled_send_is_completed_by_the_next_one_and_by_the_last(stage: Stage) -> None:
    async def twice(exchange: Exchange) -> None:
        for letter in b"a", b"b":
            with trio.move_on_after(1):
                await exchange.send_bytes(letter * 10_000)
        with trio.move_on_after(1):
            await exchange.end_switched(b"bye")
        await exchange.end_switched(b"bye")

    async with stage.serve(Switching(twice)) as theatre:
        client = await switched(theatre, send_buffer=100, window=100)
        await trio.sleep(2.5)
        # The second was cancelled before anything of it existed.
        assert await client.read_to_end() == 10_000 * b"a" + b"bye"
        assert (await theatre.completed()).status == 101


@in_bare_memory
async def test_a_client_that_takes_nothing_is_too_slow(stage: Stage) -> None:
    async def flood(exchange: Exchange) -> None:
        while True:
            await exchange.send_bytes(bytes(100_000))

    async with stage.serve(Switching(flood)) as theatre:
        await switched(theatre)
        record = await theatre.abandoned()
        assert (record.cause, record.status) == (Cause.WRITE_TIMEOUT, 499)


@in_bare_memory
async def test_a_client_may_be_silent_for_ever(stage: Stage) -> None:
    async with stage.serve(Switching(shout)) as theatre:
        client = await switched(theatre)
        await trio.sleep(80_000)
        await client.send(b"hi.")
        assert await client.read_to_end() == b"HI.BYE"


@in_bare_memory
async def test_a_client_that_the_protocol_finds_vanished_is_one(stage: Stage) -> None:
    async def find(exchange: Exchange) -> None:
        exchange.client_vanished()
        await trio.sleep_forever()

    async with stage.serve(Switching(find)) as theatre:
        await switched(theatre)
        record = await theatre.abandoned()
        assert (record.cause, record.status) == (Cause.VANISHED, 499)


# After the last word


@every_bare_stage
async def test_the_answer_to_the_last_word_can_be_awaited_and_a_fin_is_none_the_worse(stage: Stage) -> None:
    answers = []

    async def say_bye(exchange: Exchange) -> None:
        await exchange.end_switched(b"bye")
        exchange.client_may_go()
        answers.append(await exchange.receive_bytes())
        assert await exchange.receive_bytes() == b""

    async with stage.serve(Switching(say_bye)) as theatre:
        client = await switched(theatre)
        assert await client.receive() == b"bye"
        await client.send(b"bye yourself")
        client.half_close()
        assert await client.read_to_end() == b""
        assert answers == [b"bye yourself"]
        assert (await theatre.completed()).status == 101


# What cannot be


@every_bare_stage
async def test_one_who_did_not_ask_is_not_switched(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    async with stage.serve(Switching(shout)) as theatre:
        client = await theatre.connect()
        for request in GET, UPGRADE.replace(b"/1.1", b"/1.0"):
            await client.send(request)
            assert (await client.response())[0] == 500
        assert "101 was not asked for" in caplog.text


@every_bare_stage
@pytest.mark.parametrize(
    "talk",
    [
        lambda exchange: exchange.respond(200, [], b""),
        lambda exchange: exchange.send_part(b"x"),
        lambda exchange: exchange.switch_protocols(FIELDS, lambda _: b""),
    ],
    ids=["respond", "send_part", "switch"],
)
async def test_nothing_of_http_follows_a_switch(stage: Stage, talk: Talk, caplog: pytest.LogCaptureFixture) -> None:
    async with stage.serve(Switching(talk)) as theatre:
        await switched(theatre)
        assert isinstance((await theatre.abandoned()).exception, ResponseError)


@every_bare_stage
async def test_no_bytes_are_sent_without_a_switch_or_after_the_end(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    async def send(exchange: Exchange) -> None:
        await exchange.send_bytes(b"x")

    async def send_after_end(exchange: Exchange) -> None:
        await exchange.end_switched(b"bye")
        with pytest.raises(ResponseError):
            await exchange.send_bytes(b"x")

    async with stage.serve(Switching(send, switch=False)) as theatre:
        client = await theatre.connect()
        await client.send(UPGRADE)
        assert (await client.response())[0] == 500
    async with stage.serve(Switching(send_after_end)) as theatre:
        client = await switched(theatre)
        assert await client.read_to_end() == b"bye"


@every_bare_stage
async def test_a_handler_that_returns_without_an_end_has_failed(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    async def nothing(_: Exchange) -> None:
        pass

    async with stage.serve(Switching(nothing)) as theatre:
        client = await switched(theatre)
        assert await client.read_to_end() == b"<HANDLER_FAILED>"
        assert isinstance((await theatre.abandoned()).exception, ResponseError)
