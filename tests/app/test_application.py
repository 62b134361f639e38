"""App: what can be registered, which endpoint a request finds, and how a handler is called and answers."""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import threading

import pytest
import trio
from fake_exchange import FakeExchange

from trioserve import (
    CANCEL,
    FINISH,
    App,
    Cause,
    ClientGone,
    ConfigError,
    DropConnection,
    Grace,
    HalfClose,
    Phase,
    Request,
    Response,
    ResponseError,
)
from trioserve.core.application import Exchange
from trioserve.core.status import DEFAULT


async def served(app: App, method: str = "GET", target: str = "/", **more) -> FakeExchange:
    exchange = FakeExchange(method, target, **more)
    await app.endpoint(exchange.head)(exchange)
    return exchange


def endpoint(app: App, method: str = "GET", target: str = "/"):
    return app.endpoint(FakeExchange(method, target).head)


# How a handler is called


async def test_a_handler_takes_its_path_parameters_by_name_and_the_request():
    app = App()

    @app.get("/reports/{year:int}/{name}")
    async def report(request: Request, name: str, year: int):
        return [request.method, name, year, request.path_params]

    exchange = await served(app, target="/reports/2025/a%20b")
    assert exchange.body == b'["GET","a b",2025,{"year":2025,"name":"a b"}]'


HANDLERS = {}


def handler_of_x(function):
    HANDLERS[function.__name__] = function
    return function


@handler_of_x
async def parameter_only(x):
    return x


@handler_of_x
async def request_first(request, x):
    return request.path_params["x"] + x[:0]


@handler_of_x
async def request_last(x, the_request):
    return the_request.path_params["x"] + x[:0]


@handler_of_x
async def keywords_only(*, req, x):
    return req.path_params["x"] + x[:0]


@handler_of_x
async def with_a_default_for_its_parameter(request, x="other"):
    return request.path_params["x"] + x[:0]


@handler_of_x
@functools.wraps(request_first)
async def wrapped(*args, **kwargs):
    return await request_first(*args, **kwargs)


class Handlers:
    async def method(self, request, x):
        return request.path_params["x"] + x[:0]

    async def __call__(self, x):
        return x


async def partially(prefix, x):
    return prefix + x


HANDLERS |= {
    "bound method": Handlers().method,
    "object": Handlers(),
    "partial": functools.partial(partially, ""),
    "plain": lambda x: x,
    "plain with request": lambda request, x: request.path_params["x"] + x[:0],
}


@pytest.mark.parametrize("handler", HANDLERS.values(), ids=HANDLERS.keys())
async def test_a_handler_may_have_any_of_these_shapes(handler):
    app = App()
    assert app.get("/{x}")(handler) is handler, "the decorator hands the function back"
    assert (await served(app, target="/abc")).body == b"abc"


async def test_a_handler_may_take_nothing():
    app = App()

    @app.get("/")
    async def nothing():
        return "x"

    assert (await served(app)).body == b"x"


async def test_an_async_handler_runs_in_the_task_of_its_exchange_and_counts_as_started():
    app = App()

    @app.get("/")
    async def where(request):
        assert request.exchange.log == ["starts"]
        return str(trio.lowlevel.current_task() is task)

    task = trio.lowlevel.current_task()
    assert (await served(app)).body == b"True"


async def test_a_plain_handler_runs_in_a_worker_thread_of_the_exchange():
    app = App()

    @app.get("/")
    def where():
        return str(threading.current_thread() is threading.main_thread())

    exchange = await served(app)
    assert exchange.log == ["thread", "starts", "head", "end"]
    assert exchange.body == b"False"


def test_making_an_endpoint_starts_nothing():
    app = App()

    @app.get("/")
    async def handler():
        pytest.fail("the handler was called")

    made = endpoint(app)
    assert made.name == "/"


# What a handler returns and raises


@pytest.mark.parametrize(
    ("value", "status", "body"),
    [
        ("é", 200, "é".encode()),
        (b"x", 200, b"x"),
        ({"a": 1}, 200, b'{"a":1}'),
        ([1, 2], 200, b"[1,2]"),
        (None, 204, b""),
        (Response("x", status=201), 201, b"x"),
    ],
)
async def test_what_is_plainly_a_response_is_sent(value, status, body):
    app = App()

    @app.get("/")
    async def handler():
        return value

    exchange = await served(app)
    assert (exchange.status, exchange.body) == (status, body)


