from __future__ import annotations

import os
import socket
from decimal import Decimal
from pathlib import Path

import pytest

from dspex_ray.models import tokenizers
from dspex_ray.models.model import CostEstimate, Price, Provider
from dspex_ray.models.tokenizers import (
    count_tokens,
    estimate,
    estimate_call_cost,
    estimated_tokens,
)

TEXT = "The quick brown fox jumps over the lazy dog. <|endoftext|>"
PRICE = Price(prompt_usd_per_token=Decimal("0.001"), completion_usd_per_token=Decimal("0.01"))


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a vocabulary was asked for over the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
    tokenizers._encoding.cache_clear()


@pytest.mark.parametrize(
    ("model_name", "expected"),
    [
        ("gpt-4o-mini", (17, "o200k_base", True)),
        ("gpt-5", (17, "o200k_base", True)),
        ("gpt-4-0613", (16, "cl100k_base", True)),
    ],
)
def test_openai_models_are_counted_exactly(
    model_name: str, expected: tuple[int, str, bool]
) -> None:
    assert count_tokens(TEXT, Provider.OPENAI, model_name) == expected


@pytest.mark.parametrize(
    ("provider", "model_name"),
    [
        (Provider.ANTHROPIC, "claude-sonnet-4"),
        (Provider.COHERE, "command-r"),
        (Provider.HUGGINGFACE, "meta-llama/Llama-3.1-8B"),
        (Provider.LOCAL, "smollm2"),
        (Provider.OPENAI_COMPATIBLE, "gpt-4o"),
        (Provider.OPENAI, "a-model-tiktoken-does-not-know"),
        (Provider.OPENAI, "text-davinci-003"),  # its vocabulary is not among the bundled two
    ],
)
def test_others_are_estimated_upwards_and_say_so(provider: Provider, model_name: str) -> None:
    assert count_tokens(TEXT, provider, model_name) == (21, "cl100k_base x1.3 (estimate)", False)
    count = count_tokens("über alles", provider, model_name)
    assert count == (4, "cl100k_base x1.6 (estimate)", False)


def test_the_environment_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    count_tokens(TEXT, Provider.OPENAI, "gpt-4o")
    assert "TIKTOKEN_CACHE_DIR" not in os.environ
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "/elsewhere")
    tokenizers._encoding.cache_clear()
    count_tokens(TEXT, Provider.OPENAI, "gpt-4o")
    assert os.environ["TIKTOKEN_CACHE_DIR"] == "/elsewhere"


def test_without_vocabularies_bytes_are_counted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tokenizers, "_vocabulary_folder", lambda: tmp_path)
    expected = (2, "bytes/3 (estimate)", False)
    assert count_tokens("€uro", Provider.OPENAI, "gpt-4o") == expected


def test_a_damaged_vocabulary_is_neither_used_nor_deleted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    damaged = tmp_path / "fb374d419588a4632f3f557e76b4b70aebbca790"
    damaged.write_bytes(b"aGk= 0\n")
    monkeypatch.setattr(tokenizers, "_vocabulary_folder", lambda: tmp_path)
    assert not count_tokens("hi", Provider.OPENAI, "gpt-4o").exact
    assert damaged.read_bytes() == b"aGk= 0\n"


def test_estimate_prices_the_prompt_alone() -> None:
    assert estimate(Provider.OPENAI, "gpt-4o", TEXT, PRICE) == CostEstimate(
        estimated_tokens=17, estimated_cost=Decimal("0.017"), tokenizer="o200k_base", exact=True
    )
    assert estimate(Provider.OPENAI, "gpt-4o", TEXT, Price()).estimated_cost is None


def test_estimate_of_a_whole_call() -> None:
    assert estimate_call_cost(10, 5, PRICE) == Decimal("0.06")
    assert estimate_call_cost(10, 5, Price(prompt_usd_per_token=Decimal(1))) is None
    assert [estimated_tokens(n) for n in (0, 1, 3, 4)] == [0, 1, 1, 2]
