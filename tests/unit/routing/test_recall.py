"""Answers from memory, through the router: what is kept, what is replayed, what is asked anew."""

from __future__ import annotations

import asyncio
from dataclasses import fields, replace
from decimal import Decimal
from typing import Any

import pytest
from dspy import lm15
from dspy._vendor.lm15.result import StreamAccumulator
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex_ray.core.errors import ProviderDown
from dspex_ray.routing.cache import CacheUse
from dspex_ray.routing.model import LmCall
from dspex_ray.routing.rules import Candidate
from dspex_ray.settings import RoutingSettings
from tests.unit.routing.parts import (
    HANG,
    Bench,
    FakeLeaf,
    candidate,
    outcomes,
    request,
    response,
    words,
)

TTL = 60


def cached(name: str = "a", strategy: str = "primary", **of: Any) -> Candidate:
    return candidate(name, strategy, of={"cache_ttl_s": TTL, **of})


class Caller:
    """Asks one model, each time as a request of its own; `said` is what became of the last."""

    def __init__(self, *steps: Any, **fields: Any) -> None:
        self.leaf = FakeLeaf(list(steps))
        self.bench = Bench({"a": self.leaf}, **fields)
        self.said: list[Any] = []

    async def ask(
        self,
        asked: lm15.Request | None = None,
        *,
        of: Candidate | None = None,
        use: CacheUse = CacheUse.FULL,
    ) -> Any:
        scope = self.bench.scope(cache=use)
        chain = [of or cached()]
        try:
            answer = await self.bench.router.complete(asked or request(), chain, scope)
        finally:
            self.said = scope.lookups
        return answer.response

    async def stream(self, asked: lm15.Request | None = None) -> Any:
        """The response that the events make."""
        scope = self.bench.scope(cache=CacheUse.FULL)
        accumulated = StreamAccumulator(asked or request())
        stream = self.bench.router.stream(asked or request(), [cached()], scope)
        async for event in stream:
            accumulated.push(event)
        self.said = scope.lookups
        assert stream.answering is not None
        return accumulated.response()

    @property
    def last(self) -> LmCall:
        return self.bench.sink.calls[-1]


async def test_the_same_request_is_answered_from_memory_for_nothing() -> None:
    caller = Caller(response("yes"))
    first = await caller.ask()
    assert (first.text, first.usage.input_tokens, caller.said) == ("yes", 10, ["miss"])
    assert not caller.last.attempts[0].cached
    again = await caller.ask()
    assert (again.text, caller.said) == ("yes", ["hit"])
    assert len(caller.leaf.seen) == 1
    (attempt,) = caller.last.attempts
    assert (attempt.outcome, attempt.cached, attempt.made) == ("ok", True, False)
    assert (attempt.cost_usd, attempt.cost_source) == (Decimal(0), "cached")
    assert (attempt.prompt_tokens, attempt.completion_tokens) == (0, 0)
    assert (caller.last.answered_by, caller.last.chosen) == ("a", "a")
    assert again.usage == lm15.Usage(input_tokens=0, output_tokens=0)
    assert caller.last.usage == {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}


async def test_only_for_so_long() -> None:
    caller = Caller(response("old"), response("new"))
    await caller.ask()
    caller.bench.clock.advance(TTL)
    assert (await caller.ask()).text == "new"


async def test_a_model_without_it_is_always_asked() -> None:
    caller = Caller(response("1"), response("2"))
    await caller.ask(of=candidate("a"))
    assert (await caller.ask(of=candidate("a"))).text == "2"
    assert caller.said == [None]


async def test_a_change_of_the_model_forgets_its_answers() -> None:
    caller = Caller(response("1"), response("2"))
    await caller.ask()
    assert (await caller.ask(of=cached(revision=2))).text == "2"


async def test_a_model_never_gives_the_answer_of_another() -> None:
    """Nor does a project: models belong to one."""
    bench = Bench({"a": FakeLeaf([response("of a")]), "b": FakeLeaf([response("of b")])})
    for name in "ab":
        scope = bench.scope(cache=CacheUse.FULL)
        one = cached(name, model_name="the same")
        answer = await bench.router.complete(request(), [one], scope)
        assert (answer.response.text, scope.lookups) == (f"of {name}", ["miss"])