@pytest.mark.parametrize("value", [5, (200, "x"), object(), {"a": object()}, {1: {2, 3}}, [math.nan], {(1,): 2}])
@pytest.mark.parametrize("kind", ["async", "plain"])
async def test_what_is_no_response_is_an_error_that_names_the_handler(value, kind):
    async def odd_handler():
        return value

    def odd_plain_handler():
        return value

    app = App()
    app.get("/")(odd_handler if kind == "async" else odd_plain_handler)
    exchange = FakeExchange()
    with pytest.raises(ResponseError, match=rf"{__name__}\..*odd.*_handler"):
        await app.endpoint(exchange.head)(exchange)
    assert exchange.status is None, "a 500 can still be sent"


@pytest.mark.parametrize("kind", ["async", "plain"])
async def test_a_coroutine_that_was_not_awaited_is_an_error_that_says_so(kind):
    async def other(): ...

    async def forgetful():
        return other()

    app = App()

    def forgetful_plain():
        return other()

    app.get("/")(forgetful if kind == "async" else forgetful_plain)
    with pytest.raises(ResponseError, match="returned a coroutine; await it"):
        await served(app)


@pytest.mark.parametrize("error", [ClientGone(), DropConnection(), ZeroDivisionError()])
@pytest.mark.parametrize("kind", ["async", "plain"])
async def test_what_a_handler_raises_and_nobody_answers_comes_out_of_its_endpoint(error, kind):
    async def handler():
        raise error

    def plain_handler():
        raise error

    app = App()
    app.get("/")(handler if kind == "async" else plain_handler)
    with pytest.raises(type(error)) as caught:
        await served(app)
    assert caught.value is error


async def test_a_stream_is_written_inside_the_endpoint():
    app = App()

    @app.get("/")
    async def handler():
        async def write(send):
            await send("x")

        return Response.stream(write)

    assert (await served(app)).log == ["starts", "head", "part", "end"]


async def test_rfc9110_9_3_2_head_of_a_stream_does_not_write_it():
    app = App()

    @app.get("/")
    async def handler():
        async def write(_send):
            pytest.fail("write_body was called")

        return Response.stream(write, headers={"x": "1"})

    exchange = await served(app, "HEAD")
    assert exchange.headers["x"] == "1"
    assert exchange.log == ["starts", "head", "end"]


async def test_the_body_of_a_request_is_read_from_its_exchange():
    app = App()

    @app.post("/")
    async def echo(request):
        return await request.body()

    assert (await served(app, "POST", parts=[b"one ", b"two"])).body == b"one two"


# Which endpoint a request finds


@pytest.mark.parametrize("method", ["get", "post", "put", "patch", "delete"])
async def test_there_is_a_decorator_for_each_usual_method(method):
    app = App()

    @getattr(app, method)("/x")
    async def handler(request):
        return request.method

    assert (await served(app, method.upper(), "/x")).body == method.upper().encode()
    others = {"GET", "POST", "PUT", "PATCH", "DELETE"} - {method.upper()}
    for other in others:
        assert (await served(app, other, "/x")).status == 405


async def test_route_takes_several_methods_in_any_case():
    app = App()

    @app.route("/x", methods=["GET", "post", "Brew"])
    async def handler(request):
        return request.method

    for method in ("GET", "POST", "BREW"):
        assert (await served(app, method, "/x")).body == method.encode()


async def test_the_target_is_routed_by_its_path_in_each_of_its_forms():
    app = App()

    @app.get("/a/{x}")
    async def handler(x):
        return x

    for target in ("/a/b", "/a/b?c=/d", "http://host/a/b", "http://host:80/a/b?c", "/%61/b"):
        assert (await served(app, target=target)).body == b"b"


async def test_rfc9110_9_3_2_head_is_served_by_get():
    app = App()

    @app.get("/")
    async def handler(request):
        return request.method

    exchange = await served(app, "HEAD")
    assert (exchange.status, exchange.body) == (200, b"")


async def test_rfc9110_15_5_5_an_unknown_path_is_404():
    exchange = await served(App(), target="/nothing")
    assert exchange.status == 404
    assert exchange.body.startswith(b"404 Not Found\n")
    assert exchange.headers == {"content-type": "text/plain; charset=utf-8"}
    assert "starts" not in exchange.log


async def test_rfc9110_15_5_6_a_known_path_with_another_method_is_405_and_says_which_are_allowed():
    app = App()

    @app.route("/x", methods=["GET", "PUT"])
    async def handler(): ...

    for method in ("POST", "DELETE"):
        exchange = await served(app, method, "/x")
        assert exchange.status == 405
        assert exchange.headers["allow"] == "GET, HEAD, OPTIONS, PUT"
        assert method.encode() in exchange.body


