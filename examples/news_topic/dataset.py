"""Labelled beginnings of articles as JSON lines: `python -m examples.news_topic.dataset`.

Taken from the installed corpus when they are needed: its texts are not ours to copy.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator

from examples.news_topic.articles import TOPICS, installed_corpus


def rows(count: int, seed: int) -> Iterator[dict[str, str]]:
    """As many of each topic, of 25 words, none twice; equal seeds give equal rows."""
    corpus, seen, turns = installed_corpus(seed), set[str](), len(TOPICS)
    for number in range(count):
        while True:
            article = corpus.question(TOPICS[number % turns], is_long=False)
            if article.text not in seen:
                break
        seen.add(article.text)
        yield {"article": article.text, "topic": article.topic}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    for row in rows(given.rows, given.seed):
        sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
