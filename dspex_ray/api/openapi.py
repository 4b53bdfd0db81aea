"""What OpenAPI says of bodies that are not read by FastAPI."""

from __future__ import annotations

from typing import Any

CHAT_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["model", "messages"],
                    "properties": {
                        "model": {
                            "type": "string",
                            "description": "a model, route/<name>, or program/<name>[@...]",
                        },
                        "messages": {"type": "array", "items": {"type": "object"}, "minItems": 1},
                        "n": {"type": "integer", "minimum": 1, "maximum": 16},
                        "stream": {"type": "boolean"},
                        "stream_options": {"type": "object"},
                        "tools": {"type": "array", "items": {"type": "object"}},
                        "tool_choice": {},
                        "temperature": {"type": "number"},
                        "max_tokens": {"type": "integer"},
                        "max_completion_tokens": {"type": "integer"},
                        "response_format": {"type": "object"},
                    },
                    "additionalProperties": True,
                    "description": "As OpenAI's chat completions; what cannot be carried to the "
                    "provider is refused by name, never dropped.",
                }
            }
        },
    }
}
