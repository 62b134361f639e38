"""The PROXY protocol: what is a header, whom it names, and what is refused, however the bytes arrive.

Sections are those of HAProxy's doc/proxy-protocol.txt.
"""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioserve.core.proxy_protocol import LONGEST_V2, ProxyHeader, ProxyHeaderError, parse_proxy_header

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LOCAL, PROXY = 0x20, 0x21
TCP4, UDP4, TCP6, UDP6, UNIX_STREAM, UNIX_DATAGRAM = 0x11, 0x12, 0x21, 0x22, 0x31, 0x32
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def v2(command: int, family: int, content: bytes = b"", *, length: int | None = None) -> bytes:
    size = len(content) if length is None else length
    return SIGNATURE + bytes([command, family]) + size.to_bytes(2) + content


def addresses(source: str, target: str, source_port: int = 51_234, target_port: int = 443) -> bytes:
    packed = ipaddress.ip_address(source).packed + ipaddress.ip_address(target).packed
    return packed + source_port.to_bytes(2) + target_port.to_bytes(2)


V4 = addresses("192.0.2.1", "192.0.2.2")
V6 = addresses("2001:db8::1", "2001:db8::2")
UNIX = b"/client".ljust(108, b"\0") + b"/server".ljust(108, b"\0")
LONGEST_V6 = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
# §2.2.3: a checksum that is wrong, and one of what is no TLV at all.
CRC32C, NO_TLV = b"\x03\x00\x04\xde\xad\xbe\xef", b"\x03\xff\xff"

