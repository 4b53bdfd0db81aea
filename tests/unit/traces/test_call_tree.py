"""An execution as the tree that the CLI prints."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

from dspex_ray.traces.call_tree import Node, call_tree
from dspex_ray.traces.model import Execution, ExecutionStatus, Source
from tests.unit.traces.records import NOW, a_call, a_failure, a_record, a_replay, an_attempt

RECORD = a_record()


def _execution(*calls: object, **change: object) -> Execution:
    values: dict[str, object] = {
        "id": RECORD.id,
        "project_id": RECORD.project_id,
        "source": Source.SERVING,
        "status": ExecutionStatus.COMPLETED,
        "program": "news",
        "version": 3,
        "endpoint": "predict",
        "started_at": NOW,
        "duration_ms": 500.0,
        "lm_calls": calls,
    }
    return Execution.model_validate(values | change)


def test_an_answer_from_the_cache_says_so() -> None:
    (call,) = call_tree(_execution(a_call(a_replay()))).children
    (attempt,) = call.children
    assert (attempt.outcome, attempt.note, attempt.cost_usd) == ("ok", "cached", Decimal(0))


def test_a_fallback_as_a_tree() -> None:
    begun = NOW + timedelta(milliseconds=20)
    retry = a_failure(0, number=2, started_at=begun, message="HTTP 500")
    call = a_call(retry, an_attempt(1, started_at=begun), started_at=begun)
    root = call_tree(_execution(call, fallback=True, cost_usd=Decimal("0.001"), prompt_tokens=10))
    failed = Node(
        "attempt",
        "model-0",
        "failed",
        20.0,
        100.0,
        None,
        None,
        None,
        "server",
        "HTTP 500",
        "retry 1",
    )
    answered = Node("attempt", "model-1", "ok", 20.0, 100.0, 10, 5, Decimal("0.001"))
    assert root == Node(
        kind="execution",
        label="news@3",
        outcome="completed",
        start_ms=0.0,
        ms=500.0,
        prompt_tokens=10,
        completion_tokens=None,
        cost_usd=Decimal("0.001"),
        note="fallback",
        children=(
            Node(
                kind="call",
                label="predict",
                outcome="ok",
                start_ms=20.0,
                ms=120.0,
                prompt_tokens=10,
                completion_tokens=5,
                cost_usd=Decimal("0.001"),
                note="fallback: model-0 -> model-1",
                children=(failed, answered),
            ),
        ),
    )


def test_calls_stand_in_order_of_their_beginning() -> None:
    late = a_call(an_attempt(), predictor="second", started_at=NOW + timedelta(seconds=1))
    early = a_call(a_failure(), predictor=None, strategy=None)
    root = call_tree(_execution(late, early))
    assert [(n.label, n.outcome, n.note) for n in root.children] == [
        ("call", "failed", None),
        ("second", "ok", "primary"),
    ]


def test_a_cancelled_call_and_titles_without_a_program() -> None:
    gone = a_call(an_attempt(outcome="cancelled"))
    root = call_tree(_execution(gone, program=None, version=None, model="gpt", error_code="x"))
    assert (root.label, root.error_class, root.children[0].outcome) == ("gpt", "x", "cancelled")
    assert call_tree(_execution(program=None, version=None)).label == "predict"
    assert call_tree(_execution(version=None)).label == "news"
