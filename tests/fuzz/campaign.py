"""Runs a target with very many inputs and counts what came of them."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz.documented import documented_reasons
from triptych.domain.errors import TriptychError

OK = "OK"
REFUSED_START = "exit 2"
"""A process or a command that cannot do as it was told, and says so."""


@dataclass(frozen=True)
class Target:
    """One door that inputs come through.

    Attributes:
        name: for people.
        inputs: what comes.
        attempt: lets one input in; returns OK, or "CODE REASON" of its refusal. Whatever else it
            raises is a bug.
        whole: how many inputs a whole run has.
        seconds: what one input may take.
    """

    name: str
    inputs: st.SearchStrategy[Any]
    attempt: Callable[[Any], str]
    whole: int
    seconds: float = 20.0


@dataclass
class Outcome:
    """What came of a target's inputs.

    Attributes:
        counts: inputs by what they came to.
        seconds: of all of them.
        slowest: of one of them.
    """

    target: str
    counts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    slowest: float = 0.0


def refusal(error: TriptychError) -> str:
    """How an error that was raised on purpose counts; it must be one that is documented."""
    return documented(f"{error.status} {error.reason}")


def documented(outcome: str) -> str:
    """The same, if callers are told of it; a defect (INTERNAL) is not what an input may cause."""
    assert outcome in documented_reasons(), f"{outcome} is in no table of docs/operations.md"
    return outcome


def run(
    target: Target, inputs: int, number: int, watch: Callable[[], None] = lambda: None
) -> Outcome:
    """Lets so many inputs in.

    Args:
        target: where.
        inputs: how many.
        number: of the sequence of inputs: the same gives the same.
        watch: called before each.
    """
    outcome = Outcome(target.name)

    @seed(number)
    @settings(
        max_examples=inputs,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(target.inputs)
    def attempt(given_input: Any) -> None:
        watch()
        began = time.perf_counter()
        came_to = target.attempt(given_input)
        took = time.perf_counter() - began
        assert took <= target.seconds, f"took {took:.1f} s; allowed are {target.seconds:g}"
        outcome.counts[came_to] += 1
        outcome.slowest = max(outcome.slowest, took)

    began = time.perf_counter()
    attempt()
    outcome.seconds = time.perf_counter() - began
    return outcome