async def test_the_name_that_the_caller_gave_does_not_matter() -> None:
    """The router's name is not the model's: what answers is."""
    caller = Caller(response("yes"))
    await caller.ask()
    assert (await caller.ask(replace(request(), model="route/other"))).text == "yes"


async def test_no_cache_asks_anew_and_keeps_the_answer() -> None:
    caller = Caller(response("old"), response("new"))
    await caller.ask()
    assert (await caller.ask(use=CacheUse.REFRESH)).text == "new"
    assert caller.said == ["bypass"]
    assert (await caller.ask()).text == "new"


async def test_no_store_leaves_the_cache_as_it_is() -> None:
    caller = Caller(response("kept"), response("passing"))
    await caller.ask()
    assert (await caller.ask(use=CacheUse.NONE)).text == "passing"
    assert caller.said == ["bypass"]
    assert (await caller.ask()).text == "kept"


async def test_who_does_not_ask_for_it_gets_none_of_it() -> None:
    """Optimizers sample the same request on purpose."""
    caller = Caller(response("1"), response("2"))
    for text in "12":
        scope = caller.bench.scope()
        answer = await caller.bench.router.complete(request(), [cached()], scope)
        assert answer.response.text == text


async def test_the_same_asked_twice_in_one_request_are_two_samples() -> None:
    """As choices and rollouts ask; the whole request is replayed with both."""
    caller = Caller(response("heads"), response("tails"))
    for lookup in ("miss", "hit"):
        scope = caller.bench.scope(cache=CacheUse.FULL)
        asked = [caller.bench.router.complete(request(), [cached()], scope) for _ in range(2)]
        texts = [answer.response.text for answer in await asyncio.gather(*asked)]
        assert texts == ["heads", "tails"]
        assert scope.lookups == [lookup] * 2


async def test_errors_are_not_remembered() -> None:
    caller = Caller(lm15.AuthError("bad key"), response("yes"))
    with pytest.raises(ProviderDown):
        await caller.ask()
    assert (await caller.ask()).text == "yes"
    assert caller.said == ["miss"]


@pytest.mark.parametrize("reason", ["content_filter", "error"])
async def test_an_answer_that_was_stopped_is_not_remembered(reason: Any) -> None:
    caller = Caller(replace(response("I must"), finish_reason=reason), response("yes"))
    await caller.ask()
    assert (await caller.ask()).text == "yes"


async def test_what_json_cannot_hold_is_not_remembered() -> None:
    lone = response("\ud800")
    caller = Caller(lone, response("yes"))
    await caller.ask()
    assert (await caller.ask()).text == "yes"


async def test_a_request_that_names_a_file_is_not_remembered(tmp_path: Any) -> None:
    """What the file holds may change."""
    picture = tmp_path / "x.png"
    picture.write_bytes(b"x")
    parts = (lm15.ImagePart(path=picture), lm15.TextPart("what is it?"))
    asked = replace(request(), messages=(lm15.Message(role="user", parts=parts),))
    caller = Caller(response("1"), response("2"))
    await caller.ask(asked)
    assert (await caller.ask(asked)).text == "2"
    assert caller.said == ["bypass"]


async def test_no_permit_no_limit_and_no_breaker_for_what_memory_holds() -> None:
    caller = Caller(
        response("yes"),
        *[lm15.ServerError("down", status=500)] * 2,
        settings=RoutingSettings(retries=0, breaker_failures=2),
    )
    limited = cached(requests_per_minute=3)
    await caller.ask(of=limited)
    for text in ("b", "c"):
        with pytest.raises(ProviderDown):
            await caller.ask(request(text), of=limited)
    assert not caller.bench.breakers.admits(limited.model.id, caller.bench.clock.monotonic())
    for _ in range(5):
        assert (await caller.ask(of=limited)).text == "yes"


async def test_a_fallback_has_a_memory_of_its_own() -> None:
    a = FakeLeaf([lm15.AuthError("x"), lm15.AuthError("x")])
    bench = Bench({"a": a, "b": FakeLeaf([response("b")])})
    chain = [cached("a"), cached("b", "fallback")]
    for lookups in (["miss", "miss"], ["miss", "hit"]):
        scope = bench.scope(cache=CacheUse.FULL)
        answer = await bench.router.complete(request(), chain, scope)
        assert answer.response.text == "b"
        assert scope.lookups == lookups
    assert outcomes(answer.call) == [("a", 1, "failed", "auth"), ("b", 1, "ok", None)]


