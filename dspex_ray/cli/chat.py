"""`dspex chat`: one question to a model, a route or a program."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from dspex_ray.cli.door import door_of
from dspex_ray.cli.output import Json, emit, plain, print_json, say
from dspex_ray.client import Dspex
from dspex_ray.client.chat import ChatUsage, Message


def chat(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A model, route/NAME or program/NAME[@version].")],
    text: Annotated[str, typer.Argument(help="What to say.")],
    system: Annotated[str | None, typer.Option(help="The system message.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2)] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Print text as it comes.")] = False,
    as_json: Json = False,
) -> None:
    """Say something, and print the answer."""
    messages: list[Message] = [{"role": "user", "content": text}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    wanted = {"max_tokens": max_tokens, "temperature": temperature}
    options: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
    with door_of(context).client() as client:
        if stream:
            _stream(client, model, messages, options, as_json)
            return
        answer = client.chat.complete(model, messages, **options)
    emit(as_json, answer, lambda: plain(answer.text))
    if not as_json:
        _remark(answer.model, answer.usage)


def _stream(
    client: Dspex, model: str, messages: list[Message], options: dict[str, Any], as_json: bool
) -> None:
    """Text as it comes; as JSON, one document when all of it is there."""
    answered_by, pieces, usage = model, [], None
    for chunk in client.chat.stream(model, messages, **options):
        answered_by, usage = chunk.model, chunk.usage or usage
        pieces.append(chunk.text)
        if not as_json:
            print(plain(chunk.text), end="", flush=True)
    if as_json:
        print_json({"model": answered_by, "text": "".join(pieces), "usage": usage})
        return
    print()
    _remark(answered_by, usage)


def _remark(model: str, usage: ChatUsage | None) -> None:
    if usage is not None:
        say(f"{model}: {usage.prompt_tokens} + {usage.completion_tokens} tokens")
