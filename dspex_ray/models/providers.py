"""One engine per model revision: DSPy's own wire code, bound once to an address and a key.

The provider object is called directly. DSPy's AsyncLM15Engine resolves the route again in a
thread on every call, which costs more than the call itself needs.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from json import JSONDecodeError
from typing import Any, Final, Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from dspy._vendor.lm15.compat import ANTHROPIC_PRESETS, OPENAI_CHAT_PRESETS
from dspy._vendor.lm15.transports import (
    ConnectTimeout,
    ReadTimeout,
    StdlibAsyncTransport,
    WriteTimeout,
)
from dspy.clients.engines.base import validate_request
from dspy.clients.engines.lifecycle import aclosing_stream
from dspy.clients.engines.stream_guard import achecked_stream
from dspy.lm15 import (
    AccessPolicy,
    AnthropicCompat,
    Config,
    Message,
    NotConfiguredError,
    OpenAIChatCompat,
    ProviderDefinition,
    ProviderError,
    Request,
    Response,
    StreamAssemblyError,
    TransportError,
)
from dspy.lm15 import TimeoutError as ProviderTimeout
from pydantic import SecretStr

from dspex_ray.core.errors import Invalid
from dspex_ray.core.masking import MASK
from dspex_ray.models.hosting import hosting_options
from dspex_ray.models.model import Model, Provider

StreamEvent = Any  # one of dspy.lm15's Stream*Event classes

_BASE_URLS: Final = {
    Provider.OPENAI: "https://api.openai.com/v1",
    Provider.ANTHROPIC: "https://api.anthropic.com/v1",
    Provider.COHERE: "https://api.cohere.ai/compatibility/v1",
    Provider.HUGGINGFACE: "https://router.huggingface.co/v1",
}
_KEYLESS: Final = frozenset({Provider.LOCAL, Provider.OPENAI_COMPATIBLE})
_PLACEHOLDER_KEY: Final = "none"  # what keyless servers get: the wire code wants a key
# Never resolved: a model hosted by this instance is reached by its transport, not by a name.
_HOSTED_URL: Final = "http://hosted.invalid/v1"
_CONNECT_TIMEOUT_S: Final = 10.0
_MAX_CONNECTIONS: Final = 512  # over a replica's max_inflight: the gateway sheds, not this pool

_PLAIN_CHAT: Final = OpenAIChatCompat(
    instruction_role="system",
    max_tokens_field="max_tokens",
    stream_usage="include",
    thinking_format="reasoning_effort",
    cache_control="none",
    tool_result_media="reject",
)
_GENERATION: Final = frozenset(
    {
        "extensions",
        "frequency_penalty",
        "max_tokens",
        "presence_penalty",
        "seed",
        "service_tier",
        "stop",
        "temperature",
        "top_k",
        "top_p",
    }
)
_OUR_HEADERS: Final = frozenset(
    {
        "accept-encoding",
        "authorization",
        "connection",
        "content-length",
        "content-type",
        "cookie",
        "host",
        "proxy-authorization",
        "transfer-encoding",
        "x-api-key",
    }
)
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_VISIBLE: Final = re.compile(r"[\x20-\x7e]*")


class LeafEngine(Protocol):
    """One attempt at one model: no retry, no cache, no fan-out."""

    async def complete(self, request: Request) -> Response: ...

    def stream(self, request: Request) -> AsyncIterator[StreamEvent]: ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True)
class ProviderOptions:
    """What `Model.config` may say. `defaults` fill what a request leaves open."""

    compat: Any = None  #: OpenAIChatCompat or AnthropicCompat; None is the provider's own
    headers: tuple[tuple[str, str], ...] = ()
    defaults: Config = field(default_factory=Config)


def build_engine(model: Model, api_key: SecretStr | None, *, transport: Any = None) -> LeafEngine:
    """The engine of this model revision; it belongs to the event loop that first calls it.

    `transport` is an lm15 AsyncTransport and stays the caller's to close; without one the engine
    opens connections of its own. Raises lm15's NotConfiguredError when the key, or the transport
    of a hosted model, is missing, and Invalid when `config` or the key cannot be used.
    """
    options = read_options(model.provider, model.config)
    key = _usable_key(model, api_key)
    if transport is None and model.provider is Provider.LOCAL and model.base_url is None:
        raise NotConfiguredError(
            f"model {model.name!r} is hosted by this instance, and this process has no way to it",
            provider=model.provider.value,
        )
    base_url = model.base_url or _BASE_URLS.get(model.provider, _HOSTED_URL)
    definition = _definition(model.provider, base_url, options)
    own = transport is None
    lm = definition.async_adapter(
        api_key=key,
        access=definition.access,
        compat=definition.compat,
        base_url=base_url,
        transport=_transport(base_url, model.timeout_s) if own else transport,
    )
    return ModelEngine(lm, model, options.defaults, secret=key, owns_transport=own)


def embeddings_address(model: Model, api_key: SecretStr | None) -> tuple[str, dict[str, str]]:
    """Where this model embeds, with the headers that open it. Raises Invalid for a model whose
    provider, or this instance as its host, has no embeddings."""
    base_url = model.base_url or _BASE_URLS.get(model.provider)
    if base_url is None or model.provider is Provider.ANTHROPIC:
        raise Invalid(
            f"model {model.name!r} does not embed: provider {model.provider.value!r} has no "
            "embeddings",
            field="model",
            rule="embeds",
        )
    options = read_options(model.provider, model.config)
    headers = {**dict(options.headers), "authorization": f"Bearer {_usable_key(model, api_key)}"}
    return f"{base_url}/embeddings", headers


class ModelEngine:
    """A provider's wire format bound to one model: its name, defaults, token cap and key."""

    def __init__(
        self, lm: Any, model: Model, defaults: Config, *, secret: str, owns_transport: bool
    ) -> None:
        self._lm = lm
        self._model_name = model.model_name
        self._cap = model.max_tokens
        self._timeout_s = model.timeout_s
        self._defaults = {
            name: value
            for name in _GENERATION
            if (value := getattr(defaults, name)) not in (None, ())
        }
        self._secret = secret if secret != _PLACEHOLDER_KEY else ""
        self._owns_transport = owns_transport

    async def complete(self, request: Request) -> Response:
        """One call. Raises lm15 errors, and ValueError for controls that are not a request's."""
        fitted = self._fit(request)
        with self._faults():
            async with asyncio.timeout(self._timeout_s):
                response = await self._lm.complete(fitted)
            if not _is_answer(response):
                raise ProviderError("the reply holds no answer", provider=self._lm.provider)
            return response

    async def stream(self, request: Request) -> AsyncIterator[StreamEvent]:
        """Events from start to end; a stream without its end event raises, as do errors in it.

        Closing the iterator closes the connection, which stops the provider.
        """
        source = self._lm.stream(self._fit(request))
        events = achecked_stream(source, provider=self._lm.provider)
        with self._faults():
            async with aclosing_stream(events):
                while (event := await self._next(events)) is not None:
                    if event.type == "end" and event.finish_reason is None:
                        raise StreamAssemblyError("the stream ended without a finish reason")
                    yield event

    async def _next(self, events: AsyncIterator[StreamEvent]) -> StreamEvent | None:
        async with asyncio.timeout(self._timeout_s):  # of one step: none may span a yield
            return await anext(events, None)

    async def aclose(self) -> None:
        if self._owns_transport:
            await self._lm.transport.aclose()

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """What lm15 stumbles over in a reply is the provider's fault, not a TypeError of ours."""
        try:
            yield
        except (AttributeError, JSONDecodeError, LookupError, TypeError) as error:
            raise ProviderError(
                f"the reply is not in the provider's format ({type(error).__name__})",
                provider=self._lm.provider,
            ) from error
        except TimeoutError as error:
            raise self._too_late() from error
        except TransportError as error:
            if isinstance(error.__cause__, ConnectTimeout | ReadTimeout | WriteTimeout):
                raise self._too_late() from error
            raise
        except Exception as error:
            _scrub(error, self._secret)
            raise

    def _too_late(self) -> ProviderTimeout:
        return ProviderTimeout(
            f"no answer within {self._timeout_s:g} s", provider=self._lm.provider
        )

    def _fit(self, request: Request) -> Request:
        validate_request(request)
        config = request.config
        changes = {
            name: value
            for name, value in self._defaults.items()
            if name != "extensions" and getattr(config, name) in (None, ())
        }
        if "extensions" in self._defaults:
            changes["extensions"] = {**self._defaults["extensions"], **(config.extensions or {})}
        wanted = changes.get("max_tokens", config.max_tokens)
        if self._cap is not None and (wanted is None or wanted > self._cap):
            changes["max_tokens"] = self._cap
        if changes:
            config = replace(config, **changes)
        elif request.model == self._model_name:
            return request
        return replace(request, model=self._model_name, config=config)


