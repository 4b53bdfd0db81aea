"""A client that goes away ends the call it paid for, through HAProxy and Ray Serve as they are."""

from __future__ import annotations

import time

import httpx
import pytest

from dspex_ray.testing.provider_simulator import Fault
from dspex_ray.traces.model import Execution, ExecutionQuery, ExecutionStatus
from tests.e2e.platform import Platform

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600), pytest.mark.usefixtures("simulated")]


@pytest.mark.parametrize("stream", [False, True])
def test_the_upstream_call_is_cancelled_and_recorded(platform: Platform, stream: bool) -> None:
    before = platform.simulator.disconnects
    platform.simulator.script([Fault.HANG])
    tag = f"leaving-{stream}"
    headers = {"authorization": f"Bearer {platform.key}", "x-dspex-tags": f"test={tag}"}
    body = {
        "model": "simulated",
        "messages": [{"role": "user", "content": "Take your time."}],
        "stream": stream,
    }
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{platform.url}/v1/chat/completions", json=body, headers=headers, timeout=1.0)
    recorded = _recorded(platform, tag)
    assert recorded.status is ExecutionStatus.CANCELLED
    (call,) = recorded.lm_calls
    assert [attempt.outcome for attempt in call.attempts] == ["cancelled"]
    assert platform.simulator.disconnects == before + 1


def _recorded(platform: Platform, tag: str) -> Execution:
    """The execution of this tag, within 20 s of waiting for the drain."""
    with platform.client() as client:
        for _ in range(80):
            found = client.executions.list(ExecutionQuery(tag=f"test={tag}")).items
            if found:
                return client.executions.get(found[0].id)
            time.sleep(0.25)
    raise AssertionError(f"no execution tagged {tag!r} was recorded")
