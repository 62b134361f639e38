"""Errors: what they say, and to whom."""

from __future__ import annotations

import pytest

from trioserve.core import errors
from trioserve.core.errors import ConfigError, HTTPError, RequestError, TrioserveError, error_content, phrase


@pytest.mark.parametrize("status", [400, 404, 599])
def test_an_http_error_has_an_error_status_code(status):
    assert HTTPError(status).status == status


@pytest.mark.parametrize("status", [399, 600, 200, 0, -400])
def test_an_http_error_of_another_status_code_cannot_be(status):
    with pytest.raises(ValueError, match=f"400 to 599, not {status}"):
        HTTPError(status)


def test_an_http_error_says_what_was_wrong():
    error = HTTPError(404, "no such report")
    assert (error.status, error.detail, str(error)) == (404, "no such report", "404 no such report")


def test_an_http_error_without_a_detail_says_its_phrase():
    assert HTTPError(404).detail == "Not Found"
    assert str(HTTPError(404)) == "404 Not Found"


def test_a_request_error_is_an_http_error():
    assert isinstance(RequestError(400), HTTPError)


def test_a_config_error_is_a_value_error():
    assert issubclass(ConfigError, ValueError)


def test_whatever_is_raised_on_purpose_has_one_base():
    raised = [error for error in vars(errors).values() if isinstance(error, type) and issubclass(error, Exception)]
    assert len(raised) > 5
    assert all(issubclass(error, TrioserveError) for error in raised)


@pytest.mark.parametrize(("status", "text"), [(200, "OK"), (404, "Not Found"), (499, ""), (1000, "")])
def test_a_status_code_has_its_phrase_or_none(status, text):
    assert phrase(status) == text


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (413, "Content Too Large"),
        (414, "URI Too Long"),
        (416, "Range Not Satisfiable"),
        (422, "Unprocessable Content"),
    ],
)
def test_rfc9110_15_the_phrases_are_those_of_today(status, text):
    assert phrase(status) == text


def test_the_body_of_an_error_is_for_people_to_read():
    assert error_content(404, "kein Blatt für Ärger", [])[1] == "404 Not Found\nkein Blatt für Ärger\n".encode()


def test_a_status_code_without_a_phrase_leaves_no_space_behind():
    assert error_content(499, "gone", [])[1] == b"499\ngone\n"
    assert str(HTTPError(499)) == "499"


def test_text_that_utf_8_cannot_carry_still_makes_a_body():
    assert error_content(400, "\udc80 is wrong", [])[1].startswith(b"400 Bad Request\n")
