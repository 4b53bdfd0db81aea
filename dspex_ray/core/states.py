"""A state machine as a value: which event moves which state where. Pure; `db.move` applies it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dspex_ray.core.errors import TransitionRefused


@dataclass(frozen=True)
class Machine:
    """`moves` maps (state, event) to the next state. States are those that appear in it."""

    name: str
    initial: str
    moves: Mapping[tuple[str, str], str]
    states: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        seen = {self.initial, *self.moves.values(), *(state for state, _ in self.moves)}
        object.__setattr__(self, "states", frozenset(seen))
        unreachable = seen - self.reachable(self.initial)
        if unreachable:
            raise ValueError(f"{self.name}: no path from {self.initial!r} to {sorted(unreachable)}")

    def next(self, state: str, event: str) -> str:
        """The state after `event`; raises TransitionRefused naming what is allowed."""
        target = self.moves.get((state, event))
        if target is None:
            allowed = ", ".join(sorted(self.allowed(state))) or "none: it is final"
            raise TransitionRefused(
                f"{self.name} is {state!r}: cannot {event!r} (allowed: {allowed})",
                state=state,
                event=event,
                allowed=sorted(self.allowed(state)),
            )
        return target

    def allowed(self, state: str) -> frozenset[str]:
        """Events that have a move from `state`; empty when it is final."""
        return frozenset(event for source, event in self.moves if source == state)

    def reachable(self, state: str) -> frozenset[str]:
        """States that some sequence of events reaches from `state`, itself included."""
        found, frontier = {state}, [state]
        while frontier:
            here = frontier.pop()
            for (source, _), target in self.moves.items():
                if source == here and target not in found:
                    found.add(target)
                    frontier.append(target)
        return frozenset(found)

    def mermaid(self) -> str:
        """A mermaid stateDiagram-v2 of the machine, for the docs."""
        lines = ["stateDiagram-v2", f"    [*] --> {self.initial}"]
        lines += [f"    {s} --> {t}: {event}" for (s, event), t in self.moves.items()]
        return "\n".join(lines)
