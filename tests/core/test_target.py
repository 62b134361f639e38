"""For whom a request is: its target and its Host field, as tables in the order of RFC 9112 §3.2.

Each case is tried as the client sent it; what is refused, is refused with 400 and says why.
"""

from __future__ import annotations

import itertools
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioserve.core.errors import RequestError
from trioserve.core.target import authority_of, check_scheme, host_of, is_for_server, path_of

NO_HOST: tuple[bytes, ...] = ()


def authority(method: str, target: str, *hosts: bytes, version: str = "1.1") -> str | None:
    fields = [(b"accept", b"*/*"), *((b"host", host) for host in hosts), (b"x-host", b"elsewhere")]
    return authority_of(method, target, host_of(version, fields))


def refusal(method: str, target: str, *hosts: bytes, version: str = "1.1") -> str:
    """Why a request is refused."""
    with pytest.raises(RequestError) as caught:
        authority(method, target, *hosts, version=version)
    assert caught.value.status == 400
    return caught.value.detail


# RFC 9110 §7.2: Host = uri-host [ ":" port ]

HOSTS = {
    b"a": "a",
    b"example.com": "example.com",
    b"example.com.": "example.com.",
    b"Example.COM": "example.com",
    b"localhost:8000": "localhost:8000",
    b"a:1": "a:1",
    b"a:65535": "a:65535",
    # RFC 3986 §3.2.3: a port may be empty, which is the scheme's
    b"a:": "a",
    b"a:0080": "a:80",
    b"127.0.0.1": "127.0.0.1",
    b"127.0.0.1:80": "127.0.0.1:80",
    # §3.2.2: what looks like an address and is none is a registered name
    b"999.1.1.1": "999.1.1.1",
    b"a_b": "a_b",
    b"*": "*",
    b"-a~!$&'()*+,;=": "-a~!$&'()*+,;=",
    b"%C3%A9.example": "%c3%a9.example",
    b"%41": "%41",
    b"[::1]": "[::1]",
    b"[::1]:8000": "[::1]:8000",
    b"[::]": "[::]",
    b"[2001:DB8::A]": "[2001:db8::a]",
    b"[1:2:3:4:5:6:7:8]": "[1:2:3:4:5:6:7:8]",
    b"[1:2:3:4:5:6:7::]": "[1:2:3:4:5:6:7::]",
    b"[::ffff:192.0.2.1]:1": "[::ffff:192.0.2.1]:1",
    b"[v1.a:b]": "[v1.a:b]",
    b"[vF.~]:7": "[vf.~]:7",
}


@pytest.mark.parametrize(("host", "expected"), HOSTS.items())
def test_rfc9110_7_2_a_host_with_perhaps_a_port_says_for_whom_the_request_is(host, expected):
    assert authority("GET", "/", host) == expected
    assert authority("GET", "/", host, version="1.0") == expected


NO_HOSTS = [
    b" a", b"a ", b"a b", b"a\tb", b"a, b", b"a/", b"a/b", b"a?b", b"a#b", b"a\\b", b"http://a", b"//a",
    # userinfo
    b"user@a", b"user:password@a", b"@a", b"a@",
    # ports
    b":", b":80", b"a:b", b"a:-1", b"a:+1", b"a:1.0", b"a:0x1", b"a: 80", b"a:80 ", b"a:80:80", b"a::80", b"a:0",
    b"a:65536", b"a:99999999999999999999", b"a:" + b"9" * 5000, b"a:\xb2",
    # percent-encodings
    b"%", b"a%", b"%4", b"%zz", b"a%2", b"%%41",
    # IPv6
    b"::1", b"[::1", b"::1]", b"[]", b"[[::1]]", b"[::1]a", b"a[::1]", b"[::1]:", b"[::1]80", b"[:]", b"[:::]",
    b"[1:2:3:4:5:6:7]", b"[1:2:3:4:5:6:7:8:9]", b"[12345::]", b"[g::]", b"[1::2::3]", b"[::1%25eth0]", b"[::1%eth0]",
    b"[::1/64]", b"[127.0.0.1]", b"[a]", b"[::256.0.0.1]", b"[::1.2.3]", b"[::01.2.3.4]",
    b"[v.a]", b"[v1]", b"[v1.]", b"[vg.a]", b"[v1.a/b]", b"[v1.%41]",
    # no characters of a host
    b'a"', b"a<", b"a>", b"a^", b"a`", b"a{", b"a|", b"a}", b"a\0", b"a\r", b"a\n", b"a\r\nb", b"a\x7f",
    b"caf\xc3\xa9", b"caf\xe9", b"\xff",
]  # fmt: skip
NO_HOSTS.remove(b"[::1]:")  # the empty port again


