"""The simulated provider: what it counts."""

from __future__ import annotations

import json

import pytest

from benchmarks.optimize.provider import _Server, _Tally
from benchmarks.optimize.simulated import START, Hidden, SimulatedModel

_ASKED = (
    "[[ ## text ## ]]\n{}\n\nRespond, starting with the field `[[ ## topic ## ]]`, and then "
    "ending with the marker."
)


@pytest.fixture
def server() -> _Server:
    return _Server(SimulatedModel(Hidden(0)), 0.0)


def _body(text: str) -> bytes:
    system = {"role": "system", "content": f"your objective is: {START}"}
    return json.dumps({"messages": [system, {"role": "user", "content": text}]}).encode()


def test_a_prompt_is_told_by_its_words(server: _Server) -> None:
    answer, one = server.reply("/v1/chat/completions", _body(_ASKED.format("one")))
    assert b"[[ ## topic ## ]]" in answer
    assert one is not None
    assert server.reply("/v1/chat/completions", _body(_ASKED.format("one"))) == (answer, one)
    assert server.reply("/v1/chat/completions", _body(_ASKED.format("two")))[1] != one


def test_health_checks_are_answered_and_not_counted(server: _Server) -> None:
    answer, counted = server.reply("/v1/chat/completions", _body("ping"))
    assert b"pong" in answer
    assert counted is None


def test_repeats_are_of_what_was_answered_before() -> None:
    tally = _Tally()
    for prompt in (b"one", b"two", b"one", b"one"):
        tally.came()
        tally.answer(prompt)
    tally.came()
    tally.left += 1
    counts = tally.counts
    assert (counts.asked, counts.answered, len(counts.repeated), counts.left) == (5, 4, 2, 1)
    assert counts.repeated == (tally.first_answer[b"one"],) * 2
    assert counts.span_s >= 0


def test_counts_are_asked_for_and_forgotten(server: _Server) -> None:
    server.tally.came()
    told, counted = server.reply("/counts", b"")
    assert json.loads(told.partition(b"\r\n\r\n")[2])["asked"] == 1
    assert counted is None
    server.reply("/forget", b"")
    assert server.tally.counts.asked == 0
