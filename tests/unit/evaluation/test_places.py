"""How places are shared out, whatever the numbers."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from dspex_ray.evaluation.places import Places, ahead

COUNTS = st.integers(1, 300)


@given(COUNTS, COUNTS)
def test_all_places_are_dealt_and_no_more_and_evenly(at_once: int, actors: int) -> None:
    places = Places(at_once, actors)
    shares = [share for _ in range(actors) if (share := places.deal()) is not None]
    assert sum(shares) == at_once
    assert len(shares) == min(at_once, actors)
    assert max(shares) - min(shares) <= 1
    assert not places.left
    assert places.deal() is None
    places.give_back(shares[0])
    assert places.deal() == shares[0]


@given(COUNTS, COUNTS)
@example(36, 2)
def test_what_is_handed_over_finds_room_at_the_actors(at_once: int, actors: int) -> None:
    places = Places(at_once, actors)
    shares = [share for _ in range(actors) if (share := places.deal()) is not None]
    assert at_once < at_once + ahead(at_once) <= sum(share + ahead(share) for share in shares)
