"""What a handler takes, found by its parameters' annotations: in each shape in which Python has functions.

Here annotations are objects; in test_postponed_annotations.py they are text.
"""

import contextlib
import functools
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Annotated, Any, NewType, Optional, Protocol, Union

import pytest

from tests.support.memory import in_memory, text_of
from trioserve import App, ConfigError, Converter, Request, Router


class Pool:
    name = "pool"


class Connection:
    def __init__(self, name: str = "connection") -> None:
        self.name = name


def app_with_connection(**options: Any) -> App:
    app = App(**options)

    @app.dependency
    async def connection() -> AsyncIterator[Connection]:
        yield Connection()

    return app


# The request


async def annotated(the_request: Request):
    return the_request.path


async def annotated_among_others(x: Pool | None = None, *, the_request: Request):
    return the_request.path + str(x)[:0]


async def unannotated(the_request):
    return the_request.path


async def optional(the_request: Optional[Request]):  # noqa: UP045
    return the_request.path


async def optional_with_default(the_request: Request | None = None):
    return the_request.path


async def union(the_request: Union[Request, Connection]):  # noqa: UP007
    return the_request.path


async def optional_with_text_inside(the_request: Optional["Request"]):
    return the_request.path


async def said_more_of(the_request: Annotated[Request, "more"]):
    return the_request.path


async def said_more_of_in_text(the_request: Annotated["Request", "more"] | None):
    return the_request.path


async def quoted(the_request: "Request"):
    return the_request.path


async def quoted_and_unknown(the_request: "trioserve.Request"):  # noqa: F821 - as if known to type checkers alone
    return the_request.path


async def quoted_optional_and_unknown(the_request: "trioserve.Request | None"):  # noqa: F821
    return the_request.path


async def with_variables(the_request: Request, *args, **kwargs):
    return the_request.path + "".join(args) + "".join(kwargs)


class Handlers:
    async def method(self, the_request: Request):
        return the_request.path

    def plain_method(self, the_request: Request):
        return the_request.path

    @classmethod
    async def class_method(cls, the_request: Request):
        return the_request.path

    @staticmethod
    async def static_method(the_request: Request):
        return the_request.path

    async def __call__(self, the_request: Request):
        return the_request.path


async def partially(suffix: str, the_request: Request):
    return the_request.path + suffix


def around(function):
    @functools.wraps(function)
    async def wrapper(*args, **kwargs):
        return await function(*args, **kwargs)

    return wrapper


REQUEST_TAKERS = [
    annotated,
    functools.partial(annotated_among_others, x=None),
    unannotated,
    optional,
    optional_with_default,
    union,
    optional_with_text_inside,
    said_more_of,
    said_more_of_in_text,
    quoted,
    quoted_and_unknown,
    quoted_optional_and_unknown,
    around(annotated),
    functools.partial(partially, ""),
    functools.partial(partially, suffix=""),
    functools.partial(functools.partial(partially), ""),
    functools.partial(Handlers().method),
    Handlers().method,
    Handlers().plain_method,
    Handlers.class_method,
    Handlers.static_method,
    Handlers(),
]


@pytest.mark.parametrize("handler", REQUEST_TAKERS, ids=range(len(REQUEST_TAKERS)))
async def test_a_handler_of_any_shape_gets_the_request_by_its_annotation(handler):
    app = app_with_connection()
    app.get("/a")(handler)
    assert await text_of(app, "/a") == "200 /a"


@pytest.mark.parametrize("handler", [with_variables], ids=["variables"])
async def test_what_a_function_takes_besides_is_left_empty_or_refused(handler):
    with pytest.raises(ConfigError, match="it takes 'args', 'kwargs'"):
        App().get("/")(handler)


async def test_a_base_class_of_the_request_is_the_request_but_object_is_not():
    with pytest.raises(ConfigError, match="nobody provides 'x"):

        @App().get("/")
        async def handler(x: object): ...


async def test_a_path_parameter_comes_before_everything_else_of_its_name():
    app = App()

    @app.get("/{request}/{pool:int}")
    async def handler(request: str, pool: Pool):
        return [request, pool]

    assert await text_of(app, "/a/5") == '200 ["a",5]'


# What a dependency provides


Replica = Annotated[Connection, "replica"]
UserId = NewType("UserId", int)


class Nameable(Protocol):
    name: str

    def rename(self) -> None: ...


class Empty(Protocol): ...


@pytest.mark.parametrize(
    "key",
    [Connection, Replica, UserId, Nameable, Empty, dict[str, int], Callable[[], Awaitable[None]], Any],
    ids=str,
)
async def test_any_annotation_can_be_what_is_provided(key):
    app = App()

    @app.dependency(provides=key)
    async def provider() -> AsyncIterator[Any]:
        yield "the value"

    @app.get("/")
    async def handler(x: key, *, y: key):
        return [x, y]

    assert await text_of(app) == '200 ["the value","the value"]'