# --- streams -------------------------------------------------------------------------------


async def test_a_plain_answer_is_replayed_as_a_stream() -> None:
    caller = Caller(response("yes"))
    await caller.ask()
    streamed = await caller.stream()
    assert (streamed.text, streamed.finish_reason, caller.said) == ("yes", "stop", ["hit"])
    assert (caller.last.stream, caller.last.attempts[0].cached) == (True, True)
    assert len(caller.bench.sink.calls) == 2


async def test_a_stream_is_replayed_as_a_plain_answer_and_as_a_stream() -> None:
    caller = Caller(words("he", "llo"))
    assert (await caller.stream()).text == "hello"
    assert caller.said == ["miss"]
    assert (await caller.ask()).text == "hello"
    assert (await caller.stream()).text == "hello"
    assert caller.said == ["hit"]
    assert len(caller.leaf.seen) == 1


@pytest.mark.parametrize("cut", [[], [lm15.TransportError("cut")]], ids=["ends", "breaks"])
async def test_a_cut_stream_is_not_remembered(cut: list[Any]) -> None:
    caller = Caller([*words("he")[:-1], *cut], response("whole"))
    with pytest.raises(ProviderDown):
        await caller.stream()
    assert (await caller.ask()).text == "whole"


async def test_a_stream_that_its_reader_left_is_not_remembered() -> None:
    caller = Caller([*words("he")[:-1], HANG], response("whole"))
    scope = caller.bench.scope(cache=CacheUse.FULL)
    stream = caller.bench.router.stream(request(), [cached()], scope)
    async for event in stream:
        if event.type == "delta":
            break
    await stream.aclose()
    assert (await caller.ask()).text == "whole"


async def test_a_reader_who_leaves_a_replay_leaves_one_record() -> None:
    caller = Caller(response("yes"))
    await caller.ask()
    scope = caller.bench.scope(cache=CacheUse.FULL)
    stream = caller.bench.router.stream(request(), [cached()], scope)
    async for _ in stream:
        break
    await stream.aclose()
    assert [call.attempts[0].cached for call in caller.bench.sink.calls] == [False, True]


async def test_an_answer_that_no_stream_can_carry_is_asked_for_anew() -> None:
    refused = lm15.Message(role="assistant", parts=(lm15.RefusalPart("no"),))
    caller = Caller(replace(response("x"), message=refused), words("yes"))
    await caller.ask()
    assert (await caller.stream()).text == "yes"
    assert caller.said == ["miss"]


_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_parts = st.one_of(
    st.builds(lm15.TextPart, _texts),
    st.builds(lm15.ThinkingPart, _texts),
    st.builds(
        lm15.ToolCallPart,
        id=st.just("call-1"),
        name=st.just("look"),
        input=st.dictionaries(_texts, st.integers() | _texts, max_size=3),
    ),
)


@given(st.lists(_parts, min_size=1, max_size=4), st.booleans())
@settings(max_examples=50)
def test_what_is_replayed_is_what_was_answered(parts: list[Any], stream: bool) -> None:
    calls = any(isinstance(part, lm15.ToolCallPart) for part in parts)
    answered = replace(
        response("x"),
        message=lm15.Message(role="assistant", parts=tuple(parts)),
        finish_reason="tool_call" if calls else "stop",
    )

    async def replayed() -> Any:
        caller = Caller(answered)
        await caller.ask()
        found = await (caller.stream() if stream else caller.ask())
        assert caller.said == ["hit"]
        return found

    found = asyncio.run(replayed())
    assert found == replace(answered, usage=lm15.Usage(input_tokens=0, output_tokens=0))


# --- the key -------------------------------------------------------------------------------

