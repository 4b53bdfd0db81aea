"""Nouns to requests and answers to nouns, without sending anything."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, SecretStr, TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from dspex_ray.client.errors import error_in, not_understood
from dspex_ray.core.errors import Invalid
from dspex_ray.core.etags import etag
from dspex_ray.datasets.model import MEDIA_TYPES
from dspex_ray.serving.model import StreamEvent

M = TypeVar("M", bound=BaseModel)

#: A body that is sent as it is made; only once, for it cannot be had again.
Streamed = Iterable[bytes] | AsyncIterable[bytes]

_STREAM_EVENT: TypeAdapter[StreamEvent] = TypeAdapter(StreamEvent)


@dataclass(frozen=True)
class Ask:
    """One request, ready to be sent, any number of times if `repeatable`.

    `ok` are the statuses that carry the answer. `timeout_s` None is the client's own.
    """

    method: str
    path: str
    content: bytes | Streamed | None = None
    media_type: str = "application/json"
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float | None = None
    repeatable: bool = False
    ok: range | tuple[int, ...] = range(200, 300)


def path(template: str, **parts: object) -> str:
    """`template` with its parts quoted. Raises Invalid for one that is no part of a path."""
    quoted = {}
    for name, part in parts.items():
        text = str(part)
        if text in {"", ".", ".."}:
            raise Invalid(f"{name} is {text!r}: give its name", field=name, rule="path")
        quoted[name] = quote(text, safe="@")
    return template.format(**quoted)


def made(kind: type[M], **fields: Any) -> M:
    """The noun that is sent. Raises Invalid naming the field and its rule."""
    try:
        return kind(**fields)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in fault["loc"]) or "body"
        raise Invalid(f"{where}: {fault['msg']}", field=where, rule=fault["type"]) from None


def payload(noun: BaseModel) -> bytes:
    """The JSON of the fields that were given, secrets in clear: sent, never logged."""
    return json_of(_revealed(noun.model_dump(by_alias=True, exclude_unset=True)))


def json_of(value: Any) -> bytes:
    """Raises Invalid for what JSON cannot say: NaN, infinity, objects of no known kind."""
    try:
        text = json.dumps(to_jsonable_python(value), ensure_ascii=False, allow_nan=False)
        return text.encode()
    except (ValueError, TypeError) as error:
        raise Invalid(f"this cannot be sent as JSON: {error}", field="body", rule="json") from None


def _revealed(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, dict):
        return {name: _revealed(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_revealed(item) for item in value]
    return value


def params(**given: Any) -> dict[str, Any]:
    """Query parameters; those that are None are left out."""
    return {name: to_jsonable_python(value) for name, value in given.items() if value is not None}


def query(noun: BaseModel | None) -> dict[str, Any]:
    """A query noun's parameters: the fields that were given."""
    return {} if noun is None else params(**noun.model_dump(exclude_unset=True))


def media_type_of(file_name: str) -> str:
    """Of a file with rows, by its ending. Raises Invalid."""
    ending = file_name.rpartition(".")[2].lower()
    for media_type, kind in MEDIA_TYPES.items():
        if ending == kind.value:
            return media_type
    allowed = ", ".join(f".{kind}" for kind in MEDIA_TYPES.values())
    raise Invalid(
        f"the name {file_name!r} does not say the format (allowed: {allowed})",
        field="file",
        rule="known format",
    )


def if_match(revision: int | None) -> dict[str, str]:
    return {} if revision is None else {"If-Match": etag(revision)}


def calling(
    session: str | None, timeout_s: float | None, tags: Mapping[str, str] | None
) -> dict[str, str]:
    """The `x-dspex-*` headers of a data plane call. Raises Invalid naming what cannot be one."""
    headers: dict[str, str] = {}
    if session is not None:
        headers["x-dspex-session"] = session
    if timeout_s is not None:
        headers["x-dspex-timeout-ms"] = str(max(1, round(timeout_s * 1000)))
    if tags:
        headers["x-dspex-tags"] = ",".join(f"{name}={value}" for name, value in tags.items())
    for name, value in headers.items():
        if not (value.isascii() and value.isprintable()):
            raise Invalid(f"{name} must be printable ASCII", field=name, rule="characters")
    return headers


def read(kind: type[M], content: bytes | str, url: str) -> M:
    """The noun that a body is; fields of a newer server are dropped. Raises DspexRayError."""
    try:
        return kind.model_validate_json(content, extra="ignore")
    except ValidationError as error:
        raise not_understood(url, _faults(kind.__name__, error)) from None


def read_event(data: str, url: str) -> StreamEvent:
    """An event of a program's stream; raises the error that it is."""
    _raise_error(data)
    try:
        return _STREAM_EVENT.validate_json(data, extra="ignore")
    except ValidationError as error:
        raise not_understood(url, _faults("event", error)) from None


def read_chunk(kind: type[M], data: str, url: str) -> M:
    """A chunk of a chat stream; raises the error that it is."""
    _raise_error(data)
    return read(kind, data, url)


def _raise_error(data: str) -> None:
    if '"error"' not in data:
        return
    try:
        error = error_in(json.loads(data))
    except ValueError:
        return
    if error is not None:
        raise error


def _faults(what: str, error: ValidationError) -> str:
    """Where it does not fit; never the values, which may be content."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{what} {where}: {first['msg']}" if where else f"{what}: {first['msg']}"
