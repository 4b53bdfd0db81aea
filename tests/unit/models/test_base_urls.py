from __future__ import annotations

import pytest

from dspex_ray.core.errors import Invalid
from dspex_ray.models.base_urls import check_base_url, judge_base_url

PUBLIC = ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"]


def resolve(host: str) -> list[str]:
    known = {
        "api.example.com": PUBLIC,
        "inside.example.com": [PUBLIC[0], "10.0.0.5"],
        "metadata.example.com": ["169.254.169.254"],
        "zone.example.com": ["fe80::1%eth0"],
    }
    if host not in known:
        raise OSError("no such host")
    return known[host]


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://api.example.com/v1", "https://api.example.com/v1"),
        ("http://API.example.com:8080/v1/", "http://API.example.com:8080/v1"),
        ("https://93.184.216.34/v1", "https://93.184.216.34/v1"),
        ("https://[2606:4700::1111]", "https://[2606:4700::1111]"),
    ],
)
def test_public_addresses_pass(url: str, kept: str) -> None:
    assert judge_base_url(url, allow_private=False, resolve=resolve) == kept


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost.",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "168.63.129.16",
        "100.100.100.200",
        "0.0.0.0",
        "255.255.255.255",
        "224.0.0.1",
        "240.0.0.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "127.1",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:a9fe:a9fe]",
        "[64:ff9b::a00:1]",
        "[2002:7f00:1::]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "[ff02::1]",
        "inside.example.com",
        "metadata.example.com",
        "zone.example.com",
    ],
)
def test_addresses_inside_are_refused_unless_allowed(host: str) -> None:
    url = f"http://{host}:8000/v1"

    def lookup(name: str) -> list[str]:
        return ["127.0.0.1"] if name == "localhost" else resolve(name)

    with pytest.raises(Invalid) as refused:
        judge_base_url(url, allow_private=False, resolve=lookup)
    assert (refused.value.field, refused.value.rule) == ("base_url", "public address")
    assert judge_base_url(url, allow_private=True, resolve=lookup) == url


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("ftp://api.example.com", "scheme"),
        ("file:///etc/passwd", "scheme"),
        ("api.example.com/v1", "scheme"),
        ("https://user:pass@api.example.com", "no credentials"),
        ("https://@api.example.com", "no credentials"),
        ("https://", "host"),
        ("https://api.example.com:port/", "syntax"),
        ("https://[::1/", "syntax"),
        ("https://api.example.com/v1?key=1", "no query"),
        ("https://api.example.com/v1#x", "no query"),
        ("https://api.example.com\\@10.0.0.1/", "characters"),
        ("https://api.example.com/\r\nHost: x", "characters"),
    ],
)
@pytest.mark.parametrize("allow_private", [False, True])
def test_addresses_of_the_wrong_form(url: str, rule: str, allow_private: bool) -> None:
    with pytest.raises(Invalid) as refused:
        judge_base_url(url, allow_private=allow_private, resolve=resolve)
    assert (refused.value.field, refused.value.rule) == ("base_url", rule)


def test_a_name_without_an_address() -> None:
    with pytest.raises(Invalid) as refused:
        judge_base_url("https://nowhere.example.com", allow_private=False, resolve=resolve)
    assert refused.value.rule == "resolvable host"
    assert "pass" not in refused.value.message


async def test_the_async_variant_judges_the_same() -> None:
    with pytest.raises(Invalid, match="not a public address"):
        await check_base_url("http://localhost:1", allow_private=False)
