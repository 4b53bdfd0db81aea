"""DSPy's adapters by name, our minimal one, and how a streamed answer divides into fields.

All that depends on the shape of an adapter's prompts and answers stands here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import dspy
from dspy.adapters.utils import format_field_value, serialize_for_json
from pydantic import TypeAdapter
from pydantic_core import from_json

from dspex_ray.programs.model import AdapterName


@lru_cache(maxsize=len(AdapterName))
def adapter_for(name: AdapterName) -> Any:
    """The adapter, shared: DSPy's adapters keep no state between calls."""
    match name:
        case AdapterName.CHAT:
            # Its fallback would make a second call that nobody routed, counted or paid for.
            return dspy.ChatAdapter(use_json_adapter_fallback=False)
        case AdapterName.JSON:
            return dspy.JSONAdapter()
        case AdapterName.MINIMAL:
            return MinimalAdapter()


class MinimalAdapter(dspy.JSONAdapter):  # type: ignore[misc]
    """For models of some hundred million parameters, which DSPy's own prompts overwhelm.

    The prompt is the instructions, one line about the answer, demos as turns, and the inputs as
    `field: value`. The answer is JSON, held to its schema where the model's server can do so.
    """

    def __init__(self) -> None:
        super().__init__(use_native_function_calling=False)

    def format(
        self, signature: Any, demos: Iterable[Mapping[str, Any]], inputs: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """Demos without an output, or without an input, would teach nothing and are left out."""
        messages = [{"role": "system", "content": _task(signature)}]
        for demo in demos:
            question = _given(signature, demo)
            answer = {name: demo[name] for name in signature.output_fields if name in demo}
            if question and answer:
                content = json.dumps(serialize_for_json(answer), ensure_ascii=False)
                messages.append({"role": "user", "content": question})
                messages.append({"role": "assistant", "content": content})
        messages.append({"role": "user", "content": _given(signature, inputs)})
        return messages

    def _prepare_response_format(self, lm: Any, lm_kwargs: dict[str, Any], signature: Any) -> None:
        if "response_format" not in lm.supported_params:
            return
        if not lm.supports_response_schema:
            lm_kwargs["response_format"] = {"type": "json_object"}
            return
        schema = {"name": "outputs", "schema": output_schema(signature), "strict": True}
        lm_kwargs["response_format"] = {"type": "json_schema", "json_schema": schema}


@lru_cache(maxsize=256)
def output_schema(signature: Any) -> dict[str, Any]:
    """The JSON schema of an object with all outputs of a DSPy signature and nothing else.

    Shared between calls: do not change it.
    """
    properties = {
        name: TypeAdapter(field.rebuild_annotation()).json_schema()
        for name, field in signature.output_fields.items()
    }
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _task(signature: Any) -> str:
    return f"{signature.instructions}\nAnswer in JSON: {_answer(signature)}."


@lru_cache(maxsize=256)
def _answer(signature: Any) -> str:
    return "; ".join(_expected(name, field) for name, field in signature.output_fields.items())


def _expected(name: str, field: Any) -> str:
    description = field.json_schema_extra["desc"]
    about = [description] if description != f"${{{name}}}" else []
    schema = TypeAdapter(field.annotation).json_schema()
    if "enum" in schema:
        about.append("one of " + ", ".join(str(value) for value in schema["enum"]))
    return f"{name} ({'; '.join(about)})" if about else name


def _given(signature: Any, values: Mapping[str, Any]) -> str:
    return "\n".join(
        f"{name}: {format_field_value(field, values[name])}"
        for name, field in signature.input_fields.items()
        if values.get(name) is not None
    )


class Delta(NamedTuple):
    """A further piece of one field's text. Joined, the pieces of a text field are its value."""

    field: str
    text: str


class FieldReader(Protocol):
    """Reads one answer as it is streamed."""

    def feed(self, text: str) -> list[Delta]: ...

    def finish(self) -> list[Delta]:
        """What was held back because it might have been markup."""
        ...


def field_reader(name: AdapterName, outputs: Collection[str]) -> FieldReader:
    """A reader for one answer of a predictor with these outputs."""
    return ChatReader(outputs) if name is AdapterName.CHAT else JsonReader(outputs)


class ChatReader:
    """Fields between `[[ ## name ## ]]` lines, stripped, as ChatAdapter reads them."""

    _MARKER = re.compile(r"^[^\S\n]*\[\[ ## (\w+) ## \]\]", re.MULTILINE)
    _BEGIN = "[[ ## "

    def __init__(self, outputs: Collection[str]) -> None:
        self._outputs = outputs
        self._seen: set[str] = set()
        self._field: str | None = None
        self._text = ""  # since the last marker
        self._sent = 0

    def feed(self, text: str) -> list[Delta]:
        self._text += text
        found = []
        while marker := self._MARKER.search(self._text):
            found += self._news(self._text[: marker.start()])
            name = marker[1]
            wanted = name in self._outputs and name not in self._seen
            self._seen.add(name)
            self._field, self._sent = name if wanted else None, 0
            self._text = self._text[marker.end() :]
        return found + self._news(self._settled())

    def finish(self) -> list[Delta]:
        return self._news(self._text)

    def _settled(self) -> str:
        """The text less a last line that may yet become a marker."""
        start = self._text.rfind("\n") + 1
        line = self._text[start:].lstrip()
        marker = self._BEGIN.startswith(line) or line.startswith(self._BEGIN)
        return self._text[:start] if marker else self._text

    def _news(self, text: str) -> list[Delta]:
        text = text.strip()
        news = text[self._sent :]
        if self._field is None or not news:
            return []
        self._sent = len(text)
        return [Delta(self._field, news)]


class JsonReader:
    """Fields of one JSON object: texts as they grow, everything else once it is whole."""

    def __init__(self, outputs: Collection[str]) -> None:
        self._outputs = outputs
        self._text = ""
        self._sent: dict[str, str] = {}

    def feed(self, text: str) -> list[Delta]:
        self._text += text
        return self._news(whole=False)

    def finish(self) -> list[Delta]:
        return self._news(whole=True)

    def _news(self, *, whole: bool) -> list[Delta]:
        try:
            start = self._text.index("{")
            fields = from_json(
                self._text[start:].rstrip("` \n").encode(),
                allow_partial=False if whole else "trailing-strings",
            )
        except ValueError:  # not begun, or not JSON: the adapter will say so
            return []
        last = next(reversed(fields), None)
        found = []
        for name in fields:
            value = fields[name]
            if name not in self._outputs or (
                not isinstance(value, str) and name == last and not whole
            ):
                continue
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            sent = self._sent.get(name, "")
            if len(text) > len(sent) and text.startswith(sent):
                self._sent[name] = text
                found.append(Delta(name, text[len(sent) :]))
        return found
