"""A span for each attempt of an LM call, as the GenAI semantic conventions name its facts."""

from __future__ import annotations

from dspex_ray.models.model import Model
from dspex_ray.routing.attempt import CallResult
from dspex_ray.routing.model import Attempt, LmCall
from dspex_ray.routing.rules import Selection
from dspex_ray.telemetry import spans


def trace_attempts(call: LmCall, result: CallResult, selection: Selection | None) -> None:
    """Those that were made, of a call that has just ended; nothing when it is not traced."""
    if selection is None or spans.here() is None:
        return
    models = {c.model.id: c.model for c in (selection.choice, *selection.chain)}
    for attempt in result.attempts:
        if attempt.made:
            model = models[attempt.model_id]
            answered = attempt.outcome == "ok"
            response_model = getattr(result.response, "model", None) if answered else None
            spans.past(
                f"chat {model.model_name}",
                attempt.started_at,
                attempt.latency_ms,
                _attributes(call, attempt, model, response_model),
                error=None if answered else str(attempt.error_class or attempt.outcome),
            )


def _attributes(
    call: LmCall, attempt: Attempt, model: Model, response_model: str | None
) -> spans.Attributes:
    first_ms = attempt.first_token_ms
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": model.provider.value,
        "gen_ai.request.model": model.model_name,
        "gen_ai.request.stream": call.stream,
        "gen_ai.response.model": response_model,
        "gen_ai.response.time_to_first_chunk": None if first_ms is None else first_ms / 1000,
        "gen_ai.usage.input_tokens": attempt.prompt_tokens,
        "gen_ai.usage.output_tokens": attempt.completion_tokens,
        "http.response.status_code": attempt.provider_status,
        "dspex.model": model.name,
        "dspex.predictor": call.predictor,
        "dspex.strategy": None if call.strategy is None else call.strategy.value,
        "dspex.attempt.number": attempt.number,
        "dspex.attempt.outcome": attempt.outcome,
        "dspex.cost_usd": None if attempt.cost_usd is None else float(attempt.cost_usd),
    }
