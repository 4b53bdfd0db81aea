"""Labelled tweets as JSON lines: `python -m examples.tweet_sentiment.dataset`.

Taken from the installed corpus when they are needed: its texts are not ours to copy.
"""

from __future__ import annotations

import argparse
import json
import sys

from examples.tweet_sentiment.tweets import drawn, installed_tweets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    for tweet in drawn(installed_tweets(), given.rows, given.seed):
        row = {"tweet": tweet.text, "sentiment": tweet.sentiment}
        sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
