"""What kind of function a user has given us, and how it is called in a message."""

from __future__ import annotations

import functools

import pytest

from trioserve.core.callables import is_async, name_of


async def async_function(_x=None): ...


def plain_function(_x=None): ...


async def async_generator(_x=None):
    yield


class Methods:
    async def async_method(self): ...

    def plain_method(self): ...

    @staticmethod
    async def async_static(): ...

    @classmethod
    async def async_class(cls): ...


class AsyncCall:
    async def __call__(self): ...


class PlainCall:
    def __call__(self): ...


@functools.wraps(async_function)
def plain_around_async(*args):
    return async_function(*args)


@pytest.mark.parametrize(
    "function",
    [
        async_function,
        Methods().async_method,
        Methods.async_method,
        Methods.async_static,
        Methods.async_class,
        AsyncCall(),
        functools.partial(async_function, 1),
        functools.partial(functools.partial(async_function), 1),
        functools.partial(AsyncCall()),
        functools.partial(Methods().async_method),
    ],
)
def test_what_makes_a_coroutine_is_async(function):
    assert is_async(function)


@pytest.mark.parametrize(
    "function",
    [
        plain_function,
        async_generator,
        plain_around_async,
        Methods().plain_method,
        PlainCall(),
        AsyncCall,  # calling the class makes an object
        Methods,
        functools.partial(plain_function, 1),
        functools.partial(PlainCall()),
        print,
    ],
)
def test_what_makes_no_coroutine_by_itself_is_plain(function):
    assert not is_async(function)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (plain_function, "plain_function"),
        (functools.partial(functools.partial(async_function)), "async_function"),
        (Methods().plain_method, "Methods.plain_method"),
        (Methods, "Methods"),
    ],
)
def test_a_function_is_called_as_it_would_be_imported(function, name):
    assert name_of(function) == f"{__name__}.{name}"


def test_a_builtin_has_its_module():
    assert name_of(print) == "builtins.print"


def test_an_object_that_is_called_is_known_by_its_repr():
    class Hook:
        def __call__(self): ...

        def __repr__(self):
            return "Hook(7)"

    assert name_of(Hook()) == f"{__name__}.Hook(7)"


def test_what_has_no_module_is_called_by_its_name_alone():
    function = functools.partial(plain_function)
    nameless = type(
        "Nameless", (), {"__call__": lambda _self: None, "__module__": None, "__repr__": lambda _self: "it"}
    )
    assert name_of(nameless()) == "it"
    assert name_of(function).endswith(".plain_function")