@pytest.mark.parametrize("host", NO_HOSTS)
def test_rfc9112_3_2_a_host_field_that_is_no_host_is_refused(host):
    assert "Host" in refusal("GET", "/", host)
    assert "Host" in refusal("GET", "/", host, version="1.0")
    assert "Host" in refusal("OPTIONS", "*", host)
    assert "Host" in refusal("CONNECT", "a:1", host)
    assert "Host" in refusal("GET", "http://a/", host)


def test_rfc9112_3_2_a_version_above_1_0_must_have_a_host():
    for method, target in (("GET", "/"), ("OPTIONS", "*"), ("GET", "http://a/"), ("CONNECT", "a:1")):
        assert "Host" in refusal(method, target, *NO_HOST)


def test_rfc9112_3_2_a_1_0_client_may_leave_its_host_out():
    assert authority("GET", "/", *NO_HOST, version="1.0") is None
    assert authority("OPTIONS", "*", *NO_HOST, version="1.0") is None
    assert authority("GET", "http://a:8/", *NO_HOST, version="1.0") == "a:8"
    assert authority("CONNECT", "a:8", *NO_HOST, version="1.0") == "a:8"


@pytest.mark.parametrize("hosts", [(b"a", b"a"), (b"a", b"b"), (b"", b"a"), (b"a", b"a", b"a")])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_rfc9112_3_2_nobody_may_send_several_hosts(hosts, version):
    assert "one" in refusal("GET", "/", *hosts, version=version)


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_rfc9112_3_2_a_client_that_knows_no_authority_sends_an_empty_host(version):
    assert authority("GET", "/", b"", version=version) is None
    assert authority("OPTIONS", "*", b"", version=version) is None
    # but here it knows one
    assert "Host" in refusal("GET", "http://a/", b"", version=version)
    assert "Host" in refusal("CONNECT", "a:1", b"", version=version)


def test_a_long_host_is_shown_to_the_client_in_part():
    assert len(refusal("GET", "/", b"x y" * 2000)) < 250


# §3.2.1: origin-form = absolute-path [ "?" query ]

UNRESERVED = string.ascii_letters + string.digits + "-._~"
SUB_DELIMS = "!$&'()*+,;="
IN_TARGETS = UNRESERVED + SUB_DELIMS + ":@/?[]"

ORIGIN_FORMS = [
    "/", "//", "//a/b", "/a/b", "/a//b/", "/.", "/../a", "/a;b=c", "/a:b@c", "/http://a/",
    "/%20", "/%c3%A9", "/%00", "/%2F",
    "/?", "/??", "/?a=b&c", "/?/?", "/a?b?c", "/?%23", "/?a[]=1&b[c]=2", "/[slug]", "/*",
    "/" + IN_TARGETS, "/?" + IN_TARGETS,
]  # fmt: skip


@pytest.mark.parametrize("target", ORIGIN_FORMS)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "TRACE", "BREW"])
def test_3_2_1_a_target_in_origin_form_is_for_the_host(method, target):
    assert authority(method, target, b"a:8") == "a:8"


NO_ORIGIN_FORMS = {
    "/#": "#", "/a#b": "#", "/?a#b": "#", "/#?": "#",
    "/%": "%25", "/%4": "%25", "/%zz": "%25", "/?100%": "%25", "/?%%41": "%25", "/%2": "%25", "/%u00e9": "%25",
    "/a b": "%20", "/a\tb": "%09", "/\0": "%00", "/\x7f": "%7F", "/\r": "%0D", "/\n": "%0A", "/a\n": "%0A",
    "/\u00e9": "%C3%A9", "/\u0131": "%C4%B1",
    **{f"{start}{character}": f"%{ord(character):02X}" for start in ("/", "/?", "/a/") for character in '<>"{}|^`\\'},
}  # fmt: skip


@pytest.mark.parametrize(("target", "says"), NO_ORIGIN_FORMS.items())
def test_3_2_1_a_target_that_is_no_path_is_refused_and_says_what_to_send_instead(target, says):
    assert says in refusal("GET", target, b"a")
    assert says in refusal("OPTIONS", target, b"a")
    assert says in refusal("GET", "http://a" + target, b"a")


def test_3_2_1_a_surrogate_cannot_break_the_refusal():
    refusal("GET", "/\udc80", b"a")


@pytest.mark.parametrize(
    "target", ["", "a", "a/b", "?", "?a", "#", "\\", "%2F", ".", "a:80", "127.0.0.1:80", "[::1]:80"]
)
@pytest.mark.parametrize("method", ["GET", "OPTIONS", "BREW"])
def test_3_2_1_a_target_without_a_leading_slash_is_refused(method, target):
    assert "/" in refusal(method, target, b"a")


