"""The tweets of the example: plain, agreed on, drawn alike everywhere."""

from __future__ import annotations

from collections import Counter

from examples.tweet_sentiment.tweets import SENTIMENTS, drawn, installed_tweets


def test_the_installed_ones_are_plain_and_each_once() -> None:
    tweets = installed_tweets()
    assert len(tweets) == len(set(tweets)) > 1000
    assert {tweet.sentiment for tweet in tweets} == set(SENTIMENTS)
    assert all(tweet.text.isascii() and "http" not in tweet.text for tweet in tweets)


def test_equal_seeds_draw_equal_and_balanced_ones() -> None:
    tweets = installed_tweets()
    found = drawn(tweets, 101, seed=3)
    assert found == drawn(tweets, 101, seed=3) != drawn(tweets, 101, seed=4)
    assert len(set(found)) == 101
    assert Counter(tweet.sentiment for tweet in found) == {
        "negative": 34,
        "neutral": 34,
        "positive": 33,
    }
