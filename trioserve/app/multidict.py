"""MultiDict: names with values, in the order in which they came; a name may come several times.

What a query string and a form are. It is read as `Headers` is, but for two things: names are compared exactly, since
nothing says that they are case-insensitive, and a value need not be text. Read-only: it tells what the client sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar, overload

V_co = TypeVar("V_co", covariant=True)
D = TypeVar("D")


class MultiDict(Generic[V_co]):
    """Names with values, in the order in which they came; a name may come several times.

    `values["name"]` and `values.get("name")` are the first value of a name, `values.get_all("name")` all of them;
    `"name" in values` says whether there is one; iterating gives (name, value) pairs, and `len` counts these.
    """

    __slots__ = ("_pairs",)

    def __init__(self, pairs: Iterable[tuple[str, V_co]] = ()) -> None:
        # Searched from the front and not indexed: there are few pairs, and fewer look-ups.
        self._pairs: tuple[tuple[str, V_co], ...] = tuple(pairs)

    @overload
    def get(self, name: str) -> V_co | None: ...
    @overload
    def get(self, name: str, default: D) -> V_co | D: ...
    def get(self, name: str, default: object = None) -> object:
        """The first value of `name`, or `default` if there is none."""
        for other, value in self._pairs:
            if other == name:
                return value
        return default

    def get_all(self, name: str) -> list[V_co]:
        """All values of `name` in the order in which they came; empty if there are none."""
        return [value for other, value in self._pairs if other == name]

    def __getitem__(self, name: str) -> V_co:
        for other, value in self._pairs:
            if other == name:
                return value
        raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        return any(other == name for other, _ in self._pairs)

    def __iter__(self) -> Iterator[tuple[str, V_co]]:
        """(name, value) pairs in the order in which they came."""
        return iter(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MultiDict) and self._pairs == other._pairs

    def __hash__(self) -> int:
        return hash(self._pairs)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self._pairs)!r})"
