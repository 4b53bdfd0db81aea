"""Which strings of a program's content are blanked before anything is written anywhere.

Python's `re` has no time limit, so a pattern that backtracks without end would hang the process
that records. `check_patterns` therefore refuses long patterns and repetitions of repetitions when
the policy is set; `\\w+\\w+\\w+x` passes, and costs a power of the text's length.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from dspex_ray.core.errors import Invalid
from dspex_ray.programs.model import CapturePolicy

MAX_PATTERNS = 20
MAX_PATTERN_CHARS = 200

Scrub = Callable[[str], str]


def redacted(value: Any, scrub: Scrub) -> Any:
    """A copy with every string scrubbed, at every depth, keys too; so is a card as a number."""
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, Mapping):
        return _redacted_mapping(value, scrub)
    if isinstance(value, list | tuple | set | frozenset):
        return [redacted(item, scrub) for item in value]
    if isinstance(value, int) and value >= 10**12:
        text = str(value)
        clean = scrub(text)
        return value if clean == text else clean
    return value


@lru_cache(maxsize=256)
def scrubber(patterns: tuple[str, ...] = ()) -> Scrub:
    """A function that replaces every match of `patterns`, then of the built-in ones, by a mark."""
    own = [re.compile(pattern) for pattern in patterns]

    def scrub(text: str) -> str:
        for pattern in own:
            text = pattern.sub("[redacted]", text)
        lowered = text.lower()
        for built_in in _BUILT_IN:
            if any(hint in lowered for hint in built_in.hints):
                text = built_in.pattern.sub(built_in.mark, text)
        return _DIGITS.sub(_without_cards, text)

    return scrub


def check_patterns(policy: CapturePolicy) -> None:
    """Raises Invalid for a pattern that does not compile, matches nothing at all, or may hang."""
    if len(policy.patterns) > MAX_PATTERNS:
        raise _refused(f"{len(policy.patterns)} patterns; at most {MAX_PATTERNS} are allowed")
    for pattern in policy.patterns:
        _check_pattern(pattern)


class _BuiltIn(NamedTuple):
    pattern: re.Pattern[str]
    mark: str
    hints: tuple[str, ...]  #: no match without one of these in the lower-case text; far quicker


_BUILT_IN = (
    _BuiltIn(
        re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*-----|\Z)", re.S),
        "[key]",
        ("private key",),
    ),
    _BuiltIn(
        re.compile(r"\b(bearer)\s+(?=[\w.~+/=-]*[0-9])[\w.~+/=-]{16,}", re.I),
        r"\1 [key]",
        ("bearer",),
    ),
    _BuiltIn(re.compile(r"(?<![\w-])eyJ[\w-]{10,}\.[\w-]{4,}\.[\w-]*"), "[key]", ("eyj",)),  # a JWT
    _BuiltIn(
        re.compile(
            r"(?<![A-Za-z0-9])(?:(?:sk|rk|pk)[-_][\w-]{16,}|(?:gh[opsur]|github_pat|hf|glpat|dspex)"
            r"[-_]\w[\w-]{15,}|xox[abeprs]-[\w-]{10,}|A(?:KIA|SIA)[0-9A-Z]{16}|AIza[\w-]{35})"
        ),
        "[key]",
        ("-", "_", "akia", "asia", "aiza"),
    ),
    _BuiltIn(re.compile(r"(?<![\w.%+-])[\w.%+-]+@(?:[\w-]+\.)+[^\W\d_]{2,}"), "[email]", ("@",)),
    # US social security numbers; the ranges that were never given out are left alone
    _BuiltIn(
        re.compile(
            r"(?<![0-9-])(?!000|666|9)[0-9]{3}-(?!00)[0-9]{2}-(?!0000)[0-9]{4}(?![0-9]|-[0-9])"
        ),
        "[ssn]",
        ("-",),
    ),
)

# A maximal run of digits, single spaces or dashes between them: long enough to hold a card number.
_DIGITS = re.compile(r"[0-9](?:[ -]?[0-9]){12,}")
_GROUP = re.compile(r"[0-9]+")


def _redacted_mapping(value: Mapping[Any, Any], scrub: Scrub) -> dict[Any, Any]:
    result: dict[Any, Any] = {}
    for key, item in value.items():
        clean = redacted(key, scrub) if isinstance(key, str | int) else key
        name, count = clean, 1
        while name in result:  # two keys may look alike once they are blanked
            count += 1
            name = f"{clean} {count}"
        result[name] = redacted(item, scrub)
    return result


def _without_cards(match: re.Match[str]) -> str:
    """Blank the first stretch of whole groups that is a card number, and go on after it."""
    text = match.group()
    groups = [found.span() for found in _GROUP.finditer(text)]
    parts: list[str] = []
    here = position = 0
    while here < len(groups):
        end = _card_end(text, groups, here)
        if end is None:
            here += 1
            continue
        parts += [text[position : groups[here][0]], "[card]"]
        position, here = groups[end][1], end + 1
    return "".join(parts) + text[position:]


def _card_end(text: str, groups: list[tuple[int, int]], start: int) -> int | None:
    """The last group of a card number that begins with group `start`; None when none does."""
    digits = ""
    for index in range(start, len(groups)):
        digits += text[slice(*groups[index])]
        if len(digits) > 19:
            return None
        if len(digits) >= 13 and digits[0] in "23456" and _luhn(digits):
            return index
    return None


def _luhn(digits: str) -> bool:
    """The check of ISO/IEC 7812-1: from the right, every second digit doubled."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        number = int(digit) << (place & 1)
        total += number - 9 if number > 9 else number
    return total % 10 == 0


def _check_pattern(pattern: str) -> None:
    if len(pattern) > MAX_PATTERN_CHARS:
        raise _refused(f"a pattern of {len(pattern)} characters; at most {MAX_PATTERN_CHARS}")
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise _refused(f"{pattern!r} is not a regular expression: {error}") from None
    if compiled.search("") is not None:
        raise _refused(f"{pattern!r} matches the empty text")
    if _repeats_a_repetition(pattern):
        raise _refused(f"{pattern!r} repeats a group that holds a repetition or a choice")


def _refused(message: str) -> Invalid:
    return Invalid(message, field="capture.patterns", rule="regular expression")


_PIECE = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(|\)|[*+?|]|\{[0-9]*,?[0-9]*\}|.", re.S)


def _repeats_a_repetition(pattern: str) -> bool:
    """Whether a group that holds a quantifier or a choice is itself repeated, as in (a+)+: the
    shape that makes backtracking exponential. Refuses some harmless patterns too."""
    held = [False]  # for each open group: whether it holds such a thing
    closed, before = False, ""
    for piece in _PIECE.findall(pattern):
        counted = piece[0] == "{" and len(piece) > 1
        if before == ")" and closed and (piece in {"*", "+"} or counted):
            return True
        if piece == "(":
            held.append(False)
        elif piece == ")" and len(held) > 1:
            closed = held.pop()
            held[-1] |= closed
        else:
            choice = piece == "?" and before != "("
            held[-1] |= choice or piece in {"*", "+", "|"} or (counted and "," in piece)
        before = piece
    return False
