"""TestClient: answers with their records, and departures."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator

import httpx
import pytest
import trio
import trio.testing

from trioserve import (
    FINISH,
    Abandoned,
    App,
    Cause,
    Completed,
    Config,
    Deadlines,
    DropConnection,
    HalfClose,
    Limits,
    Outcome,
    Phase,
    Request,
    Response,
    WebSocket,
)
from trioserve.testing import (
    Answer,
    BodyBytes,
    Checkpoint,
    HeadBytes,
    ResponseBytes,
    TestClient,
    Way,
    run,
    wire_of,
)

REST = 5
"""Seconds for which the handler sleeps, three times."""


class Desk:
    """An app, and what became of its handler."""

    def __init__(self, **policies) -> None:
        self.app = App(**policies)
        self.log: list[str] = []

        @self.app.get("/")
        async def rest() -> str:
            for number in (1, 2, 3):
                self.log.append(f"rest {number}")
                await trio.sleep(REST)
            self.log.append("done")
            return "rested"

        @self.app.post("/up")
        async def read(request: Request) -> str:
            async for part in request.stream():
                self.log.append(f"read {len(part)}")
            return "read"

        @self.app.get("/down")
        async def write() -> Response:
            async def body(send):
                for _ in range(10):
                    await send(b"x" * 100)
                    await trio.sleep(1)

            return Response.stream(body)


@pytest.fixture
def desk():
    return Desk()


def play(app, script, config=None, **options):
    """Run `await script(client)` in virtual time."""

    async def open_and_play():
        async with TestClient(app, config, **options) as client:
            return await script(client)

    return run(open_and_play)


async def get(client: TestClient) -> Answer:
    return await client.get("/")


# Answers and records


def test_an_answer_has_the_servers_record(desk):
    answer = play(desk.app, get)
    assert isinstance(answer, Answer)
    assert (answer.status_code, answer.text) == (200, "rested")
    assert isinstance(answer.record, Completed)
    assert (answer.record.status, answer.record.route, answer.record.duration) == (200, "/", 3 * REST)


def test_the_record_is_that_of_the_exchange_also_on_a_connection_that_is_kept(desk):
    async def script(client):
        return [(await client.get("/nowhere")).record for _ in range(3)], client.served.records.all

    mine, all_of_them = play(desk.app, script)
    assert [record.exchange_number for record in mine] == [1, 2, 3]
    assert len({record.connection_id for record in mine}) == 1
    assert mine == all_of_them


def test_requests_at_once_have_connections_of_their_own(desk):
    async def script(client):
        answers = {}

        async def ask(word):
            answers[word] = await client.get("/", params={"word": word})

        async with trio.open_nursery() as nursery:
            for word in "abc":
                nursery.start_soon(ask, word)
        return answers, trio.current_time()

    answers, ended = play(desk.app, script)
    assert ended == 3 * REST
    assert {word: answer.record.target for word, answer in answers.items()} == {
        word: f"/?word={word}" for word in "abc"
    }
    assert len({answer.record.connection_id for answer in answers.values()}) == 3


def test_every_method_gives_an_answer_with_a_record(desk):
    async def script(client):
        names = ["get", "options", "head", "post", "put", "patch", "delete"]
        answers = [await getattr(client, name)("/up") for name in names]
        answers.append(await client.request("POST", "/up"))
        answers.append(await client.send(client.build_request("POST", "/up")))
        async with client.stream("POST", "/up") as answer:
            answers.append(answer)
        return answers

    answers = play(desk.app, script)
    assert all(isinstance(answer, Answer) and isinstance(answer.record, Completed) for answer in answers)
    assert [answer.record.method for answer in answers[:7]] == [
        "GET",
        "OPTIONS",
        "HEAD",
        "POST",
        "PUT",
        "PATCH",
        "DELETE",
    ]


def test_each_answer_of_a_redirect_has_its_record():
    app = App()

    @app.get("/old")
    async def old() -> Response:
        return Response(status=302, headers={"location": "/new"})

    @app.get("/new")
    async def new() -> str:
        return "new"

    answer = play(app, lambda client: client.get("/old"), follow_redirects=True)
    assert [each.record.route for each in (*answer.history, answer)] == ["/old", "/new"]


def test_before_a_streamed_answer_is_read_it_has_no_record_and_says_so(desk):
    async def script(client):
        async with client.stream("GET", "/down") as answer:
            with pytest.raises(
                RuntimeError, match=r"the exchange is not over.*read the answer to its end, or close it"
            ):
                answer.record  # noqa: B018
            parts = [part async for part in answer.aiter_bytes()]
            return parts, answer.record

    parts, record = play(desk.app, script)
    assert (len(parts), b"".join(parts)) == (10, b"x" * 1000)
    assert isinstance(record, Completed)


def test_a_stream_comes_while_it_is_made(desk):
    async def script(client):
        async with client.stream("GET", "/down") as answer:
            return [trio.current_time() async for _ in answer.aiter_bytes()]

    assert play(desk.app, script) == list(range(10))


def test_content_goes_up_while_it_is_made(desk):
    async def content():
        for size in (1, 2, 3):
            yield b"x" * size
            await trio.sleep(1)

    answer = play(desk.app, lambda client: client.post("/up", content=content()))
    assert answer.text == "read"
    assert desk.log == ["read 1", "read 2", "read 3"]
    assert answer.record.duration == 3


def test_an_idle_connection_that_the_server_has_closed_is_not_used_again(desk):
    async def script(client):
        first = await client.get("/nowhere")
        await trio.sleep(1000)
        return first.record, (await client.get("/nowhere")).record

    first, second = play(desk.app, script, Config(deadlines=Deadlines(idle=60)))
    assert second.exchange_number == 1
    assert second.connection_id != first.connection_id


def test_a_server_that_closes_without_an_answer_is_an_error_that_names_the_record_and_its_cause():
    app = App()

    @app.get("/")
    async def silence() -> str:
        raise DropConnection

    with pytest.raises(httpx.RemoteProtocolError, match=r"without sending a response.*Abandoned, status 444.*DROPPED"):
        play(app, get)


def test_a_handler_that_fails_in_its_stream_is_the_cause_of_the_error(caplog):
    app = App()

    @app.get("/")
    async def fail() -> Response:
        async def body(send):
            await send(b"half")
            raise LookupError("lost")

        return Response.stream(body)

    with pytest.raises(httpx.RemoteProtocolError, match=r"HANDLER_FAILED.*LookupError") as caught:
        play(app, get)
    assert isinstance(caught.value.__cause__, LookupError)


def test_a_timeout_that_is_asked_for_is_kept_and_is_a_departure(desk):
    async def script(client):
        with pytest.raises(httpx.ReadTimeout, match="7 s"):
            await client.get("/", timeout=7)
        ended = trio.current_time()
        await client.served.records.count(1)
        return ended, client.served.records.all

    ended, (record,) = play(desk.app, script)
    assert ended == 7
    assert (record.phase, record.cause, desk.log[-1]) == (Phase.HANDLER, Cause.FIN, "rest 2")


def test_too_much_content_for_its_length_is_httpx_local_protocol_error(desk):
    with pytest.raises(httpx.LocalProtocolError, match="Too much data"):
        play(desk.app, lambda client: client.post("/up", content=b"12345", headers={"content-length": "3"}))


def test_what_goes_over_the_wire_is_what_wire_of_says(desk):
    request = httpx.Request("POST", "http://test/up?x=y", headers={"X-Word": "y"}, content=b"hello")

    async def script(client):
        for point in [HeadBytes(len(wire_of(request).head)), BodyBytes(len(wire_of(request).body))]:
            client.leave(Way.FIN, point)
            yield await client.send(request)

    async def script_(client):
        return [answer async for answer in script(client)]

    at_head, at_body = play(desk.app, script_)
    assert (at_head.record.phase, at_head.record.request_body_bytes) == (Phase.BODY, 0)
    assert at_body.record.request_body_bytes == 5


# Schemes


def login() -> App:
    app = App()

    @app.post("/login")
    async def log_in() -> Response:
        response = Response(status=303, headers={"location": "/me"})
        response.set_cookie("session", "ann")
        return response

    @app.get("/me")
    async def me(request: Request) -> str:
        return f"{request.cookies.get('session')} {request.scheme} {request.url}"

    return app


def test_a_login_holds_since_the_client_comes_by_https_and_its_secure_cookie_comes_back():
    async def script(client):
        await client.post("/login")
        return (await client.get("/me")).text

    assert play(login(), script) == "ann https https://test/me"
    followed = play(login(), lambda client: client.post("/login"), follow_redirects=True)
    assert (followed.text, str(followed.url)) == ("ann https https://test/me", "https://test/me")


def test_by_http_a_secure_cookie_does_not_come_back():
    async def script(client):
        await client.post("/login")
        return (await client.get("/me")).text

    assert play(login(), script, base_url="http://test") == "None http http://test/me"


def test_one_client_goes_by_both_schemes_each_on_connections_of_its_own():
    async def script(client):
        urls = ["http://test/me", "https://test/me", "http://test/me", "/me"]
        return [await client.get(url) for url in urls]

    answers = play(login(), script)
    assert [answer.text.split()[1] for answer in answers] == ["http", "https", "http", "https"]
    one, other, *again = [answer.record.connection_id for answer in answers]
    assert again == [one, other]
    assert one != other


# Departures


def left(desk, way, point, ask=get, config=None):
    """The answer to a client that leaves there."""

    async def script(client):
        client.leave(way, point)
        return await ask(client)

    return play(desk.app, script, config)


GONE = {Way.FIN: Cause.FIN, Way.RESET: Cause.RESET, Way.VANISH: Cause.VANISHED}


@pytest.mark.parametrize("way", GONE)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_client_leaves_when_the_handler_has_reached_its_checkpoint(way, number):
    desk = Desk()
    answer = left(desk, way, Checkpoint(number), config=Config(deadlines=Deadlines(vanish=4)))
    assert (answer.status_code, answer.content) == (0, b"")
    record = answer.record
    assert isinstance(record, Abandoned)
    assert (record.status, record.phase, record.cause) == (499, Phase.HANDLER, GONE[way])
    assert record.outcome is Outcome.CANCELLED
    assert record.noticed_at == (number - 1) * REST + 4 * (way is Way.VANISH)
    assert desk.log == [f"rest {n + 1}" for n in range(number)]


@pytest.mark.parametrize("way", [Way.FIN, Way.RESET, Way.HALF_CLOSE])
@pytest.mark.parametrize("count", [1, 5, len(wire_of("/").head)])
def test_a_client_leaves_inside_the_head(desk, way, count):
    answer = left(desk, way, HeadBytes(count))
    assert (answer.status_code, answer.record.phase, answer.record.status) == (0, Phase.HEAD, 400)
    assert answer.record.cause == ("RESET" if way is Way.RESET else "FIN")
    assert not desk.log


@pytest.mark.parametrize("way", Way)
def test_a_client_that_has_sent_nothing_has_no_record(desk, way):
    answer = left(desk, way, HeadBytes(0))
    assert (answer.status_code, answer.record) == (0, None)


@pytest.mark.parametrize("way", [Way.FIN, Way.RESET, Way.HALF_CLOSE])
@pytest.mark.parametrize("count", [0, 1, 4])
def test_a_client_leaves_inside_the_body(desk, way, count):
    answer = left(desk, way, BodyBytes(count), lambda client: client.post("/up", content=b"hello"))
    assert (answer.status_code, answer.record.phase, answer.record.status) == (0, Phase.BODY, 400)
    assert answer.record.request_body_bytes == count
    assert desk.log == [f"read {count}"] * bool(count)


@pytest.mark.parametrize("way", [Way.FIN, Way.RESET])
def test_a_body_that_is_still_being_made_is_not_made_any_further(desk, way):
    made, closed = [], []

    async def content():
        try:
            for number in range(5):
                made.append(number)
                yield b"12345"
        finally:
            closed.append(True)

    answer = left(
        desk, way, BodyBytes(len(b"5\r\n12345\r\n") + 3), lambda client: client.post("/up", content=content())
    )
    assert (answer.record.phase, answer.record.request_body_bytes) == (Phase.BODY, 5)
    assert (made, closed) == ([0, 1], [True])


@pytest.mark.parametrize("way", [Way.FIN, Way.RESET])
def test_a_client_leaves_inside_the_response_with_what_it_has(desk, way):
    whole = play(desk.app, lambda client: client.get("/down"))
    assert whole.status_code == 200
    head = 0

    async def count_head(client):
        peer = client.served.connect()
        await peer.send(wire_of("/down").head)
        return (await peer.receive()).index(b"\r\n\r\n") + 4

    head = play(desk.app, count_head)
    first = len(b"64\r\n") + 100 + len(b"\r\n")

    answer = left(desk, way, ResponseBytes(head + first + len(b"64\r\n") + 50), lambda client: client.get("/down"))
    assert (answer.status_code, answer.headers["transfer-encoding"], answer.content) == (200, "chunked", b"x" * 150)
    assert (answer.record.phase, answer.record.sent_status) == (Phase.RESPONSE_BODY, 200)


def test_a_status_line_that_was_received_is_told(desk):
    for count, status in [(1, 0), (8, 0), (12, 0), (17, 200), (30, 200)]:
        answer = left(desk, Way.RESET, ResponseBytes(count), lambda client: client.get("/down"))
        assert (answer.status_code, answer.content, dict(answer.headers)) == (status, b"", {})
        assert isinstance(answer.record, Abandoned)


def test_a_half_closed_client_gets_its_answer_where_the_server_gives_one():
    for half_close in HalfClose:
        desk = Desk(half_close=half_close)
        answer = left(desk, Way.HALF_CLOSE, Checkpoint(2))
        if half_close is HalfClose.ABORT:
            assert (answer.status_code, answer.record.cause) == (0, Cause.FIN)
        else:
            assert (answer.status_code, answer.text) == (200, "rested")
            assert isinstance(answer.record, Completed)


def test_the_record_is_waited_for_where_the_handler_runs_on():
    desk = Desk(disconnect=FINISH)
    answer = left(desk, Way.FIN, Checkpoint(1))
    assert desk.log[-1] == "done"
    assert (answer.record.outcome, answer.record.unwind_time) == (Outcome.FINISHED, 3 * REST)


def test_the_hook_was_called_when_the_answer_is_there(desk):
    told = []
    desk.app.on_abandoned(told.append)
    answer = left(desk, Way.RESET, Checkpoint(1))
    assert told == [answer.record]


def test_the_next_request_is_one_as_ever(desk):
    async def script(client):
        client.leave(Way.FIN, Checkpoint(1))
        return [(await client.get("/")).status_code for _ in range(2)]

    assert play(desk.app, script) == [0, 200]


def test_only_the_handler_of_the_client_that_leaves_is_counted(desk):
    async def script(client):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.get, "/")
            await trio.sleep(1)
            client.leave(Way.RESET, Checkpoint(2))
            answer = await client.get("/")
        return answer.record, client.served.records.all

    record, all_of_them = play(desk.app, script)
    assert record.noticed_at == 1 + REST
    assert sorted(each.status for each in all_of_them) == [200, 499]


@pytest.mark.parametrize("point", [HeadBytes(5000), BodyBytes(1), Checkpoint(4), ResponseBytes(50_000)])
def test_a_point_that_is_not_reached_is_an_error(desk, point):
    with pytest.raises(RuntimeError) as caught:
        left(desk, Way.FIN, point)
    assert f"{point!r}" in str(caught.value)


def test_a_client_leaves_at_once_from_another_task(desk):
    async def script(client):
        async with trio.open_nursery() as nursery:

            async def leave():
                await trio.sleep(REST + 1)
                client.leave(Way.RESET)

            nursery.start_soon(leave)
            return await client.get("/")

    answer = play(desk.app, script)
    assert answer.status_code == 0
    assert (answer.record.cause, answer.record.noticed_at, desk.log[-1]) == (Cause.RESET, REST + 1, "rest 2")


def test_a_client_leaves_at_once_out_of_a_stream(desk):
    async def script(client):
        async with client.stream("GET", "/down") as answer:
            parts = []
            async for part in answer.aiter_bytes():
                parts.append(part)
                if len(parts) == 3:
                    client.leave(Way.RESET)
        return parts, answer.record

    parts, record = play(desk.app, script)
    assert parts == [b"x" * 100] * 3
    assert (record.phase, record.cause) == (Phase.RESPONSE_BODY, Cause.RESET)


def test_a_client_leaves_at_once_with_a_body_that_nobody_reads():
    app = App()

    @app.post("/")
    async def wait() -> None:
        await trio.sleep_forever()

    async def script(client):
        async with trio.open_nursery() as nursery:
            answers = []

            async def ask():
                answers.append(await client.post("/", content=bytes(1_000_000)))

            nursery.start_soon(ask)
            await trio.sleep(1)
            client.leave(Way.RESET)
        return answers[0].record

    assert play(app, script).cause is Cause.RESET


def test_leaving_at_once_needs_a_request_under_way(desk):
    async def script(client):
        await client.get("/nowhere")
        with pytest.raises(RuntimeError, match="no request is under way"):
            client.leave(Way.FIN)

    play(desk.app, script)


def test_a_stream_that_is_closed_early_is_a_departure(desk):
    async def script(client):
        async with client.stream("GET", "/down") as answer:
            await trio.sleep(3)
        return answer.record

    record = play(desk.app, script)
    assert (record.phase, record.outcome, record.noticed_at) == (Phase.RESPONSE_BODY, Outcome.CANCELLED, 3)


def test_a_request_that_is_cancelled_is_a_departure(desk):
    async def script(client):
        with trio.move_on_after(1):
            await client.get("/")
        await client.served.records.count(1)
        return client.served.records.all

    (record,) = play(desk.app, script)
    assert (record.phase, record.cause, record.noticed_at) == (Phase.HANDLER, Cause.FIN, 1)


def test_a_departure_by_no_way_is_refused(desk):
    with pytest.raises(ValueError, match="SHUT"):
        left(desk, "SHUT", Checkpoint(1))


def test_no_status_code_is_an_error_of_status_that_says_that_the_client_left(desk):
    answer = left(desk, Way.RESET, Checkpoint(1))
    with pytest.raises(
        httpx.HTTPStatusError, match=r"left before .* status line, in GET https://test/.*status 499"
    ) as raised:
        answer.raise_for_status()
    assert raised.value.response is answer
    assert left(desk, Way.RESET, ResponseBytes(40)).raise_for_status().status_code == 200


def test_whether_there_is_a_status_code_can_be_asked_while_the_answer_is_open(desk):
    async def script(client):
        client.leave(Way.FIN, Checkpoint(1))
        async with client.stream("GET", "/") as answer:
            with pytest.raises(httpx.HTTPStatusError, match=r"status line, in GET https://test/$"):
                answer.raise_for_status()

    play(desk.app, script)


@pytest.mark.parametrize("point", [3, Checkpoint, "Checkpoint(1)"])
def test_a_departure_at_no_point_is_refused(desk, point):
    with pytest.raises(TypeError, match=r"is no point; .*such as Checkpoint\(1\)"):
        left(desk, Way.FIN, point)


def test_to_leave_twice_in_one_request_is_refused(desk):
    async def script(client):
        client.leave(Way.FIN, Checkpoint(2))
        with pytest.raises(RuntimeError, match=r"is to leave by Way.FIN at Checkpoint\(2\) .* already"):
            client.leave(Way.RESET, Checkpoint(1))
        return await get(client)

    assert play(desk.app, script).record.cause is Cause.FIN


def test_a_departure_that_no_request_followed_is_an_error(desk):
    async def script(client):
        await client.get("/")
        client.leave(Way.FIN, Checkpoint(2))

    with pytest.raises(RuntimeError, match=r"by Way.FIN at Checkpoint\(2\), but no request followed"):
        play(desk.app, script)


def test_an_error_in_the_block_prevails_over_a_departure_that_no_request_followed(desk):
    async def script(client):
        client.leave(Way.FIN, Checkpoint(2))
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        play(desk.app, script)


# The client itself


@pytest.mark.parametrize("app", ["module:app", None, App])
def test_what_is_no_app_is_refused(app):
    with pytest.raises(TypeError, match="is no app; give TestClient an App"):
        TestClient(app)


def test_what_is_no_config_is_refused(desk):
    with pytest.raises(TypeError, match=r"config=\{\} is no Config"):
        TestClient(desk.app, {})


def test_a_client_that_is_not_open_says_how_to_open_it(desk):
    client = TestClient(desk.app)
    with pytest.raises(RuntimeError, match="async with TestClient"):
        run(client.get, "/")
    with pytest.raises(RuntimeError, match="async with TestClient"):
        client.served  # noqa: B018


def test_lifespans_are_open_while_the_client_is():
    app, log = App(), []

    @app.lifespan
    async def life() -> AsyncIterator[None]:
        log.append("begins")
        yield
        log.append("ends")

    async def script(client):
        log.append((await client.get("/")).status_code)

    play(app, script)
    assert log == ["begins", 404, "ends"]


def test_a_lifespan_that_fails_comes_out_as_it_is():
    app = App()

    @app.lifespan
    async def life() -> AsyncIterator[None]:
        raise LookupError("no pool")
        yield

    with pytest.raises(LookupError, match="no pool"):
        play(app, get)


def test_an_error_in_the_block_comes_out_and_at_once(desk):
    async def script(client):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.get, "/")
            await trio.sleep(1)
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        play(desk.app, script)
    assert desk.log == ["rest 1"]


def test_proxies_of_the_environment_are_not_asked(desk, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    assert play(desk.app, get).status_code == 200


def test_whatever_the_host_it_is_the_app(desk):
    answer = play(desk.app, lambda client: client.get("https://example.org/nowhere"))
    assert answer.record.headers["host"] == "example.org"


def test_it_is_also_good_under_trios_own_clocks(desk):
    async def main():
        async with TestClient(desk.app) as client:
            client.leave(Way.FIN, Checkpoint(2))
            return await client.get("/")

    assert trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0)).record.noticed_at == REST


@pytest.mark.parametrize("name", ["TestClient", "Answer"])
def test_without_httpx_it_says_what_to_install(name):
    program = f"""
