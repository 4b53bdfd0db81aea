"""ETags are revisions: `"3"` on the wire, 3 in the row."""

from __future__ import annotations

from dspex_ray.core.errors import Invalid


def etag(revision: int) -> str:
    return f'"{revision}"'


def expected_revision(if_match: str | None) -> int | None:
    """The revision of an If-Match header; None when there is no header or it is `*`."""
    if if_match is None or if_match.strip() == "*":
        return None
    text = if_match.strip().removeprefix("W/").strip('"')
    if not text.isdecimal():
        raise Invalid(
            f"If-Match {if_match!r} is not an ETag this server gave", field="If-Match", rule="etag"
        )
    return int(text)
