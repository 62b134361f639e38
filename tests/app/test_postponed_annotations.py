"""What a handler takes, where `from __future__ import annotations` makes text of all annotations.

And where some of the names in them are imported for type checkers alone, as linters advise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import pytest

from tests.support.memory import text_of
from trioserve import App, ConfigError

if TYPE_CHECKING:
    import contextlib
    import types
    from collections.abc import AsyncIterator
    from typing import Optional

    import trioserve
    from trioserve import Request

    class Unknown: ...


class Pool:
    def __init__(self, name: str = "pool") -> None:
        self.name = name


Replica = Annotated[Pool, "replica"]
Itself = "Itself"


def app_with_pools() -> App:
    app = App()

    @app.dependency
    async def pool() -> AsyncIterator[Pool]:
        yield Pool()

    @app.dependency
    async def replica() -> AsyncIterator[Replica]:
        yield Pool("replica")

    @app.dependency
    async def unknown() -> AsyncIterator[Unknown]:
        yield Pool("unknown")

    return app


async def by_name(request: Request):
    return "request" + request.path[:0]


async def by_qualified_name(request: trioserve.Request):
    return "request" + request.path[:0]


async def by_optional(request: Optional[Request]):  # noqa: UP045
    return "request" + request.path[:0]


async def by_union(request: types.NoneType | Request | None):
    return "request" + request.path[:0]


async def by_text(request: "Request"):  # noqa: UP037
    return "request" + request.path[:0]


async def takes_pool(pool: Pool):
    return pool.name


async def takes_pool_or_none(pool: Pool | None):
    return pool.name


async def takes_replica(pool: Replica):
    return pool.name


async def takes_replica_in_full(pool: Annotated[Pool, "replica"]):
    return pool.name


async def takes_unknown(pool: Unknown):
    return pool.name


async def takes_optional_unknown(pool: Optional[Unknown] = None):  # noqa: UP045
    return pool.name


class Shop:
    async def takes_replica(self, pool: Replica):
        return pool.name

    async def __call__(self, pool: Unknown | None = None):
        return pool.name


@pytest.mark.parametrize(
    ("handler", "body"),
    [
        (by_name, "request"),
        (by_qualified_name, "request"),
        (by_optional, "request"),
        (by_union, "request"),
        (by_text, "request"),
        (takes_pool, "pool"),
        (takes_pool_or_none, "pool"),
        (takes_replica, "replica"),
        (takes_replica_in_full, "replica"),
        (takes_unknown, "unknown"),
        (takes_optional_unknown, "unknown"),
        (Shop().takes_replica, "replica"),
        (Shop(), "unknown"),
    ],
)
async def test_the_text_of_an_annotation_is_understood(handler, body):
    app = app_with_pools()
    app.get("/")(handler)
    assert await text_of(app) == f"200 {body}"


async def test_a_class_inside_a_function_is_known_by_its_name():
    class Basket:
        name = "basket"

    app = App()

    @app.dependency
    async def basket() -> AsyncIterator[Basket]:
        yield Basket()

    @app.dependency
    class Receipt:
        def __init__(self, basket: Basket) -> None:
            self.name = f"receipt of {basket.name}"

        async def __aenter__(self):
            return self

        async def __aexit__(self, *_): ...

    @app.get("/")
    async def handler(receipt: Receipt, basket: Basket | None):
        return [receipt.name, basket.name]

    assert await text_of(app) == '200 ["receipt of basket","basket"]'


async def test_a_context_manager_may_be_said_by_a_name_for_type_checkers_alone():
    app = App()

    @app.dependency
    class Opened:
        name = "opened"

        async def __aenter__(self):
            return self

        async def __aexit__(self, *_): ...

    @app.dependency
    def pool(opened: Opened) -> contextlib.AbstractAsyncContextManager[Pool]:
        return opened

    @app.get("/")
    async def handler(pool: Pool):
        return pool.name

    assert await text_of(app) == "200 opened"


@pytest.mark.parametrize("annotation", ["Itself", "no Python", "1 / 0", "Missing", "Missing[Pool]", "Missing | int"])
def test_what_nobody_provides_is_refused(annotation):
    async def handler(x): ...

    handler.__annotations__ = {"x": annotation}
    with pytest.raises(ConfigError, match="nobody provides 'x"):
        app_with_pools().get("/")(handler)
