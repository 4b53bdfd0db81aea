from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex_ray.client.sse import SseDecoder


def test_events_comments_and_unknown_fields() -> None:
    stream = b": hello\nevent: x\ndata: one\n\nid: 3\ndata:two\ndata:  three\n\n\n"
    assert SseDecoder().feed(stream) == ["one", "two\n three"]


def test_an_event_that_is_not_ended_is_not_given() -> None:
    assert SseDecoder().feed(b"data: one\n") == []


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@given(
    texts=st.lists(
        # what JSON holds in clear: also the separators at which str.splitlines would cut
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), min_size=1)
        | st.sampled_from(["a\u2028b", "a\x85b", "a\x0bb"]),
        max_size=5,
    ),
    data=st.data(),
)
def test_however_the_bytes_are_cut(end: str, texts: list[str], data: st.DataObject) -> None:
    stream = "".join(f"data: {text}{end}{end}" for text in texts).encode()
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=6).map(sorted))
    decoder, found = SseDecoder(), []
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += decoder.feed(stream[start:stop])
    # a carriage return at the very end might be half of a line end
    found += decoder.feed(b"\n") if end == "\r" else []
    assert found == texts
