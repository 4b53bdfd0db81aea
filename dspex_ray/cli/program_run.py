"""`dspex program run`: a program's answer, whole or as it is written."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from dspex_ray.cli.door import door_of
from dspex_ray.cli.inputs import json_object, pairs
from dspex_ray.cli.output import Json, as_text, emit, fields, plain, say, usd
from dspex_ray.client import Dspex
from dspex_ray.core.errors import Unavailable
from dspex_ray.serving.model import Outputs, Prediction


def run(
    context: typer.Context,
    program: Annotated[str, typer.Argument(help="name, name@version or name@label.")],
    given: Annotated[
        list[str] | None, typer.Option("--input", "-i", help="name=value; repeatable.")
    ] = None,
    json_input: Annotated[str | None, typer.Option(help="All inputs as one JSON object.")] = None,
    with_context: Annotated[
        str | None, typer.Option("--context", help="What routing conditions look at, as JSON.")
    ] = None,
    session: Annotated[
        str | None, typer.Option(help="Equal sessions get the same version of a split.")
    ] = None,
    timeout_s: Annotated[float | None, typer.Option(help="The deadline, in seconds.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="name=value; repeatable.")] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Print text as it comes.")] = False,
    as_json: Json = False,
) -> None:
    """Run a program and print its outputs."""
    if given and json_input is not None:
        raise typer.BadParameter("give --input or --json-input, not both")
    inputs: dict[str, Any] = dict(pairs(given or (), "--input"))
    if json_input is not None:
        inputs = json_object(json_input, "--json-input")
    asked: dict[str, Any] = {
        "context": json_object(with_context, "--context") if with_context is not None else None,
        "session": session,
        "timeout_s": timeout_s,
        "tags": pairs(tag or (), "--tag"),
    }
    with door_of(context).client() as client:
        if stream:
            answer = _stream(client, program, inputs, asked, quiet=as_json)
        else:
            answer = client.programs.predict(program, inputs, **asked)
    emit(as_json, _prediction(answer), lambda: _draw(answer))
    if not as_json:
        _remark(answer)


def _stream(
    client: Dspex, program: str, inputs: dict[str, Any], asked: dict[str, Any], *, quiet: bool
) -> Prediction:
    """Shows the deltas of each field as they come; the outputs that count come last."""
    shown: tuple[str | None, str] | None = None
    for event in client.programs.stream(program, inputs, **asked):
        if isinstance(event, Outputs):
            if shown is not None:
                print("\n")
            return event
        if quiet:
            continue
        if shown != (event.predictor, event.field):
            shown = (event.predictor, event.field)
            print(f"\n{event.predictor}.{event.field}: ", end="")
        print(plain(event.text), end="", flush=True)
    raise Unavailable("the stream was cut: it ended without its outputs")


def _prediction(answer: Prediction) -> dict[str, Any]:
    """The same document for both ways."""
    return answer.model_dump(mode="json", exclude={"type"})


def _draw(answer: Prediction) -> Any:
    return fields((name, as_text(value)) for name, value in answer.outputs.items())


def _remark(answer: Prediction) -> None:
    usage = answer.usage
    tokens = f"{usage.prompt_tokens} + {usage.completion_tokens} tokens"
    fallback = ", after a fallback" if usage.fallback else ""
    say(
        f"{answer.program}@{answer.version} by {answer.model or 'no model'}{fallback}: {tokens}, "
        f"{usd(usage.cost_usd)}; dspex executions show {answer.execution_id}"
    )
