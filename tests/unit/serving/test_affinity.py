"""Prompts that begin alike go to one replica, unless it has too much to do."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dspex_ray.serving.affinity import SLACK, Affinity, beginning_of


def body(*texts: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text} for text in texts]}


def test_a_beginning_is_all_but_the_last_message() -> None:
    assert beginning_of(body("task", "demo", "one")) == beginning_of(body("task", "demo", "two"))
    assert beginning_of(body("task", "demo", "one")) != beginning_of(body("task", "other", "one"))


def test_lone_messages_begin_alike() -> None:
    assert len({beginning_of(given) for given in (body("one"), body("two"), {})}) == 1


def test_one_beginning_stays_on_one_replica() -> None:
    affinity = Affinity()
    chosen = affinity.choose("a", {"left": 0, "right": 0})
    crowded = {"left": 0, "right": 0} | {chosen: SLACK - 1}
    assert affinity.choose("a", crowded) == chosen


def test_another_beginning_goes_to_the_idlest() -> None:
    affinity = Affinity()
    affinity.choose("a", {"left": 0, "right": 1})
    assert affinity.choose("b", {"left": 1, "right": 0}) == "right"


def test_a_crowded_replica_loses_its_beginning() -> None:
    affinity = Affinity()
    assert affinity.choose("a", {"left": 0, "right": 1}) == "left"
    assert affinity.choose("a", {"left": SLACK, "right": 0}) == "right"
    assert affinity.choose("a", {"left": 0, "right": SLACK - 1}) == "right"


def test_a_replica_that_is_gone_is_forgotten() -> None:
    affinity = Affinity()
    affinity.choose("a", {"left": 0, "right": 1})
    assert affinity.choose("a", {"right": 3}) == "right"


def test_idle_replicas_share_beginnings_alike_in_every_process() -> None:
    idle = {"left": 0, "right": 0}
    here, there = Affinity(), Affinity()
    beginnings = [str(number) for number in range(64)]
    chosen = [here.choose(beginning, idle) for beginning in beginnings]
    assert chosen == [there.choose(beginning, idle) for beginning in beginnings]
    assert 16 < chosen.count("left") < 48


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b"]),
            st.dictionaries(st.sampled_from("xyz"), st.integers(0, 30), min_size=1),
        )
    )
)
def test_no_much_busier_one_is_chosen(calls: list[tuple[str, dict[str, int]]]) -> None:
    affinity = Affinity()
    for beginning, waiting in calls:
        chosen = affinity.choose(beginning, waiting)
        assert waiting[chosen] - min(waiting.values()) < SLACK
