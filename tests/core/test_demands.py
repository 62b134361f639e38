"""What a head may demand, at the limit and beyond."""

from __future__ import annotations

import math

import pytest

from trioserve.core.demands import check_expectations, check_size
from trioserve.core.errors import RequestError
from trioserve.core.messages import RequestHead


def head(*fields: tuple[bytes, bytes], length: int | None = 0) -> RequestHead:
    return RequestHead("POST", "/", "1.1", fields, length)


@pytest.mark.parametrize(
    "values",
    [[], [b"100-continue"], [b"100-Continue"], [b" 100-continue\t"], [b""], [b"100-continue, ,100-continue"]],
    ids=repr,
)
def test_rfc9110_10_1_1_what_is_known_may_be_expected(values):
    check_expectations(head(*((b"expect", value) for value in values)))


@pytest.mark.parametrize(
    "values", [[b"200-maybe"], [b"100-continue", b"a"], [b"100-continue, a=b"], [b"100-continue;a"]], ids=repr
)
def test_rfc9110_10_1_1_what_is_not_known_is_refused(values):
    with pytest.raises(RequestError) as refusal:
        check_expectations(head(*((b"expect", value) for value in values)))
    assert refusal.value.status == 417


@pytest.mark.parametrize(("length", "max_body"), [(0, 1), (10, 10), (10**12, math.inf), (None, 1)])
def test_rfc9110_15_5_14_a_body_that_is_not_announced_as_too_large_is_awaited(length, max_body):
    check_size(head(length=length), max_body)


def test_rfc9110_15_5_14_a_body_that_is_announced_as_too_large_is_refused():
    with pytest.raises(RequestError, match="larger than 10 bytes") as refusal:
        check_size(head(length=11), 10)
    assert refusal.value.status == 413