def read_options(provider: Provider, config: dict[str, Any]) -> ProviderOptions:
    """`Model.config`, read; raises Invalid naming the key that is unknown or wrong."""
    hosted = {"hosting"} if provider is Provider.LOCAL else set()
    _known(config, frozenset({"compat", "defaults", "headers"} | hosted), "config")
    hosting_options(config)
    return ProviderOptions(
        compat=_compat(provider, config.get("compat")),
        headers=tuple(_headers(_mapping(config.get("headers"), "config.headers"))),
        defaults=_defaults(_mapping(config.get("defaults"), "config.defaults")),
    )


def _definition(provider: Provider, base_url: str, options: ProviderOptions) -> Any:
    anthropic = provider is Provider.ANTHROPIC
    access = AccessPolicy(
        provider=provider.value.replace("_", "-"),
        env_keys=(),  # a key comes from the registry, never from the process's environment
        auth_scheme=("x-api-key",) if anthropic else ("bearer",),
        headers=options.headers,
        base_url=base_url,
    )
    if anthropic:
        return ProviderDefinition.anthropic(access, compat=options.compat or AnthropicCompat())
    own = OpenAIChatCompat.preset("openai") if provider is Provider.OPENAI else _PLAIN_CHAT
    return ProviderDefinition.chat(access, compat=options.compat or own)


