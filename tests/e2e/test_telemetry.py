"""An operator scrapes the figures of a running instance, and reads one request's trace."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from dspex_ray.telemetry.metrics import EVERY
from tests.docs.test_telemetry import RAYS
from tests.e2e.platform import Platform

pytestmark = pytest.mark.e2e

PLANTED = "planted-prompt-text-4711"
#: Metrics of what an instance that is well and calls no model twice never does.
RARE = {
    "dspex_shed_requests_total",
    "dspex_records_lost_total",
    "dspex_thread_wait_seconds",
    "dspex_lm_unpriced_answers_total",
}
_REPORTED_WITHIN_S = 40.0  # Ray's processes report every 10 s


def scraped(platform: Platform) -> str:
    url = platform.state.metrics_url
    assert url is not None
    return httpx.get(url, timeout=10).raise_for_status().text


def total(text: str, name: str, **labels: str) -> float:
    """The sum over all processes of the series of this name and these labels."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def eventually(look: Callable[[], Any], timeout_s: float = _REPORTED_WITHIN_S) -> Any:
    """The first true answer."""
    deadline = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < deadline, f"nothing within {timeout_s} s"
        time.sleep(0.5)
    return found


def call(
    platform: Platform, trace: str | None = None, *, sampled: bool = True, program: str = "judge"
) -> httpx.Response:
    headers = {"authorization": f"Bearer {platform.key}"}
    if trace is not None:
        headers["traceparent"] = f"00-{trace}-b7ad6b7169203331-0{int(sampled)}"
    return httpx.post(
        f"{platform.url}/v1/programs/{program}/predict",
        json={"inputs": {"claim": PLANTED}},
        headers=headers,
        timeout=30,
    ).raise_for_status()


def stream(platform: Platform, model: str) -> None:
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": PLANTED}]}
    url, headers = f"{platform.url}/v1/chat/completions", {"authorization": platform.key}
    assert httpx.post(url, json=body, headers=headers, timeout=30).status_code == 401
    headers = {"authorization": f"Bearer {platform.key}"}
    httpx.post(url, json=body, headers=headers, timeout=30).raise_for_status()


COUNTED = """
managed_by: e2e-telemetry
models:
  - name: counted
    provider: openai_compatible
    model_name: simulated-1
    base_url: {url}
    price: {{prompt_usd_per_token: "0.000001", completion_usd_per_token: "0.000002"}}
    supports_streaming: true
    approved: true
programs:
  - name: counted
    source: {{signature: "claim -> verdict", module: {{type: predict}}}}
    labels: [production]
    assignments: [{{model: counted}}]
"""


def test_counters_move_under_the_right_labels(platform: Platform) -> None:
    # Names of its own: what other tests did last may still be on its way to the endpoint.
    name = "counted"
    platform.apply(COUNTED.format(url=platform.simulator.url))
    before = scraped(platform)
    for _ in range(3):
        call(platform, program=name)
    stream(platform, name)
    answered = {"endpoint": "predict", "program": name, "status": "2xx", "code": "ok"}
    model = {"model": name, "provider": "openai_compatible"}
    wanted: list[tuple[str, dict[str, str], float]] = [
        ("ray_dspex_requests_total", answered, 3),
        ("ray_dspex_request_duration_seconds_count", {"program": name}, 3),
        ("ray_dspex_lm_attempt_duration_seconds_count", {**model, "outcome": "ok"}, 4),
        ("ray_dspex_lm_time_to_first_token_seconds_count", model, 1),
        ("ray_dspex_lm_calls_total", {"model": name, "answered": "chosen"}, 4),
        ("ray_dspex_records_drained_total", {}, 4),
    ]
    text = eventually(
        lambda: next(
            (
                text
                for text in [scraped(platform)]
                if all(
                    total(text, metric, **labels) - total(before, metric, **labels) >= moved
                    for metric, labels, moved in wanted
                )
            ),
            None,
        )
    )
    for metric, labels, moved in wanted[:-1]:
        assert total(text, metric, **labels) - total(before, metric, **labels) == moved, metric
    for direction in ("input", "output"):
        assert total(text, "ray_dspex_lm_tokens_total", **model, direction=direction) > 0
    assert total(text, "ray_dspex_lm_cost_usd_total", **model) > 0
    assert total(text, "ray_dspex_model_healthy", model=name) >= 1
    assert PLANTED not in text
    assert platform.key not in text


def test_the_scraped_names_are_those_of_the_page(platform: Platform, simulated: str) -> None:
    def found() -> set[str]:
        call(platform)
        stream(platform, simulated)
        text = scraped(platform)
        return {sample.name for f in text_string_to_metric_families(text) for sample in f.samples}

    plain = {
        f"ray_{metric.name}{'_bucket' if metric.kind == 'histogram' else ''}"
        for metric in EVERY
        if metric.name not in RARE and metric.name != "dspex_lm_attempt_errors_total"
    }
    assert eventually(lambda: plain | RAYS <= found())


def test_one_request_is_one_trace(platform: Platform, simulated: str) -> None:
    """From the client's span by Serve's, the execution's and the module's to the attempt."""
    trace, unsampled = f"{time.time_ns():032x}", f"{time.time_ns() + 1:032x}"
    quiet = call(platform, unsampled, sampled=False)
    answered = call(platform, trace)
    file = platform.home / "logs" / "spans.jsonl"

    def spans() -> list[dict[str, Any]]:
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        found = [json.loads(line) for line in lines]
        mine = [span for span in found if span["context"]["trace_id"] == f"0x{trace}"]
        return mine if any(span["parent_id"] == "0xb7ad6b7169203331" for span in mine) else []

    found = eventually(spans)
    names = {span["context"]["span_id"]: span["name"] for span in found}
    assert sorted((names.get(s["parent_id"], s["parent_id"]), s["name"]) for s in found) == [
        ("0xb7ad6b7169203331", "replica_handle_request gateway __call__"),
        ("invoke_workflow judge", "module Pipeline"),
        ("module Pipeline", "module main"),
        ("module main", "chat simulated-1"),
        ("replica_handle_request gateway __call__", "invoke_workflow judge"),
    ]
    [http] = [span for span in found if span["kind"] == "SpanKind.SERVER"]
    version, trace_id, span_id, flags = answered.headers["traceparent"].split("-")
    assert (version, trace_id, f"0x{span_id}") == ("00", trace, http["context"]["span_id"])
    assert flags == "01"
    assert quiet.headers["traceparent"].endswith("-00")
    text = file.read_text(encoding="utf-8")
    assert unsampled not in text
    assert PLANTED not in text
    assert platform.key not in text
    assert file.stat().st_mode & 0o777 == 0o600