async def test_rfc9110_15_6_2_an_unknown_method_is_501_whatever_the_path():
    app = App()

    @app.get("/x")
    async def handler(): ...

    for target in ("/x", "/y", "*"):
        exchange = await served(app, "BREW", target)
        assert (exchange.status, exchange.log[0]) == (501, "last")


async def test_rfc9110_9_3_6_connect_is_501_since_there_is_no_tunnel():
    app = App()

    @app.get("/{x:path}")
    async def handler(x): ...

    exchange = await served(app, "CONNECT", "a:80")
    assert (exchange.status, exchange.log[0]) == (501, "last")
    assert b"tunnel" in exchange.body


async def test_rfc9110_9_1_get_in_lower_case_is_an_unknown_method():
    app = App()

    @app.get("/x")
    async def handler(): ...

    exchange = await served(app, "get", "/x")
    assert exchange.status == 501
    assert b"send GET" in exchange.body


async def test_a_method_with_a_route_of_its_own_is_known_everywhere():
    app = App()

    @app.route("/pot", methods=["BREW"])
    async def handler():
        return "coffee"

    assert (await served(app, "BREW", "/pot")).body == b"coffee"
    assert (await served(app, "BREW", "/cup")).status == 404
    assert (await served(app, "GET", "/pot")).headers["allow"] == "BREW, OPTIONS"


async def test_a_refusal_of_head_has_no_content():
    exchange = await served(App(), "HEAD", "/nothing")
    assert (exchange.status, exchange.body) == (404, b"")


def test_an_endpoint_is_named_by_its_pattern_and_a_refusal_has_no_name():
    app = App()

    @app.get("/reports/{year:int}")
    async def handler(year): ...

    assert endpoint(app, target="/reports/2025").name == "/reports/{year:int}"
    assert endpoint(app, target="/x").name is None
    assert endpoint(app, "PUT", "/reports/2025").name is None


# Rules


def test_without_a_word_the_rules_are_the_defaults():
    app = App()

    @app.get("/")
    async def handler(): ...

    for rules in (app.rules, endpoint(app).rules, endpoint(app, target="/x").rules):
        assert rules.disconnect == CANCEL
        assert rules.half_close is None
        assert rules.status == DEFAULT
        assert rules.deadline is None
    assert endpoint(app).rules.max_body is None


def test_where_there_is_no_route_that_is_said_however_large_the_body():
    assert endpoint(App(), target="/x").rules.max_body == math.inf


def test_the_rules_of_the_app_hold_where_a_route_says_nothing():
    app = App(disconnect=FINISH, half_close="probe", abandoned_status=202)

    @app.get("/")
    async def handler(): ...

    for rules in (app.rules, endpoint(app).rules, endpoint(app, target="/x").rules):
        assert rules.disconnect == FINISH
        assert rules.half_close is HalfClose.PROBE
        assert rules.status.status(Phase.HANDLER, Cause.FIN) == 202


def test_the_rules_of_a_route_prevail():
    app = App(disconnect=FINISH, half_close="probe", abandoned_status=202)

    @app.get(
        "/",
        disconnect=Grace(3),
        half_close=HalfClose.FINISH,
        abandoned_status={(Phase.HANDLER, Cause.FIN): 418},
        deadline=2.5,
        max_body=math.inf,
    )
    async def handler(): ...

    rules = endpoint(app).rules
    assert rules.disconnect == Grace(3)
    assert rules.half_close is HalfClose.FINISH
    assert rules.status.status(Phase.HANDLER, Cause.FIN) == 418
    assert rules.status.status(Phase.HANDLER, Cause.RESET) == 202
    assert (rules.deadline, rules.max_body) == (2.5, math.inf)
    assert app.rules.disconnect == FINISH


def test_a_route_can_go_back_to_cancel():
    app = App(disconnect=FINISH)

    @app.get("/", disconnect=CANCEL)
    async def handler(): ...

    assert endpoint(app).rules.disconnect == CANCEL


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"disconnect": "cancel"}, "disconnect='cancel'; use CANCEL, FINISH or Grace"),
        ({"disconnect": Grace}, "use CANCEL, FINISH or Grace"),
        ({"disconnect": 5}, "use CANCEL, FINISH or Grace"),
        ({"half_close": "close"}, "half_close='close'; use one of abort, finish, probe"),
        ({"abandoned_status": 7}, "abandoned_status=7"),
        ({"abandoned_status": {(Phase.IDLE, Cause.FIN): 400}}, "has no record"),
    ],
)
def test_a_wrong_rule_is_a_config_error_for_an_app_as_for_a_route(options, why):
    with pytest.raises(ConfigError, match=why):
        App(**options)
    with pytest.raises(ConfigError, match=why):
        App().get("/", **options)


