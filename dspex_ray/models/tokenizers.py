"""Token counts before a call: real vocabularies from installed packages, never the network.

OpenAI's vocabularies lie in the litellm wheel; for other families the count is an estimate that
errs upwards, and its name says so.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import os
from decimal import Decimal
from functools import cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

from dspex_ray.models.model import CostEstimate, Price, Provider

if TYPE_CHECKING:
    import tiktoken

# Vocabulary -> (file name in tiktoken's cache: the SHA-1 of its address, SHA-256 of its content).
_VOCABULARIES = {
    "o200k_base": (
        "fb374d419588a4632f3f557e76b4b70aebbca790",
        "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    ),
    "cl100k_base": (
        "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
    ),
}
_ESTIMATOR = "cl100k_base"
# SmolLM2's vocabulary of 49k, the smallest in use here, cuts finer than the estimator's 100k, by
# 1.07 (English), 1.16 (code), 1.23 (JSON), 1.38 (German) and 1.55 (Chinese): measured.
_MARGIN_ASCII, _MARGIN_OTHER = 1.3, 1.6
_environment = Lock()


class TokenCount(NamedTuple):
    tokens: int
    tokenizer: str
    exact: bool  #: the model's own tokenizer counted


def count_tokens(text: str, provider: Provider, model_name: str) -> TokenCount:
    """Tokens of `text` alone, without the few that a chat template adds a message."""
    if provider is Provider.OPENAI:
        family = _openai_vocabulary(model_name)
        encoding = _encoding(family) if family else None
        if encoding is not None:
            return TokenCount(len(encoding.encode_ordinary(text)), encoding.name, exact=True)
    encoding = _encoding(_ESTIMATOR)
    if encoding is None:
        return TokenCount(estimated_tokens(len(text.encode())), "bytes/3 (estimate)", exact=False)
    margin = _MARGIN_ASCII if text.isascii() else _MARGIN_OTHER
    tokens = math.ceil(len(encoding.encode_ordinary(text)) * margin)
    return TokenCount(tokens, f"{_ESTIMATOR} x{margin} (estimate)", exact=False)


def estimate(provider: Provider, model_name: str, text: str, price: Price) -> CostEstimate:
    """What sending `text` as a prompt would cost; the answer's tokens are not in it."""
    count = count_tokens(text, provider, model_name)
    return CostEstimate(
        estimated_tokens=count.tokens,
        estimated_cost=_times(count.tokens, price.prompt_usd_per_token),
        tokenizer=count.tokenizer,
        exact=count.exact,
    )


def estimated_tokens(length: int) -> int:
    """A bound good enough for routing, without a tokenizer: a third of the length, rounded up."""
    return -(-length // 3)


def estimate_call_cost(
    prompt_tokens: int, expected_output_tokens: int, price: Price
) -> Decimal | None:
    """USD of a whole call before it is made; None when either price is unknown."""
    prompt = _times(prompt_tokens, price.prompt_usd_per_token)
    completion = _times(expected_output_tokens, price.completion_usd_per_token)
    return None if prompt is None or completion is None else prompt + completion


def _times(tokens: int, usd_per_token: Decimal | None) -> Decimal | None:
    return None if usd_per_token is None else tokens * usd_per_token


def _openai_vocabulary(model_name: str) -> str | None:
    import tiktoken

    try:
        return tiktoken.encoding_name_for_model(model_name)
    except KeyError:
        return None


@cache
def _encoding(name: str) -> tiktoken.Encoding | None:
    """The encoding, or None when its vocabulary is not installed whole.

    The file is checked first: tiktoken deletes a file it does not like and asks the network.
    """
    file_name, sha256 = _VOCABULARIES.get(name, ("", ""))
    folder = _vocabulary_folder()
    if not file_name or folder is None or not (folder / file_name).is_file():
        return None
    if hashlib.sha256((folder / file_name).read_bytes()).hexdigest() != sha256:
        return None
    import tiktoken

    with _environment:
        # tiktoken takes its folder from the environment alone; others must not find ours there.
        before = os.environ.get(_CACHE_VARIABLE)  # noqa: TID251 - see above
        os.environ[_CACHE_VARIABLE] = str(folder)  # noqa: TID251
        try:
            return tiktoken.get_encoding(name)
        finally:
            if before is None:
                del os.environ[_CACHE_VARIABLE]  # noqa: TID251
            else:
                os.environ[_CACHE_VARIABLE] = before  # noqa: TID251


_CACHE_VARIABLE = "TIKTOKEN_CACHE_DIR"


def _vocabulary_folder() -> Path | None:
    spec = importlib.util.find_spec("litellm")  # located, never imported: that costs 150 MB
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "litellm_core_utils" / "tokenizers"