@pytest.mark.parametrize("annotation", [Nameable, Empty], ids=str)
def test_a_protocol_that_nobody_provides_is_refused_like_any_other(annotation):
    with pytest.raises(ConfigError, match="nobody provides 'x"):

        @App().get("/")
        async def handler(x: annotation): ...


@pytest.mark.parametrize(
    "annotation",
    [Optional[Connection], Connection | None, None | Connection, Union[Pool, Connection, None], "Connection | None"],  # noqa: UP007, UP045
    ids=str,
)
@pytest.mark.parametrize("default", [{}, {"x": None}], ids=["required", "default"])
async def test_of_a_union_what_is_provided_is_given(annotation, default):
    app = app_with_connection()

    async def handler(x):
        return x.name

    handler.__annotations__ = {"x": annotation}
    if default:
        handler.__defaults__ = (None,)
    app.get("/")(handler)
    assert await text_of(app) == "200 connection"


@pytest.mark.parametrize("default", [{"annotation": int}, {}], ids=["annotated", "not annotated"])
@pytest.mark.parametrize("kind", [inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY], ids=str)
def test_a_default_that_nobody_would_ever_replace_is_refused(default, kind):
    def handler(request: Request, page=1): ...

    parameters = [
        inspect.signature(handler).parameters["request"],
        inspect.Parameter("page", kind, default=1, **default),
    ]
    handler.__signature__ = inspect.Signature(parameters)
    with pytest.raises(ConfigError, match=r"'page.*' would always be 1, .*; read request.query") as caught:
        App().get("/")(handler)
    assert str(caught.value).startswith(f"handler {__name__}.")


def test_also_one_that_waits_for_what_is_registered_too_late():
    with pytest.raises(ConfigError, match=r"'x: .*Pool.*' would always be None"):

        @App().get("/")
        async def handler(x: Pool | None = None): ...


async def test_a_default_that_a_partial_binds_stands():
    async def handler(x, request: Request, y="2", *, z: int = 0):
        return [x, request.path, y, z]

    app = App()
    app.get("/")(functools.partial(functools.partial(handler, "1"), y="3", z=4))
    assert await text_of(app) == '200 ["1","/","3",4]'


async def test_a_default_stands_where_the_route_has_no_such_parameter_but_an_earlier_one_of_the_handler_has():
    app = App()

    @app.get("/")
    @app.get("/{page:int}")
    async def handler(page: int = 1):
        return [page]

    assert await text_of(app) == "200 [1]"
    assert await text_of(app, "/2") == "200 [2]"


async def test_a_dependency_may_have_defaults():
    app = App()

    @app.dependency
    async def pool(name: str = "by default") -> AsyncIterator[Pool]:
        made = Pool()
        made.name = name
        yield made

    @app.get("/")
    async def handler(pool: Pool):
        return pool.name

    assert await text_of(app) == "200 by default"


# What a path parameter becomes


@pytest.mark.parametrize(
    ("path", "annotation"),
    [
        ("/{x}", int),
        ("/{x}", "int | None"),
        ("/{x:path}", bytes),
        ("/{x:int}", str),
        ("/{x:int}", bool),
        ("/{x:float}", int),
        ("/{x:uuid}", "str"),
        ("/{x:int}", Annotated[str, "of digits"]),
    ],
)
def test_an_annotation_that_contradicts_the_path_is_refused(path, annotation):
    async def handler(x): ...

    handler.__annotations__ = {"x": annotation}
    with pytest.raises(ConfigError, match=r"'x: .*', but the path gives .*; .* as \{x:int\}"):
        App().get(path)(handler)


@pytest.mark.parametrize(
    ("path", "annotation"),
    [
        ("/{x}", str),
        ("/{x}", "str | None"),
        ("/{x}", Optional["str"]),
        ("/{x}", object),
        ("/{x}", Any),
        ("/{x}", "Missing"),
        ("/{x}", Nameable),
        ("/{x:int}", float),
        ("/{x:int}", UserId),
        ("/{x:int}", int | str),
        ("/{x:year}", str),
    ],
)
def test_what_agrees_or_cannot_be_judged_is_taken(path, annotation):
    async def handler(x): ...

    handler.__annotations__ = {"x": annotation}
    App(converters={"year": Converter("[0-9]{4}", int)}).get(path)(handler)


async def test_what_is_provided_prevails_over_a_default():
    app = app_with_connection()

    @app.get("/")
    async def handler(x: Connection = None):
        return x.name

    assert await text_of(app) == "200 connection"