# §3.2.2: absolute-form = absolute-URI

ABSOLUTE_FORMS = {
    ("http://a", b"a"): "a",
    ("http://a/", b"a"): "a",
    ("http://a?b", b"a"): "a",
    ("http://a/b?c", b"a"): "a",
    ("HTTP://A/", b"a"): "a",
    ("http://a/", b"A"): "a",
    ("https://a/", b"a"): "a",
    ("http://a:8/", b"a:8"): "a:8",
    ("http://[::1]:8/", b"[::1]:8"): "[::1]:8",
    ("http://[::A]/", b"[::a]"): "[::a]",
    ("http://%41/", b"%41"): "%41",
    # RFC 3986 §6.2.3: an empty port and the scheme's are the same
    ("http://a:/", b"a"): "a",
    ("http://a/", b"a:"): "a",
    ("http://a:80/", b"a"): "a:80",
    ("http://a/", b"a:80"): "a",
    ("https://a:443/", b"a"): "a:443",
    ("https://a/", b"a:443"): "a",
    ("http://[::1]/", b"[::1]:80"): "[::1]",
    ("http://a:080/", b"a:80"): "a:80",
    ("http://a//b", b"a"): "a",
    ("http://a/http://b/", b"a"): "a",
    ("http://a/@b", b"a"): "a",
    ("http://a?x@b", b"a"): "a",
}


@pytest.mark.parametrize(("target", "host"), ABSOLUTE_FORMS)
@pytest.mark.parametrize("method", ["GET", "OPTIONS", "BREW"])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_3_2_2_a_target_in_absolute_form_says_itself_for_whom_it_is(method, target, host, version):
    assert authority(method, target, host, version=version) == ABSOLUTE_FORMS[target, host]


@pytest.mark.parametrize(
    ("target", "host"),
    [
        ("http://a/", b"b"),
        ("http://a/", b"a."),
        ("http://a/", b"a:8"),
        ("http://a:8/", b"a"),
        ("http://a:8/", b"a:9"),
        ("http://a:443/", b"a"),
        ("http://a/", b"a:443"),
        ("https://a:80/", b"a"),
        ("https://a/", b"a:80"),
        ("http://a/", b"%61"),
        ("http://[::80]/", b"[:"),
        ("http://[::1]/", b"[0::1]"),
    ],
)
def test_3_2_2_a_host_field_that_says_another_than_the_target_is_refused(target, host):
    assert "Host" in refusal("GET", target, host)
    assert "Host" in refusal("GET", target, host, version="1.0")