@pytest.mark.parametrize("name", ["deadline", "max_body"])
@pytest.mark.parametrize("value", [0, -1, math.nan, "5", True])
def test_a_limit_of_a_route_that_is_no_positive_number_is_a_config_error(name, value):
    with pytest.raises(ConfigError, match=f"{name}={value!r}; it must be a positive number"):
        App().get("/", **{name: value})


# What cannot be registered


def no_parameter(): ...
def request_only(request): ...
def other_parameter(request, y): ...
def two_more(request, session, x): ...
def any_arguments(*args): ...
def any_keywords(x, **kwargs): ...
def positional(request, /, x): ...
def positional_parameter(x, /): ...


@pytest.mark.parametrize(
    ("handler", "why"),
    [
        (no_parameter, "of '/{x}': it does not take the path parameter 'x'"),
        (request_only, "does not take the path parameter 'x'"),
        (other_parameter, "does not take the path parameter 'x'"),
        (two_more, "nobody provides 'request', 'session'"),
        (any_arguments, "does not take the path parameter 'x'"),
        (any_keywords, "takes 'kwargs'"),
        (positional, "takes 'request'"),
        (positional_parameter, "does not take the path parameter 'x'"),
    ],
)
def test_a_handler_that_does_not_fit_its_path_is_a_config_error_that_names_it(handler, why):
    with pytest.raises(ConfigError, match=why) as caught:
        App().get("/{x}")(handler)
    assert f"handler {__name__}.{handler.__name__} " in str(caught.value)


def test_all_parameters_that_a_handler_does_not_take_are_named():
    with pytest.raises(ConfigError, match=r"of '/\{a\}/\{b\}': it does not take the path parameter 'a', 'b'"):
        App().get("/{a}/{b}")(no_parameter)


def test_a_route_that_exists_is_a_config_error_that_names_both_the_route_and_the_handler():
    app = App()
    app.get("/x")(no_parameter)
    app.post("/x")(no_parameter)
    with pytest.raises(ConfigError, match=r"GET /x .* is served already, by /x of .*") as caught:
        app.get("/x")(request_only)
    assert str(caught.value).count(__file__) == 3
    assert f"by /x of handler {__name__}.no_parameter ({__file__}:" in str(caught.value)


async def test_a_route_that_was_refused_is_not_there():
    app = App()
    app.get("/x")(lambda: "first")
    with contextlib.suppress(ConfigError):
        app.route("/x", methods=["PUT", "GET"])(no_parameter)
    assert (await served(app, "GET", "/x")).body == b"first"
    assert (await served(app, "PUT", "/x")).status == 405


@pytest.mark.parametrize("path", ["x", "/{x", "/{x:number}"])
def test_a_wrong_path_is_a_config_error(path):
    with pytest.raises(ConfigError, match="path"):
        App().get(path)


@pytest.mark.parametrize("methods", ["GET", [], ["GET "], ["GÉT"], [""], ["GET,POST"], [None], None, ["CONNECT"]])
def test_what_are_no_methods_is_a_config_error(methods):
    with pytest.raises(ConfigError, match="methods="):
        App().route("/", methods=methods)


# Hooks


def test_hooks_are_told_in_the_order_of_their_registration():
    app = App()
    assert list(app.hooks) == []

    @app.on_abandoned
    async def first(event): ...

    @app.on_abandoned
    def second(event): ...

    assert list(app.hooks) == [first, second]


# The fake that these tests stand on


def test_the_fake_exchange_has_the_interface_of_the_real_one():
    for name, real in inspect.getmembers(Exchange, inspect.isfunction):
        if not name.startswith("_"):
            fake = getattr(FakeExchange, name)
            assert list(inspect.signature(fake).parameters) == list(inspect.signature(real).parameters)
            assert inspect.iscoroutinefunction(fake) == inspect.iscoroutinefunction(real)
    made = FakeExchange()
    for name, _ in inspect.getmembers(Exchange, lambda member: isinstance(member, property)):
        assert hasattr(made, name)