async def test_what_is_annotated_is_looked_for_as_a_whole_and_then_as_what_it_annotates():
    app = app_with_connection()

    @app.dependency(provides=Replica)
    async def replica() -> AsyncIterator[Connection]:
        yield Connection("replica")

    @app.get("/")
    async def handler(x: Replica, y: Annotated[Connection, []], z: Annotated["Connection", "any"] | None):
        return [x.name, y.name, z.name]

    assert await text_of(app) == '200 ["replica","connection","connection"]'


async def test_a_method_of_an_object_may_provide():
    class Provider:
        async def connection(self, request: Request) -> AsyncIterator[Connection]:
            yield Connection(request.path)

        async def __call__(self) -> AsyncGenerator[Pool, None]:
            yield Pool()

    app = App()
    app.dependency(Provider().connection)
    app.dependency(Provider())

    @app.get("/")
    async def handler(x: Connection, y: Pool):
        return [x.name, y.name]

    assert await text_of(app) == '200 ["/","pool"]'


async def test_a_class_with_aenter_provides_itself_and_is_made_of_what_it_takes():
    app = App()

    @app.dependency
    async def pool() -> AsyncIterator[Pool]:
        yield Pool()

    @app.dependency
    class Transaction:
        def __init__(self, pool: Pool, request: Request) -> None:
            self.name = pool.name + request.path

        async def __aenter__(self):
            return self

        async def __aexit__(self, *_): ...

    @app.get("/a")
    async def handler(transaction: Transaction):
        return transaction.name

    assert await text_of(app, "/a") == "200 pool/a"


async def test_a_decorated_context_manager_and_a_partial_of_one_provide_what_they_yield():
    app = App()

    @app.dependency
    @contextlib.asynccontextmanager
    async def pool() -> AsyncIterator[Pool]:
        yield Pool()

    async def connection(name: str, pool: Pool) -> AsyncIterator[Connection]:
        yield Connection(name + pool.name)

    app.dependency(functools.partial(connection, "of the "))

    @app.get("/")
    async def handler(x: Connection):
        return x.name

    assert await text_of(app) == "200 of the pool"


async def test_a_function_that_makes_a_context_manager_provides_what_it_says():
    app = App()

    @contextlib.asynccontextmanager
    async def opened(name):
        yield Connection(name)

    @app.dependency
    def connection() -> contextlib.AbstractAsyncContextManager[Connection]:
        return opened("made")

    @app.get("/")
    async def handler(x: Connection):
        return x.name

    assert await text_of(app) == "200 made"


# What does not fit


class NoManager: ...


async def a_coroutine() -> Pool: ...


def a_generator() -> AsyncIterator[Pool]:
    yield Pool()


@contextlib.contextmanager
def a_plain_manager() -> AsyncIterator[Pool]:
    yield Pool()


async def says_nothing():
    yield Pool()


async def says_something_else() -> Pool:
    yield Pool()


async def yields_none() -> AsyncIterator[None]:
    yield


async def needs_what_there_is_not(connection: Connection) -> AsyncIterator[Pool]:
    yield Pool()


async def needs_itself(pool: Pool) -> AsyncIterator[Pool]:
    yield Pool()


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (NoManager, "it must be an async context manager"),
        (a_coroutine, "it must be an async generator"),
        (a_generator, "it must be an async generator"),
        (a_plain_manager, "it must be an async generator"),
        (says_nothing, "does not say what it provides"),
        (says_something_else, "does not say what it provides"),
        (yields_none, "provides None, which nobody can ask for"),
        (needs_what_there_is_not, "nobody provides 'connection: Connection'; what can be taken: Request; anything"),
        (needs_itself, "nobody provides 'pool: Pool'"),
        (Connection(), "callable"),
        ("Connection", "callable"),
    ],
)
def test_a_dependency_that_is_none_is_refused_with_its_place(function, why):
    with pytest.raises(ConfigError, match=why) as caught:
        App().dependency(function)
    if hasattr(function, "__name__"):
        assert f"{__name__}.{function.__name__}" in str(caught.value)
    if hasattr(function, "__code__"):
        assert f"{__file__}:" in str(caught.value)


@pytest.mark.parametrize("function", [NoManager, a_coroutine, a_generator, a_plain_manager])
def test_it_is_refused_too_where_it_is_said_what_it_provides(function):
    with pytest.raises(ConfigError, match="it must be an async"):
        App().dependency(provides=Pool)(function)


def test_two_that_provide_the_same_are_refused_and_both_places_named():
    app = app_with_connection()
    with pytest.raises(ConfigError, match="provides already") as caught:

        @app.dependency
        async def another() -> AsyncIterator[Connection]:
            yield Connection()

    assert str(caught.value).count(__file__) == 2


def test_a_lifespan_and_a_dependency_that_provide_the_same_are_refused():
    app = app_with_connection()
    with pytest.raises(ConfigError, match="provides already"):

        @app.lifespan
        async def connection() -> AsyncIterator[Connection]:
            yield Connection()

    assert not app._lifespans, "what was refused is not there"


