"""A program as its users call it, and what stands on record afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any, TypeVar
from uuid import UUID

import httpx
import pytest

from dspex_ray.client import Dspex
from dspex_ray.core.errors import Invalid, NotFound
from dspex_ray.serving.model import BatchFailure, FieldDelta, Outputs, Prediction
from dspex_ray.testing.provider_simulator import Fault, ProviderSimulator
from dspex_ray.traces.model import Execution, ExecutionQuery, ExecutionStatus, NewFeedback
from tests.e2e.platform import Platform, obliging

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600), pytest.mark.usefixtures("simulated")]

T = TypeVar("T")

CAREFUL = """
managed_by: e2e
models:
  - name: first
    provider: openai_compatible
    model_name: simulated-1
    base_url: {url}
    approved: true
programs:
  - name: careful
    source: {{signature: "claim -> verdict", module: {{type: predict}}}}
    labels: [production]
    assignments:
      - {{model: first, routing_strategy: primary}}
      - {{model: simulated, routing_strategy: fallback}}
"""


def eventually(ask: Callable[[], T], within_s: float = 15.0) -> T:
    """What `ask` gives once it is not NotFound: records are drained shortly after the answer."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            return ask()
        except NotFound:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def recorded(client: Dspex, execution_id: UUID) -> Execution:
    return eventually(lambda: client.executions.get(execution_id))


def test_predict_is_on_record(platform: Platform) -> None:
    with platform.client() as client:
        answer = client.programs.predict("judge", {"claim": "water is wet"}, tags={"run": "one"})
        run = recorded(client, answer.execution_id)
    assert answer.outputs == {"verdict": "yes"}
    assert (answer.program, answer.version, answer.model) == ("judge", 1, "simulated")
    assert (run.status, run.program, run.version) == (ExecutionStatus.COMPLETED, "judge", 1)
    assert (run.inputs, run.outputs) == ({"claim": "water is wet"}, {"verdict": "yes"})
    assert run.tags == {"run": "one"}
    [call] = run.lm_calls
    assert (call.predictor, call.answered_by) == ("main", "simulated")
    [attempt] = call.attempts
    assert attempt.prompt_tokens is not None
    assert attempt.completion_tokens is not None
    price = attempt.prompt_tokens * Decimal("1e-6") + attempt.completion_tokens * Decimal("2e-6")
    assert run.cost_usd == price == answer.usage.cost_usd


def test_inputs_are_checked_before_any_call(platform: Platform) -> None:
    served = platform.simulator.served
    with platform.client() as client, pytest.raises(Invalid) as caught:
        client.programs.predict("judge", {"clam": "water is wet"})
    assert caught.value.field is not None
    assert "clai" in caught.value.message
    assert platform.simulator.served == served


def test_stream_ends_with_the_outputs(platform: Platform) -> None:
    with platform.client() as client:
        *deltas, last = client.programs.stream("judge", {"claim": "water is wet"})
    assert all(isinstance(delta, FieldDelta) for delta in deltas)
    assert "".join(d.text for d in deltas if isinstance(d, FieldDelta)) == "yes"
    assert isinstance(last, Outputs)
    assert last.outputs == {"verdict": "yes"}


def test_batch_fails_item_by_item(platform: Platform) -> None:
    with platform.client() as client:
        result = client.programs.batch("judge", [{"claim": "a"}, {"wrong": "b"}, {"claim": "c"}])
    assert (result.succeeded, result.failed) == (2, 1)
    assert [type(item) for item in result.items] == [Prediction, BatchFailure, Prediction]


def test_feedback_reaches_its_execution(platform: Platform) -> None:
    with platform.client() as client:
        answer = client.programs.predict("judge", {"claim": "water is wet"})
        receipt = client.programs.feedback(
            "judge", answer.execution_id, NewFeedback(score=1.0, label="fine")
        )
        assert receipt.status == "accepted"
        recorded(client, answer.execution_id)
        client.executions.feedback(answer.execution_id, NewFeedback(comment="truly"))
    said = eventually_two(platform, answer.execution_id)
    assert sorted((f["score"] or 0, f["label"], f["comment"]) for f in said) == [
        (0, None, "truly"),
        (1.0, "fine", None),
    ]


def eventually_two(platform: Platform, execution_id: UUID) -> list[dict[str, Any]]:
    """The feedback on an execution, by HTTP: the spooled one comes a moment later."""
    url = f"{platform.url}/api/v1/executions/{execution_id}/feedback"
    deadline = time.monotonic() + 15
    while True:
        answer = httpx.get(url, headers={"Authorization": f"Bearer {platform.key}"})
        items: list[dict[str, Any]] = answer.raise_for_status().json()["items"]
        if len(items) == 2 or time.monotonic() > deadline:
            return items
        time.sleep(0.1)


def test_program_as_a_chat_model(platform: Platform) -> None:
    with platform.client() as client:
        question = '{"claim": "water is wet"}'
        answer = client.chat.complete("program/judge", [{"role": "user", "content": question}])
        assert answer.text == "yes"
        found = client.executions.list(ExecutionQuery(program="judge"))
    assert answer.model == "program/judge"
    assert found.items


def test_fallback_is_recorded_with_its_attempts(platform: Platform) -> None:
    with ProviderSimulator(obliging) as provider, platform.client() as client:
        platform.apply(CAREFUL.format(url=provider.url))
        provider.always(Fault.UNAUTHORIZED)
        answer = client.programs.predict("careful", {"claim": "water is wet"})
        run = recorded(client, answer.execution_id)
        found = client.executions.list(ExecutionQuery(program="careful", fallback=True))
        client.models.deprecate("first")  # it is checked no more: its provider goes
    assert answer.usage.fallback
    assert answer.model == "simulated"
    [call] = run.lm_calls
    assert (call.chosen, call.answered_by, call.fallback) == ("first", "simulated", True)
    assert [(a.model, a.outcome, a.error_class, a.provider_status) for a in call.attempts] == [
        ("first", "failed", "auth", 401),
        ("simulated", "ok", None, None),
    ]
    assert [execution.id for execution in found.items] == [answer.execution_id]
