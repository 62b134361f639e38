"""Routing: which paths a pattern fits, what its parameters become, and which route is found for a request."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioserve.app.routing import Match, NoMatch, Pattern, Router, normal_path
from trioserve.core.errors import ConfigError


def router(*routes: str) -> Router[str]:
    """A router of routes like "GET /x", each of which leads to its own text."""
    made: Router[str] = Router()
    for route in routes:
        methods, _, path = route.partition(" ")
        made.add(methods.split(","), Pattern(path), route)
    return made


# What a pattern fits


@pytest.mark.parametrize(
    ("pattern", "path", "parameters"),
    [
        ("/", "/", {}),
        ("/reports", "/reports", {}),
        ("/reports/{name}", "/reports/x", {"name": "x"}),
        ("/reports/{name:str}", "/reports/x.y-z", {"name": "x.y-z"}),
        ("/{a}/{b}", "/1/2", {"a": "1", "b": "2"}),
        ("/{a}-{b}", "/1-2-3", {"a": "1-2", "b": "3"}),
        ("/v{major:int}.{minor:int}", "/v1.20", {"major": 1, "minor": 20}),
        ("/reports/{year:int}", "/reports/2025", {"year": 2025}),
        ("/reports/{year:int}", "/reports/-5", {"year": -5}),
        ("/reports/{year:int}", "/reports/007", {"year": 7}),
        ("/reports/{year:int}", "/reports/999999999999999999", {"year": 999_999_999_999_999_999}),
        ("/files/{rest:path}", "/files/a", {"rest": "a"}),
        ("/files/{rest:path}", "/files/a/b/c.txt", {"rest": "a/b/c.txt"}),
        ("/files/{rest:path}/raw", "/files/a/b/raw", {"rest": "a/b"}),
        ("/a.b", "/a.b", {}),
        ("/{_x1}", "/y", {"_x1": "y"}),
    ],
)
def test_a_pattern_fits(pattern, path, parameters):
    assert Pattern(pattern).match(path) == parameters


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("/reports", "/reports/"),
        ("/reports/", "/reports"),
        ("/reports", "/Reports"),
        ("/reports", "/reports2"),
        ("/reports", "/x/reports"),
        ("/reports/{name}", "/reports/"),
        ("/reports/{name}", "/reports/a/b"),
        ("/reports/{year:int}", "/reports/x"),
        ("/reports/{year:int}", "/reports/1.5"),
        ("/reports/{year:int}", "/reports/+5"),
        ("/reports/{year:int}", "/reports/1_0"),
        ("/reports/{year:int}", "/reports/%D9%A3"),  # an Arabic digit
        ("/reports/{year:int}", "/reports/1000000000000000000"),
        ("/files/{rest:path}", "/files/"),
        ("/a.b", "/axb"),
        ("/", ""),
        ("/", "*"),
    ],
)
def test_a_pattern_does_not_fit(pattern, path):
    assert Pattern(pattern).match(path) is None


@pytest.mark.parametrize(
    ("pattern", "path", "parameters"),
    [
        ("/{name}", "/caf%C3%A9", {"name": "café"}),
        ("/{name}", "/a%2Fb", {"name": "a/b"}),  # an encoded slash is no separator
        ("/{name}", "/a+b", {"name": "a+b"}),  # a plus is a plus: it means a space in forms only
        ("/{name}", "/%25", {"name": "%"}),
        ("/{name}", "/a%0Ab", {"name": "a\nb"}),
        ("/{name:path}", "/a%2Fb/c", {"name": "a/b/c"}),
    ],
)
def test_rfc3986_2_1_parameters_are_percent_decoded(pattern, path, parameters):
    assert Pattern(pattern).match(path) == parameters


def test_a_parameter_that_is_no_utf_8_is_no_such_resource():
    assert Pattern("/{name}").match("/%FF") is None


@pytest.mark.parametrize(
    ("registered", "asked"),
    [
        ("/a", "/%61"),
        ("/~user", "/%7euser"),
        ("/café", "/caf%c3%A9"),
        ("/a b", "/a%20b"),
        ("/a%20b", "/a%20b"),
        ("/a%2fb", "/a%2Fb"),
        ("/100%", "/100%25"),
        ("/x@y:z", "/x%40y%3az"),
        ("/café/{name}", "/caf%C3%A9/1"),
        ("/a%2fb/{name}", "/a%2fb/1"),
    ],
)
def test_rfc3986_6_2_2_paths_are_compared_in_their_normal_form(registered, asked):
    assert isinstance(router(f"GET {registered}").find("GET", asked), Match)


def test_an_encoded_slash_is_not_a_slash():
    assert router("GET /a/b").find("GET", "/a%2Fb") == NoMatch(frozenset())
    assert router("GET /a%2Fb").find("GET", "/a/b") == NoMatch(frozenset())


@given(path=st.text("ab/%234567FfC3A9~!$&'()*+,;=:@-._", max_size=20))
def test_a_normal_path_is_its_own_normal_form(path):
    assert normal_path(normal_path(path)) == normal_path(path)


@given(name=st.text(min_size=1))
def test_whatever_a_client_encodes_is_what_the_parameter_becomes(name):
    encoded = "".join(f"%{byte:02x}" for byte in name.encode("utf-8", "replace"))
    match = router("GET /{name}").find("GET", f"/{encoded}")
    assert match == Match("GET /{name}", {"name": name.encode("utf-8", "replace").decode()})


# What is no pattern


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("reports", "does not begin with a slash"),
        ("", "does not begin with a slash"),
        ("{path:path}", "does not begin with a slash"),
        ("/{x}/{x}", "the parameter 'x' twice"),
        ("/{x:float}", "unknown converter 'float'; there are str, int, path"),
        ("/{x", "stray brace"),
        ("/x}", "stray brace"),
        ("/{}", "stray brace"),
        ("/{1x}", "stray brace"),
        ("/{x:}", "stray brace"),
        ("/{{x}}", "stray brace"),
    ],
)
def test_what_is_no_pattern_is_a_config_error_that_quotes_it(pattern, why):
    with pytest.raises(ConfigError, match=why) as caught:
        Pattern(pattern)
    assert repr(pattern) in str(caught.value)


# Which route is found


def test_a_request_goes_to_the_route_of_its_method_and_path():
    routes = router("GET /a", "POST /a", "GET /b", "PUT /{x}")
    assert routes.find("GET", "/a") == Match("GET /a", {})
    assert routes.find("POST", "/a") == Match("POST /a", {})
    assert routes.find("GET", "/b") == Match("GET /b", {})
    assert routes.find("PUT", "/c") == Match("PUT /{x}", {"x": "c"})


def test_a_route_may_have_several_methods():
    routes = router("GET,POST /a")
    assert routes.find("GET", "/a") == routes.find("POST", "/a") == Match("GET,POST /a", {})


def test_rfc9110_9_1_methods_are_case_sensitive():
    assert router("GET /a").find("get", "/a") == NoMatch(frozenset({"GET", "HEAD"}))


def test_a_path_without_parameters_beats_one_with():
    for routes in (router("GET /{x}", "GET /new"), router("GET /new", "GET /{x}")):
        assert routes.find("GET", "/new") == Match("GET /new", {})
        assert routes.find("GET", "/old") == Match("GET /{x}", {"x": "old"})


def test_of_several_patterns_the_first_prevails():
    routes = router("GET /{number:int}", "GET /{word}", "GET /{rest:path}")
    assert routes.find("GET", "/1") == Match("GET /{number:int}", {"number": 1})
    assert routes.find("GET", "/one") == Match("GET /{word}", {"word": "one"})
    assert routes.find("GET", "/one/two") == Match("GET /{rest:path}", {"rest": "one/two"})
    assert router("GET /{rest:path}", "GET /{number:int}").find("GET", "/1") == Match("GET /{rest:path}", {"rest": "1"})


def test_a_method_is_looked_for_in_every_pattern_that_fits():
    routes = router("POST /new", "GET /{x}", "PUT /{rest:path}")
    assert routes.find("GET", "/new") == Match("GET /{x}", {"x": "new"})
    assert routes.find("PUT", "/new") == Match("PUT /{rest:path}", {"rest": "new"})


def test_rfc9110_9_3_2_head_falls_back_to_get():
    assert router("GET /a").find("HEAD", "/a") == Match("GET /a", {})
    assert router("GET /{x}").find("HEAD", "/a") == Match("GET /{x}", {"x": "a"})


def test_head_has_its_own_route_if_there_is_one():
    routes = router("GET /a", "HEAD /a")
    assert routes.find("HEAD", "/a") == Match("HEAD /a", {})
    assert routes.find("GET", "/a") == Match("GET /a", {})


def test_head_falls_back_to_nothing_but_get():
    assert router("POST /a").find("HEAD", "/a") == NoMatch(frozenset({"POST"}))


def test_rfc9110_15_5_6_a_method_that_is_not_allowed_is_told_what_is():
    routes = router("GET /new", "POST /{x}", "DELETE /{rest:path}", "PUT /other")
    assert routes.find("PATCH", "/new") == NoMatch(frozenset({"GET", "HEAD", "POST", "DELETE"}))


def test_an_unknown_path_allows_nothing():
    assert router("GET /a").find("GET", "/b") == NoMatch(frozenset())
    assert router().find("GET", "/") == NoMatch(frozenset())


def test_a_router_knows_the_methods_of_its_routes():
    routes = router("GET,BREW /a", "POST /{x}")
    assert [method for method in ("GET", "BREW", "POST", "HEAD", "PUT") if routes.knows_method(method)] == [
        "GET",
        "BREW",
        "POST",
    ]


@pytest.mark.parametrize(
    ("first", "second"), [("GET /a", "GET /a"), ("GET /{x}", "POST,GET /{x}"), ("GET /a b", "GET /a%20b")]
)
def test_a_route_that_exists_is_a_config_error(first, second):
    with pytest.raises(ConfigError, match=r"GET .* is registered twice"):
        router(first, second)