def _transport(base_url: str, timeout_s: float) -> Any:
    """Connections to one address. lm15's timeouts of reads, writes and the pool cost a task each:
    ModelEngine keeps the time instead, of a whole answer or of a step of a stream."""
    return _Transport(
        connect_timeout=min(_CONNECT_TIMEOUT_S, timeout_s),
        read_timeout=None,
        write_timeout=None,
        pool_timeout=None,
        max_connections=_MAX_CONNECTIONS,
        user_agent="dspex-ray",
        proxy=_proxy(base_url),
        trust_env=False,
    )


class _Transport(StdlibAsyncTransport):  # type: ignore[misc]
    """lm15's, sending a request's head and body at once: two writes are two system calls, two
    packets, and wake the provider twice."""

    async def _open(self, *address: Any, **options: Any) -> Any:
        connection = await super()._open(*address, **options)
        connection.writer = _OneWrite(connection.writer)
        return connection


class _OneWrite:
    """A StreamWriter that writes when it is drained, as lm15 does after each request."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._parts: list[bytes] = []

    def write(self, part: bytes) -> None:
        self._parts.append(part)

    async def drain(self) -> None:
        self._writer.write(b"".join(self._parts))
        self._parts.clear()
        await self._writer.drain()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)


def _proxy(base_url: str) -> str | None:
    """The environment's proxy for this address, looked up once: lm15 does for every request."""
    address = urlsplit(base_url)
    proxies = getproxies()
    proxy = proxies.get(address.scheme) or proxies.get("all")
    return None if proxy is None or proxy_bypass(address.hostname or "") else proxy


def _usable_key(model: Model, api_key: SecretStr | None) -> str:
    key = api_key.get_secret_value() if api_key is not None else ""
    if not key:
        if model.provider in _KEYLESS:
            return _PLACEHOLDER_KEY
        raise NotConfiguredError(
            f"model {model.name!r} has no API key", provider=model.provider.value
        )
    if not _VISIBLE.fullmatch(key):
        raise Invalid(
            f"the API key of model {model.name!r} holds a character that no header can carry",
            field="api_key",
            rule="visible ASCII",
        )
    return key


def _compat(provider: Provider, name: object) -> Any:
    if name is None:
        return None
    anthropic = provider is Provider.ANTHROPIC
    presets = ANTHROPIC_PRESETS if anthropic else OPENAI_CHAT_PRESETS
    if not isinstance(name, str) or name not in presets:
        raise Invalid(
            f"config.compat is {name!r}: known for provider {provider.value!r} are "
            f"{', '.join(sorted(presets))}",
            field="config.compat",
            rule="known preset",
        )
    return (AnthropicCompat if anthropic else OpenAIChatCompat).preset(name)


def _headers(given: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in given.items():
        where = f"config.headers.{name}"
        if not _HEADER_NAME.fullmatch(name):
            raise Invalid(f"{name!r} is not a header name", field=where, rule="header name")
        if name.lower() in _OUR_HEADERS:
            raise Invalid(
                f"{where} is set by the platform: keys go into api_key", field=where, rule="ours"
            )
        if not isinstance(value, str) or not _VISIBLE.fullmatch(value):
            raise Invalid(f"{where} must be visible ASCII", field=where, rule="visible ASCII")
        yield name, value


def _defaults(given: dict[str, Any]) -> Config:
    _known(given, _GENERATION, "config.defaults")
    for name, value in given.items():
        where = f"config.defaults.{name}"
        try:
            one = Config(**{name: value})
            # The controls that a request may not smuggle in, a default may not either.
            validate_request(Request(model="m", messages=(Message.user("m"),), config=one))
        except (TypeError, ValueError) as error:
            raise Invalid(f"{where}: {error}", field=where, rule="generation parameter") from None
    return Config(**given)


def _known(given: dict[str, Any], allowed: frozenset[str], where: str) -> None:
    for name in given:
        if name not in allowed:
            raise Invalid(
                f"{where}.{name} is unknown (known: {', '.join(sorted(allowed))})",
                field=f"{where}.{name}",
                rule="known key",
            )


def _mapping(value: object, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Invalid(f"{where} must be an object", field=where, rule="object")
    return value


def _is_answer(response: Response) -> bool:
    """lm15 reads any JSON object under status 200 as an empty answer that ended well."""
    if response.usage.output_tokens is not None:
        return True
    raw = response.provider_data or {}
    choices = raw.get("choices")
    return bool(choices and choices[0].get("message")) or isinstance(raw.get("content"), list)


def _scrub(error: BaseException, secret: str) -> None:
    """Mask the key in an error and its causes: some servers repeat what they were sent."""
    seen: BaseException | None = error
    while seen is not None and secret:
        for name, text in list(vars(seen).items()):
            if isinstance(text, str) and secret in text:
                setattr(seen, name, text.replace(secret, MASK))
        seen.args = tuple(
            item.replace(secret, MASK) if isinstance(item, str) else item for item in seen.args
        )
        seen = seen.__cause__ or seen.__context__
