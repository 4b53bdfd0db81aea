"""Which addresses a registered model may have: a server-side request must not reach inside.

Names are resolved and every address they give is judged. The judgement holds for the moment of
registration: a name may later point elsewhere, so closed networks also need a closed firewall.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import SplitResult, urlsplit

from dspex_ray.core.errors import Invalid

Resolve = Callable[[str], list[str]]
_Address = IPv4Address | IPv6Address

# A public address that only answers inside a cloud, with its secrets.
_METADATA = frozenset({IPv4Address("168.63.129.16")})
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def resolve_host(host: str) -> list[str]:
    """Every address of `host`; raises OSError when it has none."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return sorted({str(entry[4][0]) for entry in found})


async def check_base_url(url: str, *, allow_private: bool, resolve: Resolve = resolve_host) -> str:
    """As `judge_base_url`, the name looked up in a thread."""
    return await asyncio.to_thread(
        judge_base_url, url, allow_private=allow_private, resolve=resolve
    )


def judge_base_url(url: str, *, allow_private: bool, resolve: Resolve = resolve_host) -> str:
    """`url` without a trailing slash; raises Invalid(field="base_url") naming the broken rule."""
    host = _host_of(_parts_of(url))
    if allow_private:
        return url.rstrip("/")
    for address in _addresses(host, resolve):
        if not _is_public(address):
            raise _refused(
                "public address",
                f"host {host!r} is {address}, which is not a public address: allow such hosts with "
                "DSPEX_RAY_ALLOW_PRIVATE_BASE_URLS=true",
            )
    return url.rstrip("/")


def _parts_of(url: str) -> SplitResult:
    if any(character <= " " or character in "\x7f\\" for character in url):
        raise _refused("characters", "an address holds no spaces, controls or backslashes")
    try:
        parts = urlsplit(url)
        _ = parts.port  # parsed on access
    except ValueError as error:
        raise _refused("syntax", f"the address cannot be read: {error}") from None
    if parts.scheme not in ("http", "https"):
        raise _refused("scheme", f"scheme is {parts.scheme!r}: only http and https are allowed")
    if "@" in parts.netloc:
        raise _refused("no credentials", "the address holds credentials: give the key as api_key")
    if parts.query or parts.fragment:
        raise _refused("no query", "the address holds a query or a fragment, where paths are added")
    return parts


def _host_of(parts: SplitResult) -> str:
    host = (parts.hostname or "").rstrip(".")
    if not host:
        raise _refused("host", "the address names no host")
    return host


def _addresses(host: str, resolve: Resolve) -> list[_Address]:
    literal = _literal(host)
    if literal is not None:
        return [literal]
    try:
        # A zone ("fe80::1%eth0") is not part of the address.
        return [ipaddress.ip_address(text.partition("%")[0]) for text in resolve(host)]
    except (OSError, UnicodeError):
        raise _refused("resolvable host", f"host {host!r} has no address") from None


def _literal(host: str) -> _Address | None:
    """The address that `host` spells, also as 2130706433, 0x7f.1 or 0177.0.0.1; else None."""
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(host))
    except (OSError, UnicodeError):
        return None


def _is_public(address: _Address) -> bool:
    inner = _embedded(address) if isinstance(address, IPv6Address) else None
    if inner is not None:
        return _is_public(inner)
    return address.is_global and not address.is_multicast and address not in _METADATA


def _embedded(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that an IPv6 one carries traffic to, by mapping, 6to4 or NAT64."""
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


def _refused(rule: str, message: str) -> Invalid:
    return Invalid(f"base_url: {message}", field="base_url", rule=rule)
