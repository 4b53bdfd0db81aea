"""The shares of functions in folded stacks."""

from __future__ import annotations

from benchmarks.profiling import Share, shares, summary

# Eleven stacks of a busy thread, and the one stack of a thread that waits.
_FOLDED = [
    *(f"loop;serve;answer;encode_{n} 4" for n in range(10)),
    "loop;serve;serve;answer 60",
    "other;wait 900",
]


def test_a_function_has_its_own_share_and_that_of_what_it_calls() -> None:
    found = {share.function: share for share in shares(_FOLDED)}
    assert found["answer"] == Share("answer", own=0.6, whole=1.0)
    assert found["serve"] == Share("serve", own=0.0, whole=1.0)
    assert found["encode_3"] == Share("encode_3", own=0.04, whole=0.04)


def test_a_thread_that_waits_is_left_out() -> None:
    assert {"other", "wait"}.isdisjoint(share.function for share in shares(_FOLDED))


def test_the_summary_begins_with_the_most_own_time() -> None:
    assert summary(_FOLDED).splitlines()[4] == "| 60.0% | 100.0% | `answer` |"


def test_no_samples_have_no_shares() -> None:
    assert shares([]) == []