import sys
sys.modules["httpx"] = None
import trioserve.testing
trioserve.testing.served
try:
    trioserve.testing.{name}
except ModuleNotFoundError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert (
        said == f"trioserve.testing.{name} needs the package httpx; install it with pip install 'trioserve[testing]'\n"
    )


def test_behind_a_trusted_proxy_an_answer_has_its_own_record_and_points_are_its_own(desk):
    config = Config(trusted_proxies=("198.51.100.0/24",))
    mine = {"x-forwarded-for": "192.0.2.1"}

    async def script(client):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.get, "/")
            await trio.sleep(1)
            client.leave(Way.FIN, Checkpoint(2))
            return await client.get("/", headers=mine)

    record = play(desk.app, script, config).record
    assert (record.client, record.noticed_at) == (("192.0.2.1", 0), 1 + REST)


def test_a_connection_that_is_one_too_many_is_an_error(desk):
    async def script(client):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.get, "/")
            await trio.sleep(1)
            with pytest.raises(httpx.ReadError, match="reset"):
                await client.get("/")

    play(desk.app, script, Config(limits=Limits(connections_per_client=1)))


def test_two_requests_at_once_can_each_be_left_at_their_own_points(desk):
    async def script(client):
        answers = {}

        async def ask(number):
            answers[number] = await client.get("/")

        async with trio.open_nursery() as nursery:
            for number in (2, 3):
                client.leave(Way.FIN, Checkpoint(number))
                nursery.start_soon(ask, number)
                await trio.sleep(1)
        return {number: answer.record.noticed_at for number, answer in answers.items()}

    assert play(desk.app, script) == {2: REST, 3: 1 + 2 * REST}


def test_an_answer_that_switches_protocols_has_no_content_and_to_close_it_is_a_departure():
    app = App()

    @app.websocket("/")
    async def talk(socket: WebSocket) -> None:
        await socket.receive()

    fields = {
        "connection": "upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    answer = play(app, lambda client: client.get("/", headers=fields))
    assert (answer.status_code, answer.content) == (101, b"")
    assert (answer.record.sent_status, answer.record.cause) == (101, Cause.FIN)


@pytest.mark.parametrize("point", [Checkpoint(1), ResponseBytes(1)], ids=repr)
def test_behind_a_half_close_the_next_request_has_a_connection_of_its_own(point):
    async def main():
        async with TestClient(Desk(half_close=HalfClose.FINISH).app) as client:
            client.leave(Way.HALF_CLOSE, point)
            first, second = await client.get("/"), await client.get("/")
            assert (first.text, second.text) == ("rested", "rested")
            assert isinstance(second.record, Completed)
            assert first.record.connection_id != second.record.connection_id
            assert second.record.exchange_number == 1

    run(main)