_TOOL = lm15.FunctionTool(name="look", parameters={"type": "object", "properties": {}})
_BASE = lm15.Request(
    model="m",
    messages=(lm15.Message.user("hi"),),
    tools=(_TOOL,),
)
# One other value for every field: a field that lm15 adds fails the test until it has one here.
_CONFIG: dict[str, Any] = {
    "max_tokens": 5,
    "temperature": 0.0,
    "top_p": 0.5,
    "top_k": 3,
    "stop": ("END",),
    "response_format": {"type": "json_object"},
    "tool_choice": lm15.ToolChoice(mode="none"),
    "reasoning": lm15.Reasoning(effort="low"),
    "cache": lm15.CacheConfig(mode="off"),
    "seed": 0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "service_tier": "flex",
    "user_id": "ann",
    "store": False,
    "logprobs": 0,
    "probabilities": "required",
    "extensions": {"min_p": 0.1},
}
_REQUEST: dict[str, Any] = {
    "messages": (lm15.Message.user("hi"), lm15.Message.assistant("yes"), lm15.Message.user("so?")),
    "system": "be brief",
    "tools": (),
}
_MESSAGES: dict[str, Any] = {
    "another text": lm15.Message.user("ho"),
    "another role": lm15.Message(role="developer", parts=(lm15.TextPart("hi"),)),
    "two parts": lm15.Message.user([lm15.TextPart("h"), lm15.TextPart("i")]),
    "an image": lm15.Message.user([lm15.TextPart("hi"), lm15.ImagePart(url="https://x.test/a")]),
    "its detail": lm15.Message.user(
        [lm15.TextPart("hi"), lm15.ImagePart(url="https://x.test/a", detail="low")]
    ),
}
VARIANTS: dict[str, lm15.Request] = {
    "as it is": _BASE,
    **{f"config.{k}": replace(_BASE, config=lm15.Config(**{k: v})) for k, v in _CONFIG.items()},
    **{name: replace(_BASE, **{name: value}) for name, value in _REQUEST.items()},
    **{name: replace(_BASE, messages=(message,)) for name, message in _MESSAGES.items()},
    "tool.name": replace(_BASE, tools=(replace(_TOOL, name="see"),)),
    "tool.description": replace(_BASE, tools=(replace(_TOOL, description="d"),)),
    "tool.parameters": replace(_BASE, tools=(replace(_TOOL, parameters={"type": "object"}),)),
    "temperature": replace(_BASE, config=lm15.Config(temperature=0.7)),
    "a longer answer": replace(_BASE, config=lm15.Config(max_tokens=6)),
}


def test_every_field_of_a_request_is_tried() -> None:
    assert set(_CONFIG) == {field.name for field in fields(lm15.Config)}
    assert {*_REQUEST, "model", "config"} == {field.name for field in fields(lm15.Request)}


async def test_a_request_that_differs_in_anything_is_another_one() -> None:
    """The second round meets each its own answer: no two share a key."""
    caller = Caller(*(response(name) for name in VARIANTS))
    for name, asked in VARIANTS.items():
        assert (await caller.ask(asked)).text == name
        assert caller.said == ["miss"]
    for name, asked in VARIANTS.items():
        assert (await caller.ask(asked)).text == name
        assert caller.said == ["hit"]


_json = st.recursive(
    st.none() | st.booleans() | st.integers(2, 4) | _texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_texts, inner, max_size=2),
    max_leaves=4,
)
_configs = st.builds(
    lm15.Config,
    max_tokens=st.none() | st.integers(1, 3),
    temperature=st.none() | st.sampled_from([0.0, 1.0]),
    seed=st.none() | st.integers(0, 2),
    stop=st.lists(_texts.filter(bool), max_size=2).map(tuple),
    extensions=st.none() | st.dictionaries(_texts.filter(bool), _json, min_size=1, max_size=2),
)
_requests = st.builds(
    lm15.Request,
    model=st.just("m"),
    messages=st.lists(_texts.map(lm15.Message.user), min_size=1, max_size=2).map(tuple),
    system=st.none() | _texts.filter(bool),
    config=_configs,
)


@given(_requests, _requests)
@settings(max_examples=100)
def test_two_requests_meet_exactly_when_they_are_equal(one: Any, other: Any) -> None:
    async def hit() -> bool:
        caller = Caller(response("1"), response("2"))
        await caller.ask(one)
        await caller.ask(other)
        return caller.said == ["hit"]

    assert asyncio.run(hit()) == (one == other)


async def test_the_order_of_a_mapping_does_not_matter() -> None:
    def asked(*names: str) -> lm15.Request:
        extensions = dict.fromkeys(names, 1)
        return replace(_BASE, config=lm15.Config(extensions=extensions))

    caller = Caller(response("yes"))
    await caller.ask(asked("a", "b"))
    assert (await caller.ask(asked("b", "a"))).text == "yes"