@pytest.mark.parametrize(
    "target",
    [
        "http:", "http:/", "http:a", "http:/a", "http://", "http:///", "http:///a", "http://?a", "http://:80/",
        "http://user@a/", "http://user:password@a/", "http://@a/", "http://a@/", "http://a@b@c/",
        "http://a:b/", "http://a:0/", "http://a:65536/", "http://a:80:80/", "http://::1/", "http://[::1/", "http://a]/",
        "http://%zz/", "http://a\\b/", "http://a<b/", "http://caf\u00e9/", "http://a#b", "http://a/#b", "http://#",
        "http://a\\@b/",
        "http//a/", "://a/", "1http://a/", "ht tp://a/", "http;//a", "h\u0131tp://a/",
        "ftp://a/", "ws://a/", "file:///a", "mailto:a", "urn:a:b", "about:blank", "httpss://a/", "data:,a",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
def test_3_2_2_what_is_no_http_uri_is_refused(method, target):
    refusal(method, target, b"a")


def test_3_2_2_a_refusal_says_what_is_wrong_with_a_uri():
    assert "user" in refusal("GET", "http://user@a/", b"a")
    assert "'ftp'" in refusal("GET", "ftp://a/", b"a")
    assert "host" in refusal("GET", "http:///a", b"a")


@pytest.mark.parametrize("target", ["/", "/https://a/", "//https://a", "*", "a:80", "http://a/https://b/", "HTTP://a"])
def test_rfc9110_7_4_a_target_of_the_scheme_by_which_it_came_is_served_and_so_is_one_without(target):
    check_scheme(target, "http")
    if not target.lower().startswith("http:"):
        check_scheme(target, "https")


@pytest.mark.parametrize(
    ("target", "scheme"),
    [("https://a/", "http"), ("HTTPS://a", "http"), ("http://a/", "https"), ("http://a?https://a", "https")],
)
def test_rfc9110_7_4_a_target_of_another_scheme_is_misdirected(target, scheme):
    with pytest.raises(RequestError, match=scheme) as caught:
        check_scheme(target, scheme)
    assert caught.value.status == 421


# §3.2.3: authority-form = uri-host ":" port


@pytest.mark.parametrize("target", ["a:80", "a:443", "A.example:1", "127.0.0.1:65535", "[::1]:8000"])
def test_3_2_3_connect_is_for_a_host_and_a_port(target):
    assert authority("CONNECT", target, target.encode()) == target.lower()


@pytest.mark.parametrize(
    "target",
    [
        "a", "a:", "a:0", "a:65536", "a:b", ":80", "", "*", "/", "/a:80", "http://a:80/", "u@a:80", "a:80/", "a:80?",
        "a:80#", "::1:80", "[::1]", "a:80:80", "a b:80",
    ],
)  # fmt: skip
def test_rfc9110_9_3_6_connect_without_a_valid_host_and_port_is_refused(target):
    assert "CONNECT" in refusal("CONNECT", target, b"a:80")


@pytest.mark.parametrize("host", [b"b:80", b"a:81", b"a"])
def test_3_2_3_the_host_field_of_a_connect_is_its_target(host):
    assert "Host" in refusal("CONNECT", "a:80", host)


# §3.2.4: asterisk-form = "*"


def test_3_2_4_options_may_ask_for_the_whole_server():
    assert authority("OPTIONS", "*", b"a") == "a"


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE", "TRACE", "BREW", "options"])
def test_3_2_4_no_other_method_may(method):
    assert "OPTIONS" in refusal(method, "*", b"a")


@pytest.mark.parametrize("target", ["**", "*/", "*?a", "*#"])
def test_3_2_4_an_asterisk_stands_alone(target):
    refusal("OPTIONS", target, b"a")


@pytest.mark.parametrize("target", ["*", "http://a", "https://a:8", "HTTP://[::1]"])
def test_rfc9110_9_3_7_options_is_for_the_server_where_no_resource_is_named(target):
    assert is_for_server("OPTIONS", target)
    assert not is_for_server("GET", target)


@pytest.mark.parametrize(
    "target", ["/", "/*", "//a", "/http://a", "http://a/", "http://a?", "http://a/b", "http://a?b"]
)
def test_rfc9110_9_3_7_options_is_for_a_resource_where_one_is_named(target):
    assert not is_for_server("OPTIONS", target)


# What is asked for


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/", "/"),
        ("/?a", "/"),
        ("/a%2Fb?c/d?e", "/a%2Fb"),
        ("//a/b", "//a/b"),
        ("/http://a/b", "/http://a/b"),
        ("/a?b=http://c/d", "/a"),
        ("http://a", "/"),
        ("http://a?b/c", "/"),
        ("http://a/", "/"),
        ("http://a//b", "//b"),
        ("http://a/b%2Fc?d://e/f", "/b%2Fc"),
        ("https://[::1]:8/b/http://c?d", "/b/http://c"),
        ("*", "*"),
        ("a:80", "a:80"),
    ],
)
def test_rfc9112_3_3_the_path_is_what_is_between_authority_and_query_as_it_was_sent(target, path):
    assert path_of(target) == path


# Whatever it is


ALPHABET = st.sampled_from(
    sorted(set('/?#[]@:%*.v1a0fg \\"\u00e9\0-\u0131') | {"http", "https", "://", "%41", "::1", "80"})
)
TEXTS = st.lists(ALPHABET, max_size=12).map("".join)


@given(
    method=st.sampled_from(["GET", "OPTIONS", "CONNECT"]),
    target=TEXTS | st.text(max_size=20),
    hosts=st.lists(TEXTS.map(str.encode) | st.binary(max_size=20), max_size=2),
    version=st.sampled_from(["1.1", "1.0"]),
)
def test_whatever_is_sent_is_for_a_valid_authority_or_refused(method, target, hosts, version):
    try:
        found = authority(method, target, *hosts, version=version)
    except RequestError as error:
        refused = error
    else:
        refused = None
    if refused is not None:
        assert refused.status == 400
        assert len(refused.detail) < 250
        return
    if found is not None:
        assert authority("GET", "/", found.encode("ascii")) == found
    assert target.isascii()
    assert target.isprintable()
    assert " " not in target


@given(text=st.text(IN_TARGETS, max_size=30))
def test_what_a_uri_may_have_is_taken_and_every_other_character_is_not(text):
    assert authority("GET", "/" + text, b"a") == "a"
    for character in itertools.chain(map(chr, range(256)), "\u0131\uffff"):
        if character not in IN_TARGETS:
            refusal("GET", "/" + text + character, b"a")
