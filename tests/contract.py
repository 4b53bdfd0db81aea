"""Every operation of an OpenAPI, asked what its schema allows and what it does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.core.result import Ok


class Said(NamedTuple):
    operation: str  #: "GET /v1/models"
    status: int
    text: str  #: headers and body
    asked: str  #: what to repeat it with


def ask_everything(
    schema: dict[str, Any],
    base_url: str,
    authorizations: Sequence[str],
    *,
    examples: int,
    places: Mapping[str, dict[str, str]],
) -> dict[str, list[Said]]:
    """The answers to `examples` good and as many bad requests of each operation, by what each was
    sent with as its authorization; always the same requests for one schema. Blocks.

    `places` gives the values of a path's parameters, for good requests: names that exist. Making
    requests up takes far longer than sending them, so each is sent with every authorization.
    """
    found: dict[str, list[Said]] = {authorization: [] for authorization in authorizations}
    for result in schemathesis.openapi.from_dict(schema).get_all_operations():
        assert isinstance(result, Ok), result  # else the schema itself is wrong
        operation = result.ok()
        known = {GenerationMode.POSITIVE: places.get(operation.path)}
        for mode in GenerationMode:
            strategy = operation.as_strategy(
                generation_mode=mode, path_parameters=known.get(mode) or None
            )

            @settings(
                max_examples=examples,
                derandomize=True,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=strategy)
            def ask(case: Case[Any]) -> None:
                asked = case.as_curl_command()
                for authorization, answers in found.items():
                    headers = {"authorization": authorization}
                    answer = case.call(base_url=base_url, headers=headers, timeout=60)
                    text = f"{answer.headers}\n{answer.text}"
                    answers.append(Said(case.operation.label, answer.status_code, text, asked))

            with suppress(Unsatisfiable):  # nothing about the operation can be wrong
                ask()
    return found