RIGHT = {
    "v1, IPv4": (b"PROXY TCP4 192.0.2.1 192.0.2.2 51234 443\r\n", ("192.0.2.1", 51_234)),
    "v1, IPv4, as long as it gets": (
        b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
        ("255.255.255.255", 65_535),
    ),
    "v1, IPv4, as short as it gets": (b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", ("0.0.0.0", 0)),
    "v1, IPv6": (b"PROXY TCP6 2001:DB8::1 2001:db8::2 51234 443\r\n", ("2001:db8::1", 51_234)),
    "v1, IPv6, as long as it gets": (
        f"PROXY TCP6 {LONGEST_V6} {LONGEST_V6} 65535 65535\r\n".encode(),
        (LONGEST_V6, 65_535),
    ),
    "v1, IPv4 as IPv6": (b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:c000:202 51234 443\r\n", ("192.0.2.1", 51_234)),
    "v1, unknown": (b"PROXY UNKNOWN\r\n", None),
    "v1, unknown, with what is ignored": (b"PROXY UNKNOWN whatever \x00 comes\r\n", None),
    "v1, unknown, as long as it gets": (f"PROXY UNKNOWN {LONGEST_V6} {LONGEST_V6} 65535 65535\r\n".encode(), None),
    "v2, IPv4": (v2(PROXY, TCP4, V4), ("192.0.2.1", 51_234)),
    "v2, IPv6": (v2(PROXY, TCP6, V6), ("2001:db8::1", 51_234)),
    "v2, IPv4 as IPv6": (v2(PROXY, TCP6, addresses("::ffff:192.0.2.1", "::1")), ("192.0.2.1", 51_234)),
    "v2, IPv4, with a checksum": (v2(PROXY, TCP4, V4 + CRC32C), ("192.0.2.1", 51_234)),
    "v2, IPv6, with what is no TLV": (v2(PROXY, TCP6, V6 + NO_TLV), ("2001:db8::1", 51_234)),
    "v2, the longest": (v2(PROXY, TCP4, V4.ljust(LONGEST_V2 - 16, b"\x04")), ("192.0.2.1", 51_234)),
    "v2, Unix": (v2(PROXY, UNIX_STREAM, UNIX), None),
    "v2, Unix datagram": (v2(PROXY, UNIX_DATAGRAM, UNIX), None),
    "v2, UDP over IPv4": (v2(PROXY, UDP4, V4), None),
    "v2, UDP over IPv6": (v2(PROXY, UDP6, V6), None),
    "v2, unspecified": (v2(PROXY, 0x00), None),
    "v2, unspecified, with addresses all the same": (v2(PROXY, 0x00, V4), None),
    "v2, family without socket": (v2(PROXY, 0x10, V4), None),
    "v2, socket without family": (v2(PROXY, 0x01, V4), None),
    "v2, local": (v2(LOCAL, 0x00), None),
    "v2, local, with addresses that are ignored": (v2(LOCAL, TCP4, V4), None),
    "v2, local, with a family that is ignored": (v2(LOCAL, 0xFF, b"?"), None),
}
EACH_RIGHT = pytest.mark.parametrize(("header", "client"), RIGHT.values(), ids=RIGHT)

WRONG = {
    "a request": REQUEST,
    "a TLS handshake": bytes.fromhex("16030100f1010000ed0303"),
    "v1 in lower case": b"proxy TCP4 192.0.2.1 192.0.2.2 51234 443\r\n",
    "v1, a space in front": b" PROXY TCP4 192.0.2.1 192.0.2.2 51234 443\r\n",
    "v1, two spaces": b"PROXY TCP4  192.0.2.1 192.0.2.2 51234 443\r\n",
    "v1, tab": b"PROXY TCP4\t192.0.2.1 192.0.2.2 51234 443\r\n",
    "v1, a space behind": b"PROXY TCP4 192.0.2.1 192.0.2.2 51234 443 \r\n",
    "v1, LF alone": b"PROXY TCP4 192.0.2.1 192.0.2.2 51234 443\n",
    "v1, CR alone": b"PROXY TCP4 192.0.2.1 192.0.2.2 51234 443\rG",
    "v1, CR within": b"PROXY UNKNOWN \r \r\n",
    "v1, another protocol": b"PROXY UDP4 192.0.2.1 192.0.2.2 51234 443\r\n",
    "v1, no protocol": b"PROXY \r\n",
    "v1, unknown with something behind": b"PROXY UNKNOWNS\r\n",
    "v1, no addresses": b"PROXY TCP4\r\n",
    "v1, one address": b"PROXY TCP4 192.0.2.1 51234 443\r\n",
    "v1, one port": b"PROXY TCP4 192.0.2.1 192.0.2.2 51234\r\n",
    "v1, IPv4 as TCP6": b"PROXY TCP6 192.0.2.1 192.0.2.2 51234 443\r\n",
    "v1, IPv6 as TCP4": b"PROXY TCP4 ::1 ::1 51234 443\r\n",
    "v1, source of another family": b"PROXY TCP4 ::1 192.0.2.2 51234 443\r\n",
    "v1, target of another family": b"PROXY TCP4 192.0.2.1 ::1 51234 443\r\n",
    "v1, octal": b"PROXY TCP4 192.0.2.01 192.0.2.2 51234 443\r\n",
    "v1, number too large": b"PROXY TCP4 192.0.2.256 192.0.2.2 51234 443\r\n",
    "v1, three numbers": b"PROXY TCP4 192.0.2 192.0.2.2 51234 443\r\n",
    "v1, zone": b"PROXY TCP6 fe80::1%eth0 ::1 51234 443\r\n",
    "v1, brackets": b"PROXY TCP6 [::1] ::1 51234 443\r\n",
    "v1, host name": b"PROXY TCP4 localhost 192.0.2.2 51234 443\r\n",
    "v1, source port too large": b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 443\r\n",
    "v1, target port too large": b"PROXY TCP4 192.0.2.1 192.0.2.2 51234 65536\r\n",
    "v1, zero before the port": b"PROXY TCP4 192.0.2.1 192.0.2.2 051234 443\r\n",
    "v1, negative port": b"PROXY TCP4 192.0.2.1 192.0.2.2 -1 443\r\n",
    "v1, digits that are no ASCII": "PROXY TCP4 192.0.2.1 192.0.2.2 ٥ 443\r\n".encode(),  # noqa: RUF001
    "v1, longer than 107 bytes": b"PROXY UNKNOWN ".ljust(106, b"x") + b"\r\n",
    "v1, no end in 107 bytes": b"PROXY UNKNOWN ".ljust(107, b"x"),
    "v2, version 1": v2(0x11, TCP4, V4),
    "v2, version 3": v2(0x31, TCP4, V4),
    "v2, command 2": v2(0x22, TCP4, V4),
    "v2, command 15": v2(0x2F, TCP4, V4),
    "v2, family 4": v2(PROXY, 0x41, V4),
    "v2, socket 3": v2(PROXY, 0x13, V4),
    "v2, IPv4 too short": v2(PROXY, TCP4, V4[:-1]),
    "v2, IPv6 too short": v2(PROXY, TCP6, V6[:-1]),
    "v2, IPv6 as long as IPv4": v2(PROXY, TCP6, V4),
    "v2, longer than the longest": v2(PROXY, TCP4, length=LONGEST_V2 - 15),
    "v2, local, longer than the longest": v2(LOCAL, 0x00, length=0xFFFF),
    "v2, a byte of the signature wrong": v2(PROXY, TCP4, V4).replace(b"QUIT", b"QUIz"),
}


@EACH_RIGHT
def test_a_header_names_the_client_or_nobody(header, client):
    assert parse_proxy_header(header) == ProxyHeader(len(header), client)


@EACH_RIGHT
@pytest.mark.parametrize("behind", [b"\r", b"\n", b"\r\n", REQUEST, b"\x16\x03\x01", b"PROXY UNKNOWN\r\n"])
def test_what_follows_a_header_is_not_taken_for_a_part_of_it(header, client, behind):
    assert parse_proxy_header(header + behind) == ProxyHeader(len(header), client)


@EACH_RIGHT
def test_a_part_of_a_header_is_neither_refused_nor_taken_for_the_whole(header, client):
    for size in range(len(header)):
        assert parse_proxy_header(header[:size]) is None


@pytest.mark.parametrize("data", WRONG.values(), ids=WRONG)
def test_what_is_no_header_is_refused(data):
    with pytest.raises(ProxyHeaderError):
        parse_proxy_header(data)


@pytest.mark.parametrize("data", WRONG.values(), ids=WRONG)
def test_what_is_no_header_is_refused_however_it_arrives(data):
    """At one of its bytes, and then at each after it."""
    refused = [is_refused(data[: size + 1]) for size in range(len(data))]

    assert refused == sorted(refused)
    assert refused[-1]


def is_refused(data: bytes) -> bool:
    try:
        assert parse_proxy_header(data) is None
    except ProxyHeaderError:
        return True
    return False


@pytest.mark.parametrize("data", [b"G", b"PROXz", b"PROXYT", b"\r\n\r\n\x01", b"\r\n\r\n\0\r\nQUIT\n\x11"])
def test_what_begins_otherwise_is_refused_at_its_first_wrong_byte(data):
    assert not is_refused(data[:-1])
    assert is_refused(data)


def test_a_header_that_is_too_long_is_refused_before_it_has_come():
    assert is_refused(v2(PROXY, TCP4, length=LONGEST_V2 - 15))
    assert not is_refused(v2(PROXY, TCP4, length=LONGEST_V2 - 16))


@given(
    version=st.sampled_from([1, 2]),
    ips=st.one_of(
        st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4)), st.tuples(st.ip_addresses(v=6), st.ip_addresses(v=6))
    ),
    ports=st.tuples(st.integers(0, 65_535), st.integers(0, 65_535)),
    behind=st.binary(max_size=20),
)
def test_every_address_is_read_as_it_was_written(version, ips, ports, behind):
    source, target = ips
    if version == 1:
        header = f"PROXY TCP{source.version} {source} {target} {ports[0]} {ports[1]}\r\n".encode()
    else:
        header = v2(PROXY, TCP4 if source.version == 4 else TCP6, addresses(str(source), str(target), *ports))

    size, (host, port) = parse_proxy_header(header + behind)

    mapped = getattr(source, "ipv4_mapped", None)
    assert (size, ipaddress.ip_address(host), port) == (len(header), mapped or source, ports[0])


@given(
    start=st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21", SIGNATURE + b"\x21\x11\0"]),
    rest=st.binary(max_size=150),
)
def test_any_bytes_are_a_header_or_the_beginning_of_one_or_refused(start, rest):
    data = start + rest
    try:
        header = parse_proxy_header(data)
    except ProxyHeaderError:
        return
    if header is None:
        assert len(data) < LONGEST_V2
    else:
        assert len(data) >= header.size
        assert parse_proxy_header(data[: header.size]) == header
        assert parse_proxy_header(data[: header.size - 1]) is None
