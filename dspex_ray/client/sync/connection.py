# Generated from ../aio/connection.py by scripts/generate_sync_client.py: edit that one.
"""Sends requests: timeouts, retries, streams. What a request is, and what an answer means, lies in
`bodies`, `errors`, `sse` and `backoff`, which know nothing of sending."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel

from dspex_ray import __version__
from dspex_ray.client import backoff
from dspex_ray.client.address import Address
from dspex_ray.client.bodies import Ask, read
from dspex_ray.client.errors import error_of, not_understood, of_transport
from dspex_ray.client.sse import SseDecoder
from dspex_ray.core.errors import DspexRayError

M = TypeVar("M", bound=BaseModel)

_CONNECT_S = 5.0
_GRACE_S = 5.0  # beyond a deadline that the platform keeps itself, so that its own word arrives


class Connection:
    """A pool of connections to one platform.

    A call fails when `timeout_s` pass without a byte. One that is safe to repeat is tried
    `max_retries` more times; a stream only before its first byte.
    """

    def __init__(
        self,
        address: Address,
        *,
        timeout_s: float,
        max_retries: int,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], Any] = time.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self.url = address.url
        self._timeout_s = timeout_s
        self._max_retries = max_retries
        self._sleep = sleep
        self._rng = rng or random.Random()  # noqa: S311 - jitters waits
        self._http = httpx.Client(
            headers={"User-Agent": f"dspex-ray/{__version__}", **address.headers},
            transport=transport,
        )

    def close(self) -> None:
        self._http.close()

    def call(self, kind: type[M], ask: Ask) -> M:
        """The noun that the platform answers. Raises what it refuses with."""
        response = self._answer(ask, stream=False)
        return read(kind, response.content, self.url)

    def send(self, ask: Ask) -> None:
        """For requests whose answer has no body."""
        self._answer(ask, stream=False)

    def events(self, ask: Ask) -> Generator[str]:
        """The data of each server-sent event. Leaving it closes the request."""
        response = self._answer(ask, stream=True)
        try:
            decoder = SseDecoder()
            for chunk in response.iter_bytes():
                yield from decoder.feed(chunk)
        except httpx.HTTPError as failure:
            raise of_transport(failure, self.url) from failure
        except UnicodeDecodeError:
            raise not_understood(self.url, "a stream that is not UTF-8") from None
        finally:
            response.close()

    def chunks(self, ask: Ask) -> Generator[bytes]:
        """The body of an answer as it comes. Leaving it closes the request."""
        response = self._answer(ask, stream=True)
        try:
            yield from response.iter_bytes()
        except httpx.HTTPError as failure:
            raise of_transport(failure, self.url) from failure
        finally:
            response.close()

    def _answer(self, ask: Ask, *, stream: bool) -> httpx.Response:
        """The response that carries the answer; with `stream`, its body is not read yet."""
        failed = 0
        while True:
            answer = self._try(ask, stream)
            if isinstance(answer, httpx.Response):
                return answer
            failed += 1
            wait_s = backoff.wait_s(failed, answer.retry_after_s, self._rng)
            worth_it = ask.repeatable and backoff.is_transient(answer)
            if not worth_it or failed > self._max_retries or wait_s > self._patience_s(ask):
                raise answer
            self._sleep(wait_s)

    def _try(self, ask: Ask, stream: bool) -> httpx.Response | DspexRayError:
        try:
            response = self._http.send(self._request(ask), stream=stream)
            if response.status_code in ask.ok:
                return response
            response.read()
            response.close()
        except httpx.HTTPError as failure:
            return of_transport(failure, self.url)
        return error_of(response.status_code, response.headers, response.content)

    def _request(self, ask: Ask) -> httpx.Request:
        timeout_s = self._patience_s(ask)
        headers = {**ask.headers}
        if ask.content is not None:
            headers["Content-Type"] = ask.media_type
        return self._http.build_request(
            ask.method,
            self.url + ask.path,
            content=ask.content,
            params=ask.params,
            headers=headers,
            timeout=httpx.Timeout(timeout_s, connect=min(_CONNECT_S, timeout_s)),
        )

    def _patience_s(self, ask: Ask) -> float:
        return self._timeout_s if ask.timeout_s is None else ask.timeout_s + _GRACE_S
