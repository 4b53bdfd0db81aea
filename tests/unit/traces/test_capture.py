"""Planted secrets never survive redaction, wherever they lie; ordinary text does."""

from __future__ import annotations

import time
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex_ray.core.errors import Invalid
from dspex_ray.programs.model import CapturePolicy
from dspex_ray.programs.redaction import check_patterns, redacted, scrubber
from dspex_ray.traces.capture import captured
from tests.unit.traces.records import a_call, a_failure, a_record

REDACT = CapturePolicy(mode="redacted", retention_days=7)

_word = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789", min_size=1, max_size=12)
_letters = st.text("abcdefghijklmnopqrstuvwxyz", min_size=2, max_size=10)
_long = st.text("abcdefXYZ0123456789_-", min_size=20, max_size=40).map(lambda s: "A1" + s)


def _with_check_digit(digits: str) -> str:
    for last in "0123456789":
        number = digits + last
        doubled = [int(d) * (1 + place % 2) for place, d in enumerate(reversed(number))]
        if sum(n - 9 if n > 9 else n for n in doubled) % 10 == 0:
            return number
    raise AssertionError


@st.composite
def cards(draw: st.DrawFn) -> str:
    length = draw(st.sampled_from([13, 15, 16, 19]))
    body = draw(st.text("0123456789", min_size=length - 2, max_size=length - 2))
    number = _with_check_digit(draw(st.sampled_from("3456")) + body)
    separator = draw(st.sampled_from(["", " ", "-"]))
    return separator.join(number[at : at + 4] for at in range(0, length, 4))


secrets = st.one_of(
    st.builds("{}.{}@{}.{}".format, _word, _word, _letters, _letters),
    cards(),
    st.builds("{}{}".format, st.sampled_from(["sk-", "sk-proj-", "ghp_", "hf_", "dspex_"]), _long),
    st.builds("Bearer {}".format, _long),
    st.builds("AKIA{}".format, st.text("ABCDEF0123456789", min_size=16, max_size=16)),
    st.builds("eyJ{}.{}.{}".format, _long, _long, _long),
    st.builds("{:03}-{:02}-{:04}".format, *(st.integers(1, n) for n in (665, 99, 9999))),
    st.builds("ACME#{}#".format, st.integers(0, 10**6)),
)
_around = st.text(" .,;:!?()'\"\n/äß", max_size=8)
_quiet = st.text("abc ä\n", max_size=8)


@st.composite
def planted(draw: st.DrawFn) -> tuple[Any, str]:
    """A JSON value with a secret at some depth, as part of a string or a key."""
    secret = draw(secrets)
    value: Any = f"{draw(_quiet)} {draw(_around)} {secret} {draw(_around)}{draw(_quiet)}"
    for shape in draw(st.lists(st.sampled_from(["list", "value", "key", "tuple"]), max_size=5)):
        match shape:
            case "list":
                value = [1, value, None]
            case "tuple":
                value = (value, "x")
            case "value":
                value = {"a": value, "b": True}
            case "key":
                value = {value: 2.5} if isinstance(value, str) else {"k": value}
    return value, secret


@given(planted())
@settings(max_examples=300)
def test_a_planted_secret_never_survives(case: tuple[Any, str]) -> None:
    value, secret = case
    clean = redacted(value, scrubber((r"ACME#\d+#",)))
    assert secret not in orjson.dumps(clean).decode()
    token = secret.removeprefix("Bearer ")
    assert token not in orjson.dumps(clean).decode()


@given(planted())
@settings(max_examples=50)
def test_a_redacted_record_holds_the_secret_nowhere(case: tuple[Any, str]) -> None:
    value, secret = case
    call = a_call(
        a_failure(message=f"refused {secret} here"),
        request={"messages": [value]},
        response={"text": value},
    )
    record = a_record(
        1, call, inputs={"q": value}, outputs={"a": value}, error_message=f"bad: {secret} ."
    )
    policy = REDACT.model_copy(update={"patterns": (r"ACME#\d+#",)})
    clean = captured(record, policy)
    assert secret not in repr(clean)
    assert (clean.capture, clean.content_retention_days) == ("redacted", 7)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(0, 999) | _quiet,
        lambda inner: st.lists(inner) | st.dictionaries(_quiet, inner),
    )
)
def test_what_holds_no_secret_stays_as_it_is(value: Any) -> None:
    assert redacted(value, scrubber()) == value