def test_a_lifespan_cannot_take_what_is_made_for_an_exchange():
    app = app_with_connection()
    for annotation in (Connection, Request):
        with pytest.raises(ConfigError, match=r"nobody provides 'x: .*'; what can be taken: App;"):

            @app.lifespan
            async def pool(x: annotation) -> AsyncIterator[Pool]:
                yield Pool()


def test_a_parameter_that_nobody_provides_is_refused_with_what_there_is():
    app = app_with_connection()
    with pytest.raises(ConfigError) as caught:

        @app.get("/{a}")
        async def handler(a: str, pool: Pool, session): ...

    said = str(caught.value)
    assert said.startswith(f"handler {__name__}.")
    assert f"({__file__}:" in said
    assert "of '/{a}': nobody provides 'pool: Pool', 'session'; " in said
    assert "; what can be taken: Request, Connection, and the path parameters 'a'; " in said
    assert said.endswith("registered above this with @app.dependency or @app.lifespan")


def test_what_cannot_be_evaluated_is_told_as_written():
    with pytest.raises(ConfigError, match=r"nobody provides 'x: database\.Missing \| None' \('Missing' cannot be eval"):

        @App().get("/")
        async def handler(x: "database.Missing | None"): ...  # noqa: F821


async def positional(request: Request, /): ...
async def two_requests(a: Request, b: Request): ...
async def unannotated_but_two(a, b): ...
async def annotated_with_what_cannot_be(a: [1]): ...


@pytest.mark.parametrize(
    ("handler", "why"),
    [
        (positional, "it takes 'request', but all is passed by name"),
        (two_requests, "it takes the same twice, as 'a' and 'b'"),
        (unannotated_but_two, "nobody provides 'a', 'b'; what can be taken: Request;"),
        (annotated_with_what_cannot_be, r"nobody provides 'a: \[1\]'; what"),
    ],
)
def test_what_cannot_be_given_is_refused(handler, why):
    with pytest.raises(ConfigError, match=why):
        App().get("/")(handler)


def test_a_handler_in_a_router_may_need_what_is_registered_before_the_router_is_included():
    router = Router()

    @router.get("/")
    async def handler(x: Connection): ...

    with pytest.raises(ConfigError, match="nobody provides 'x"):
        App().include(router)

    router = Router()
    router.get("/")(handler)
    app_with_connection().include(router)


# Annotations that cannot be evaluated


def test_an_unknown_class_is_found_by_its_name():
    app = app_with_connection()

    @app.get("/")
    async def handler(x: "somewhere.Connection", y: "Connection"): ...  # noqa: F821


def test_a_name_that_two_have_is_refused():
    app = app_with_connection()

    class Other: ...

    Other.__name__ = "Connection"

    @app.dependency
    async def other() -> AsyncIterator[Other]:
        yield Other()

    with pytest.raises(ConfigError, match="several are named 'Connection'"):

        @app.get("/")
        async def handler(x: "somewhere.Connection"): ...  # noqa: F821


def test_a_variable_that_comes_later_is_no_obstacle():
    app = App()

    @app.get("/")
    async def handler(x: "Request"):
        return later

    later = 5


async def test_what_is_said_in_text_inside_a_class_is_understood():
    app = App()

    @app.dependency(provides=Replica)
    async def replica() -> AsyncIterator[Connection]:
        yield Connection("replica")

    class Shop:
        def __init__(self) -> None:
            app.get("/")(self.show)

        async def show(self, x: "Replica"):
            return x.name

    Shop()
    assert await text_of(app) == "200 replica"


async def test_what_is_yielded_can_be_said_in_text_too():
    app = App()

    @app.dependency
    async def connection() -> "AsyncIterator[Connection]":
        yield Connection()

    @app.get("/")
    async def handler(x: Connection):
        return x.name

    assert await text_of(app) == "200 connection"


@pytest.mark.parametrize("annotation", ["Missing[Pool]", "1 / 0", "no Python"])
def test_what_says_nothing_of_what_is_yielded_is_refused(annotation):
    async def pool():
        yield Pool()

    pool.__annotations__ = {"return": annotation}
    with pytest.raises(ConfigError, match="does not say what it provides"):
        App().dependency(pool)


# Several served at once


async def test_each_app_has_its_own():
    first, second = app_with_connection(), App()

    @second.dependency
    async def connection() -> AsyncIterator[Connection]:
        yield Connection("second")

    async def handler(x: Connection):
        return x.name

    first.get("/")(handler)
    second.get("/")(handler)
    async with in_memory(first) as one, in_memory(second) as two:
        assert (await one.get()).body == b"connection"
        assert (await two.get()).body == b"second"
