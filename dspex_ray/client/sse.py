"""Server-sent events, from bytes to the data of each event. Pure.

httpx's own lines end at every Unicode separator, some of which JSON strings may hold in clear.
"""

from __future__ import annotations

import re

_LINE_END = re.compile(rb"\r\n|\n|\r")


class SseDecoder:
    """Feed it chunks as they come, cut anywhere."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> list[str]:
        """The data of the events that this chunk completes. Raises UnicodeDecodeError."""
        text = self._rest + chunk
        # A line feed to come may belong to a carriage return at the end.
        held = b"\r" if text.endswith(b"\r") else b""
        *lines, rest = _LINE_END.split(text.removesuffix(held))
        self._rest = rest + held
        return [event.decode() for event in map(self._line, lines) if event is not None]

    def _line(self, line: bytes) -> bytes | None:
        """An event's data when this line, an empty one, ends it."""
        if not line:
            data, self._data = self._data, []
            return b"\n".join(data) if data else None
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
        return None