@pytest.mark.parametrize(
    "text",
    [
        "call me at 12 or 14, ratio 3.1415926535897932",
        "ISBN 978-3-16-148410-0",
        "at 1700000000123 ms",  # a timestamp, not a card
        "4111 1111 1111 1112",  # fails the check digit
        "task-management-system-administrators",
        "the bearer of uncharacteristically bad news",
        "2024-01-02 and 000-12-3456",
        "me @home, you@localhost",
        "0190f5fc-4111-7111-8111-111111111111",
    ],
)
def test_ordinary_text_survives(text: str) -> None:
    assert scrubber()(text) == text


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("mail bob@example.com.", "mail [email]."),
        ("pay 4111 1111 1111 1111 now", "pay [card] now"),
        ("pay 1 4111-1111-1111-1111 7", "pay 1 [card] 7"),
        ("Authorization: Bearer abcdef0123456789xyz", "Authorization: Bearer [key]"),
        ("ssn 123-45-6789", "ssn [ssn]"),
        ("-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----!", "[key]!"),
        ("-----BEGIN PRIVATE KEY-----\ncut off", "[key]"),
    ],
)
def test_marks_say_what_was_there(text: str, clean: str) -> None:
    assert scrubber()(text) == clean


def test_a_card_as_a_number_is_blanked_and_other_numbers_are_not() -> None:
    value = {"card": 4111111111111111, "at": 1700000000123, "n": 7, "yes": True}
    clean = {"card": "[card]", "at": 1700000000123, "n": 7, "yes": True}
    assert redacted(value, scrubber()) == clean


def test_keys_that_look_alike_when_blanked_stay_apart() -> None:
    value = {"a@b.com": 1, "c@d.com": 2}
    assert redacted(value, scrubber()) == {"[email]": 1, "[email] 2": 2}


def _full() -> Any:
    call = a_call(a_failure(), request={"m": "hi"}, response={"t": "yo"})
    return a_record(1, call, inputs={"q": "a@b.com"}, outputs={"a": "x"})


def test_none_drops_content_and_keeps_the_rest() -> None:
    record = _full()
    bare = captured(record, CapturePolicy(mode="none"))
    assert (bare.inputs, bare.outputs) == (None, None)
    assert bare.lm_calls == (a_call(a_failure()),)
    assert bare.capture == "none"
    assert bare.program == record.program


def test_full_keeps_content_but_cleans_error_messages() -> None:
    record = _full().model_copy(update={"error_message": "for a@b.com"})
    kept = captured(record, CapturePolicy(mode="full"))
    assert kept.inputs == {"q": "a@b.com"}
    assert kept.lm_calls == record.lm_calls
    assert kept.error_message == "for [email]"


@pytest.mark.parametrize(
    "pattern", [r"user-\d+", r"(?:\d{3}-){2}\d{4}", r"(?i)acme[ -]?(?:id|no)", r"(?P<x>[a)(+]+)x"]
)
def test_patterns_that_are_taken(pattern: str) -> None:
    check_patterns(CapturePolicy(patterns=(pattern,)))


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "'(' is not a regular expression"),
        ("a*", "'a*' matches the empty text"),
        ("x" * 201, "a pattern of 201 characters; at most 200"),
        ("(a+)+b", "'(a+)+b' repeats a group that holds a repetition or a choice"),
        (r"(a|aa)*b", "repeats a group"),
        (r"((?:a?b)c){2,}d", "repeats a group"),
        (r"(x(y+)z){9}w", "repeats a group"),
    ],
)
def test_patterns_that_are_refused(pattern: str, message: str) -> None:
    with pytest.raises(Invalid) as refused:
        check_patterns(CapturePolicy(patterns=(pattern,)))
    assert message in refused.value.message
    assert refused.value.field == "capture.patterns"
    assert refused.value.rule == "regular expression"


def test_too_many_patterns_are_refused() -> None:
    with pytest.raises(Invalid, match="21 patterns; at most 20 are allowed"):
        check_patterns(CapturePolicy(patterns=tuple(f"a{n}" for n in range(21))))


@pytest.mark.parametrize(
    "text",
    ["a" * 200_000, "1" * 200_000, "1 " * 100_000, "a@" * 100_000, "sk-" * 60_000,
     "a@" + "a." * 100_000, "bearer " * 30_000, "-----BEGIN PRIVATE KEY-----" * 5_000,
     "eyJ" * 60_000, "4-" * 100_000],
    ids=lambda text: text[:8],
)  # fmt: skip
def test_hostile_text_takes_linear_time(text: str) -> None:
    start = time.process_time()
    scrubber()(text)
    assert time.process_time() - start < 2.0
