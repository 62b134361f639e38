"""Routers: routes that belong together, included under a prefix; and what an app knows of its routes."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fake_exchange import FakeExchange

from tests.support.memory import in_memory, text_of
from trioserve import (
    CANCEL,
    FINISH,
    Abandoned,
    App,
    Cause,
    Completed,
    ConfigError,
    Converter,
    Grace,
    HalfClose,
    Next,
    Phase,
    Request,
    Response,
    Router,
)
from trioserve.core.application import Rules


async def show(request: Request) -> dict[str, Any]:
    return request.path_params


def rules_of(app: App, target: str) -> Rules:
    return app.endpoint(FakeExchange("GET", target).head).rules


async def nothing() -> None: ...


# Prefixes


async def test_a_router_s_routes_are_found_under_its_prefix_and_nowhere_else():
    app, router = App(), Router()
    router.get("")(lambda: "the prefix itself")
    router.get("/")(lambda: "with a slash")
    router.get("/x")(lambda: "x")
    app.include(router, prefix="/api/v1")
    assert await text_of(app, "/api/v1") == "200 the prefix itself"
    assert await text_of(app, "/api/v1/") == "200 with a slash"
    assert await text_of(app, "/api/v1/x") == "200 x"
    for target in ("/x", "/", "/api", "/api/v1/api/v1/x"):
        assert (await text_of(app, target)).startswith("404 ")


async def test_without_a_prefix_they_are_where_they_say():
    app, router = App(), Router()
    router.get("/x")(lambda: "x")
    app.include(router)
    assert await text_of(app, "/x") == "200 x"


def test_a_handler_that_does_not_take_the_prefix_s_parameters_is_refused():
    app, router = App(), Router()

    @router.get("/{item}")
    async def handler(item: str) -> None: ...

    with pytest.raises(ConfigError, match=r"of '/\{tenant\}/\{item\}': it does not take the path parameter 'tenant'"):
        app.include(router, prefix="/{tenant}")


async def test_a_prefix_may_have_parameters_which_the_handlers_take():
    app, outer, inner = App(), Router(), Router()

    @inner.get("/")
    async def handler(tenant: str, shelf: int) -> list[Any]:
        return [tenant, shelf]

    outer.include(inner, prefix="/shelf/{shelf:int}")
    app.include(outer, prefix="/{tenant}")
    assert await text_of(app, "/me/shelf/5/") == '200 ["me",5]'


@pytest.mark.parametrize("prefix", ["api", "/api/", "/"])
def test_a_prefix_begins_with_a_slash_and_does_not_end_with_one(prefix):
    with pytest.raises(ConfigError, match="prefix="):
        App().include(Router(), prefix=prefix)


@pytest.mark.parametrize("prefix", ["/{x", "/a?b", "/{x:number}", "/a/../b"])
def test_a_prefix_that_no_path_can_have_is_refused_with_the_route(prefix):
    router = Router()
    router.get("/")(nothing)
    with pytest.raises(ConfigError, match=r"handler .*nothing .* of '/"):
        App().include(router, prefix=prefix)


def test_an_empty_path_is_refused_where_there_is_no_prefix():
    with pytest.raises(ConfigError, match="does not begin with a slash"):
        App().get("")(nothing)
    router = Router()
    router.get("")(nothing)
    with pytest.raises(ConfigError, match="does not begin with a slash"):
        App().include(router)


@pytest.mark.parametrize("path", ["x", "/{x", "/{x:number}"])
def test_a_wrong_path_is_refused_where_it_is_written(path):
    with pytest.raises(ConfigError, match="path"):
        Router().get(path)


# Converters


async def test_a_router_has_converters_of_its_own_and_those_of_who_includes_it():
    app = App(converters={"letter": Converter("[a-z]", str.upper)})
    router = Router(converters={"year": Converter("[0-9]{4}", int)})

    @router.get("/{year:year}")
    async def handler(year: int, letter: str) -> list[Any]:
        return [letter, year]

    app.include(router, prefix="/{letter:letter}")
    assert await text_of(app, "/a/2025") == '200 ["A",2025]'
    assert (await text_of(app, "/a/25")).startswith("404 ")
    with pytest.raises(ConfigError, match="unknown converter 'year'"):
        app.get("/{year:year}")


@pytest.mark.parametrize("name", ["int", "str", "a b", "", "1a"])
def test_a_converter_cannot_have_a_name_that_is_taken_or_none(name):
    with pytest.raises(ConfigError, match="converters="):
        Router(converters={name: Converter("x")})
    with pytest.raises(ConfigError, match="converters="):
        App(converters={name: Converter("x")})


# Policies


def test_the_innermost_policy_prevails():
    app = App(disconnect=FINISH, half_close="probe", deadline=10, max_body=1000)
    outer, inner = Router(deadline=20, disconnect=Grace(3)), Router(max_body=50)
    inner.get("/route", half_close="finish", deadline=40)(nothing)
    inner.get("/inner")(nothing)
    outer.include(inner)
    outer.get("/outer", disconnect=CANCEL)(nothing)
    app.include(outer)
    app.get("/app")(nothing)

    def of(target: str) -> tuple[Any, ...]:
        rules = rules_of(app, target)
        return rules.disconnect, rules.half_close, rules.deadline, rules.max_body

    assert of("/route") == (Grace(3), HalfClose.FINISH, 40, 50)
    assert of("/inner") == (Grace(3), HalfClose.PROBE, 20, 50)
    assert of("/outer") == (CANCEL, HalfClose.PROBE, 20, 1000)
    assert of("/app") == (FINISH, HalfClose.PROBE, 10, 1000)


def test_changes_of_the_status_policy_are_laid_over_each_other_from_the_outside_in():
    cell, other = (Phase.HANDLER, Cause.FIN), (Phase.HANDLER, Cause.RESET)
    app = App(abandoned_status=202)
    router = Router(abandoned_status={cell: 409})
    router.get("/route", abandoned_status={other: 418})(nothing)
    router.get("/all", abandoned_status=503)(nothing)
    router.get("/router")(nothing)
    app.include(router)

    def of(target: str) -> list[int | None]:
        return [rules_of(app, target).status.status(*each) for each in (cell, other, (Phase.BODY, Cause.FIN))]

    assert of("/route") == [409, 418, 202]
    assert of("/router") == [409, 202, 202]
    assert of("/all") == [503, 503, 503]


@pytest.mark.parametrize("options", [{"disconnect": "cancel"}, {"deadline": 0}, {"abandoned_status": 7}, {"name": "x"}])
def test_a_wrong_policy_is_refused_by_a_router(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        Router(**options)


@pytest.mark.parametrize("made", [App, Router])
def test_an_unknown_option_is_refused_with_those_that_there_are(made):
    with pytest.raises(ConfigError, match=r"no option 'timeout'; there are disconnect, .*, max_body, name"):
        made().get("/", timeout=5)


# Registration


def test_a_router_is_included_once():
    router = Router()
    App().include(router, prefix="/a")
    with pytest.raises(ConfigError, match="included already; make another"):
        App().include(router, prefix="/b")


def test_a_router_cannot_include_itself():
    router = Router()
    router.get("/")(nothing)
    with pytest.raises(ConfigError, match="included already"):
        router.include(router, prefix="/a")


def test_an_app_is_not_included_in_another():
    app = App()
    app.get("/")(nothing)
    for other in (App(), Router()):
        with pytest.raises(ConfigError, match="an App cannot be included; make it a Router"):
            other.include(app, prefix="/a")


@pytest.mark.parametrize("what", [None, nothing, "router", App])
def test_what_is_no_router_is_refused(what):
    with pytest.raises(ConfigError, match="include takes a Router"):
        App().include(what)


def test_after_a_router_was_included_nothing_is_registered_in_it():
    router, outer = Router(), Router()
    outer.include(router)
    for register in (
        lambda: router.get("/")(nothing),
        lambda: router.middleware(nothing),
        lambda: router.include(Router()),
        lambda: router.websocket("/")(nothing),
    ):
        with pytest.raises(ConfigError, match="included already; register before"):
            register()


async def test_while_an_app_is_served_nothing_is_registered_in_it():
    app = App()
    async with in_memory(app):
        for register in (
            lambda: app.get("/")(nothing),
            lambda: app.middleware(nothing),
            lambda: app.include(Router()),
            lambda: app.on_abandoned(nothing),
            lambda: app.error_handler(404)(nothing),
            lambda: app.dependency(provides=int)(Nothing),
            lambda: app.lifespan(Nothing),
            lambda: app.websocket("/")(nothing),
        ):
            with pytest.raises(ConfigError, match="being served; register before"):
                register()
    app.get("/")(lambda: "afterwards")
    assert await text_of(app) == "200 afterwards"


class Nothing:
    async def __aenter__(self) -> None: ...
    async def __aexit__(self, *_: object) -> None: ...


def test_a_conflict_between_routers_names_both_places():
    app, first, second = App(), Router(), Router()
    first.get("/x/{a}")(lambda a: a)

    @second.get("/{b}")
    async def another(b: str) -> None: ...

    app.include(first)
    with pytest.raises(
        ConfigError, match=r"GET /x/\{b\} of handler .*another .* is served already, by /x/\{a\} of handler"
    ):
        app.include(second, prefix="/x")


async def test_a_handler_may_be_registered_several_times():
    app = App()
    app.get("/a")(app.post("/b")(nothing))
    assert await text_of(app, "/a") == "204 "
    assert [route.pattern.text for route in app.routes] == ["/b", "/a"]


# Records


async def test_a_record_names_the_full_pattern():
    app, outer, inner = App(), Router(), Router()
    inner.get("/{item}")(lambda shelf, item: [shelf, item])
    outer.include(inner, prefix="/shelves/{shelf:int}")
    app.include(outer, prefix="/api")
    async with in_memory(app) as served:
        await served.get("/api/shelves/5/x?y=z")
        assert (await served.records.next(Completed)).route == "/api/shelves/{shelf:int}/{item}"
        await served.get("/api/shelves/x/y")
        assert (await served.records.next(Completed)).route is None
        client = served.connect()
        await client.send(b"GET /api/shelves/1/2 HTTP/1.1\r\nHost: a\r\n")
        client.close()
        assert (await served.records.next(Abandoned)).route is None


# url_for


class Unhashable(list):
    async def __call__(self) -> None: ...


class Shop:
    async def show(self, request: Request, item: str) -> str:
        return request.url_for(self.show, item=item)


async def test_a_url_is_made_by_handler_and_by_name():
    app, router, shop = App(), Router(), Shop()
    router.get("/items/{item}", name="item")(shop.show)
    router.get("/items")(nothing)
    app.include(router, prefix="/api")
    assert app.url_for("item", item="a b/c") == "/api/items/a%20b%2Fc"
    assert app.url_for(shop.show, item="x") == "/api/items/x"
    assert app.url_for(nothing) == app.url_for("nothing") == "/api/items"
    assert await text_of(app, "/api/items/me") == "200 /api/items/me"


@pytest.mark.parametrize("handler", [functools.partial(nothing), lambda: None, Unhashable()])
def test_any_handler_leads_to_its_url(handler):
    app = App()
    app.get("/x")(handler)
    assert app.url_for(handler) == "/x"


def test_of_several_routes_the_one_with_just_these_parameters_is_meant():
    app = App()

    async def page(number: int = 1, size: int = 10) -> None: ...

    app.get("/{number:int}/{size:int}")(page)
    app.get("/{number:int}")(page)
    app.get("/")(page)
    assert app.url_for(page) == "/"
    assert app.url_for(page, number=2) == "/2"
    assert app.url_for("page", number=2, size=5) == "/2/5"
    with pytest.raises(ConfigError, match=r"page.*: /\{number:int\}/\{size:int\}, /\{number:int\}, /"):
        app.url_for(page, size=5)


def test_several_routes_that_could_be_meant_are_refused_and_named():
    app = App()
    app.get("/a")(nothing)
    app.get("/b")(nothing)
    for what in (nothing, "nothing"):
        with pytest.raises(ConfigError, match=r"several routes are .*nothing.*: /a, /b"):
            app.url_for(what)


def test_several_methods_at_one_path_are_one_url():
    app = App()
    app.get("/a")(nothing)
    app.post("/a")(nothing)
    assert app.url_for(nothing) == "/a"


@pytest.mark.parametrize("what", ["missing", show, "", Shop().show])
def test_a_route_that_there_is_not_is_refused(what):
    with pytest.raises(ConfigError, match="url_for: there is no route"):
        App().url_for(what)


def test_a_parameter_that_does_not_fit_is_refused():
    app = App()
    app.get("/{x:int}")(lambda x: x)
    for parameters in ({}, {"y": 1}, {"x": "a"}, {"x": 1, "y": 2}):
        with pytest.raises(ConfigError):
            app.url_for("<lambda>", **parameters)


# What answers by itself


async def head_and_options(app: App, target: str) -> tuple[int | None, str | None]:
    async with in_memory(app) as served:
        answer = await served.get(target, method="OPTIONS")
        assert answer.body == b""
        return answer.status, answer.get("allow")


async def test_rfc9110_9_3_7_options_tells_what_is_allowed():
    app = App()
    app.get("/x")(nothing)
    app.route("/x", methods=["PUT", "BREW"])(nothing)
    app.post("/{y}")(lambda y: y)
    app.delete("/{y}/z")(lambda y: y)
    assert await head_and_options(app, "/x") == (204, "BREW, GET, HEAD, OPTIONS, POST, PUT")
    assert await head_and_options(app, "/y") == (204, "OPTIONS, POST")
    assert await head_and_options(app, "/y/z") == (204, "DELETE, OPTIONS")
    assert await head_and_options(app, "*") == (204, "BREW, DELETE, GET, HEAD, OPTIONS, POST, PUT")
    assert (await text_of(app, "/x/y", method="OPTIONS")).startswith("404 ")


async def test_rfc9110_9_3_7_options_about_the_server_is_answered_whatever_the_routes_are():
    assert await head_and_options(App(), "*") == (204, "OPTIONS")
    app = App()
    app.options("/{x:path}")(lambda x: pytest.fail(f"the route was asked for {x}"))
    assert await head_and_options(app, "*") == (204, "OPTIONS")
    assert await head_and_options(app, "http://test") == (204, "OPTIONS")


async def test_a_route_of_its_own_for_options_prevails():
    app = App()
    app.get("/x")(nothing)
    app.options("/x")(lambda: "own")
    assert await text_of(app, "/x", method="OPTIONS") == "200 own"


async def test_a_route_of_its_own_for_head_prevails():
    app = App()
    calls = []
    app.get("/x")(lambda: calls.append("get"))
    app.head("/x")(lambda: calls.append("head"))
    async with in_memory(app) as served:
        answer = await served.get("/x", method="HEAD")
        assert (answer.status, answer.body) == (204, b"")
        await served.get("/x")
    assert calls == ["head", "get"]


async def test_head_has_the_length_of_what_get_would_send():
    app = App()
    app.get("/x")(lambda: "twelve bytes")
    async with in_memory(app) as served:
        answer = await served.get("/x", method="HEAD")
        assert (answer.status, answer.body, answer.get("content-length")) == (200, b"", "12")


@pytest.mark.parametrize(("registered", "asked"), [("/x", "/x/"), ("/x/", "/x"), ("/a/{y}", "/a/b/")])
async def test_a_trailing_slash_counts_and_the_404_says_where_there_is_something(registered, asked):
    app = App()
    app.get(registered)((lambda y: y) if "{y}" in registered else (lambda: ""))
    near = asked[:-1] if asked.endswith("/") else asked + "/"
    assert await text_of(app, asked) == (
        f"404 404 Not Found\nthere is nothing at this address, but there is at {near}\n"
    )


async def test_the_hint_is_not_the_client_s_own_text():
    app = App()
    app.get("/{y}/")(lambda y: y)
    text = await text_of(app, "/%3Cb%3E")
    assert "%3Cb%3E/" in text
    assert "<b>" not in text


def test_a_decorator_without_its_path_says_how_it_is_written():
    for place in (App(), Router()):
        for name in ("get", "delete", "websocket"):
            with pytest.raises(ConfigError, match=rf'the path is <function .*; write .* @app.{name}\("/path"\)'):
                getattr(place, name)(nothing)


@pytest.mark.parametrize(("handler", "why"), [(5, "5, of type int"), (None, "None"), (Response, "a class")], ids=repr)
def test_what_is_no_function_is_no_handler(handler, why):
    for place in (App(), Router()):
        with pytest.raises(ConfigError, match=rf"the handler of '/a' is .*{why}.*; it must be a function"):
            place.get("/a")(handler)


async def takes_nothing() -> None: ...
async def takes_one(one) -> None: ...
async def takes_three(one, two, three) -> None: ...


@pytest.mark.parametrize("function", [takes_nothing, takes_one, takes_three])
def test_middleware_and_error_handlers_that_do_not_take_two_are_refused_with_their_place(function):
    place = rf"{function.__name__} \({__file__}:[0-9]+\) cannot be called so; write "
    with pytest.raises(ConfigError, match=rf"middleware .*{place}`async def name\(request, call_next\)`"):
        Router().middleware(function)
    with pytest.raises(ConfigError, match=rf"error_handler\(404\): .*{place}`async def name\(request, error\)`"):
        App().error_handler(404)(function)


@pytest.mark.parametrize("function", [takes_nothing, takes_three])
def test_a_hook_that_does_not_take_one_is_refused_with_its_place(function):
    place = rf"{function.__name__} \({__file__}:[0-9]+\) cannot be called so; write "
    with pytest.raises(ConfigError, match=rf"the hook .*{place}`async def name\(record\)`"):
        App().on_abandoned(function)


@pytest.mark.parametrize("function", [5, None, "print", Response], ids=repr)
def test_what_is_no_function_is_no_hook_and_no_error_handler(function):
    with pytest.raises(ConfigError, match=r"the hook .* is no function; write"):
        App().on_abandoned(function)
    with pytest.raises(ConfigError, match=r"error_handler\(404\): .* is no function; write"):
        App().error_handler(404)(function)


def test_functions_of_another_shape_that_can_be_called_so_are_taken():
    app = App()
    app.on_abandoned(takes_one)
    app.on_abandoned([].append)
    app.on_abandoned(functools.partial(takes_three, 1, 2))
    app.on_abandoned(lambda *arguments: None)  # noqa: ARG005
    app.error_handler(404)(lambda request, error, more=1: None)  # noqa: ARG005


async def test_decorators_without_arguments_may_have_parentheses():
    app, log = App(), []

    @app.lifespan()
    async def opened() -> AsyncIterator[None]:
        log.append("opened")
        yield

    @app.middleware()
    async def around(request: Request, call_next: Next) -> Response:
        log.append("around")
        return await call_next(request)

    app.on_abandoned()(takes_one)
    assert app.hooks == (takes_one,)
    app.get("/")(nothing)
    await text_of(app)
    assert log == ["opened", "around"]
