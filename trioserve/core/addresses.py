"""IP addresses as text: how proxies write them, and how they are compared.

An IPv4 address that is written as an IPv6 one ("::ffff:192.0.2.1", as a socket for both has it) is the IPv4 address:
so a client has one name, and a network of IPv4 covers it.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

IpAddress = IPv4Address | IPv6Address


def parse_ip(text: str) -> IpAddress:
    """The address that `text` is.

    Raises:
        ValueError: it is none. A zone ("fe80::1%eth0") has a meaning on one machine only, and is refused.
    """
    if "%" in text:
        raise ValueError(f"{text!r} has a zone")
    return unmapped(ip_address(text))


def unmapped(address: IpAddress) -> IpAddress:
    """The address, as IPv4 if that is what it maps (RFC 4291 §2.5.5.2)."""
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address
