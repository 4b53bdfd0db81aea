"""Ray's dashboard, as far as an instance needs it: is it up, and its Serve applications."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx

from dspex_ray.core.errors import DspexRayError, Unavailable

_APPLICATIONS = "/api/serve/applications/"
_AGAIN_S = 1.0


class ServeApi:
    """Calls with the instance's token. Raises Unavailable when Ray does not answer."""

    def __init__(self, dashboard_url: str, token: str) -> None:
        self._http = httpx.Client(
            base_url=dashboard_url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=30,
            trust_env=False,  # a proxy of the environment has no way to this machine's loopback
        )

    def close(self) -> None:
        self._http.close()

    def is_up(self) -> bool:
        try:
            return self._http.get("/api/version", timeout=2).is_success
        except httpx.HTTPError:
            return False

    def deploy(self, config: Mapping[str, Any], *, timeout_s: float) -> None:
        """Make the declared applications be as `config` says; others that were declared go.

        Returns when Serve has taken it in, after starting its proxies if it did not run.
        """
        self._call("PUT", json=config, timeout=timeout_s)

    def shut_down(self, *, timeout_s: float) -> None:
        """End all of Serve, its requests at hand first."""
        self._call("DELETE", timeout=timeout_s)

    def applications(self) -> dict[str, tuple[str, str]]:
        """(status, message) by name; empty when Serve does not run."""
        found: dict[str, Any] = self._call("GET").json().get("applications", {})
        return {name: (app["status"], app.get("message", "")) for name, app in found.items()}

    def wait_running(
        self, names: list[str], *, timeout_s: float, check: Callable[[], None]
    ) -> None:
        """Until all these applications run. `check` raises when waiting is of no use any more.

        A dashboard that does not answer meanwhile is asked again: on a busy machine it drops
        connections. Raises DspexRayError with the application's own message when one fails.
        """
        deadline = time.monotonic() + timeout_s
        found: dict[str, tuple[str, str]] = {}
        while time.monotonic() < deadline:
            check()
            try:
                found = self.applications()
            except Unavailable:
                if time.monotonic() + _AGAIN_S > deadline:
                    raise
                time.sleep(_AGAIN_S)
                continue
            for name in names:
                status, message = found.get(name, ("", ""))
                if status == "DEPLOY_FAILED":
                    raise DspexRayError(f"application {name!r} failed to start:\n{message}")
            if all(found.get(name, ("", ""))[0] == "RUNNING" for name in names):
                return
            time.sleep(0.2)
        raise Unavailable(f"applications do not run after {timeout_s:.0f} s: {found}")

    def _call(self, method: str, **arguments: Any) -> httpx.Response:
        """Each says how things are to be, so that one whose connection broke is sent again."""
        try:
            try:
                response = self._http.request(method, _APPLICATIONS, **arguments)
            except httpx.RemoteProtocolError:
                response = self._http.request(method, _APPLICATIONS, **arguments)
        except httpx.HTTPError as error:
            raise Unavailable(f"Ray's dashboard does not answer: {error!r}") from None
        if response.is_error:
            raise Unavailable(
                f"Ray's dashboard answered {response.status_code} to {method}: {response.text}"
            )
        return response


def wait_ready(url: str, *, timeout_s: float, check: Callable[[], None]) -> None:
    """Until GET `url` answers 200. Raises Unavailable with the last answer otherwise."""
    deadline = time.monotonic() + timeout_s
    last = "no answer"
    with httpx.Client(timeout=5, trust_env=False) as http:
        while time.monotonic() < deadline:
            check()
            try:
                response = http.get(url)
                if response.status_code == httpx.codes.OK:
                    return
                last = f"{response.status_code} {response.text[:500]}"
            except httpx.HTTPError as error:
                last = repr(error)
            time.sleep(0.1)
    raise Unavailable(f"{url} is not ready after {timeout_s:.0f} s: {last}")
