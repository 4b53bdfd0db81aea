"""Which of 10,000 buckets a unit falls into: stable across processes, machines and releases."""

from __future__ import annotations

import hashlib

BUCKETS = 10_000


def bucket(salt: str, unit: str) -> int:
    """0 to 9999: the first 8 bytes of SHA-256 of `salt:unit`, big-endian, scaled without bias.

    The same salt and unit always give the same bucket; another salt deals anew. Lone surrogates,
    which UTF-8 cannot hold, count as their three-byte form.
    """
    digest = hashlib.sha256(f"{salt}:{unit}".encode("utf-8", "surrogatepass")).digest()
    return (int.from_bytes(digest[:8], "big") * BUCKETS) >> 64
