import asyncio
from collections.abc import AsyncGenerator, Callable

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.observability import tracing
from services.observability.tracked import Tracked
from tests.unit.domain.examples import timing
from triptych.domain.conditioning_reuse import ConditioningPart, ConditioningReuse
from triptych.domain.errors import Cancelled, QueueFull, RemoteFailure, StageUnavailable
from triptych.domain.model import Stage
from triptych.domain.stage_timing import StageTask

Recorded = Callable[[str], dict[frozenset[tuple[str, str]], float]]
ENCODER = {"stage": "encoder", "task": "encode_prompt", "model": "painter"}


def labels(**values: str) -> frozenset[tuple[str, str]]:
    return frozenset(values.items())


def test_a_request_that_succeeds_is_counted_and_timed(recorded: Recorded) -> None:
    with Tracked(Stage.ENCODER, StageTask.ENCODE_PROMPT) as tracked:
        tracked.begin("painter")
        tracked.time(timing(Stage.ENCODER))
        tracked.wrote(4096)
        tracked.read(100)
    here = labels(**ENCODER)
    assert recorded("triptych.requests.started") == {here: 1}
    ended = labels(**ENCODER, outcome="succeeded", reason="OK")
    assert recorded("triptych.requests.finished") == {ended: 1}
    for name in ("request", "queue", "run", "transfer"):
        assert recorded(f"triptych.{name}.duration") == {here: 1}
    assert recorded("triptych.transferred") == {
        labels(**ENCODER, direction="written"): 4096,
        labels(**ENCODER, direction="read"): 100,
    }


@pytest.mark.parametrize(
    ("error", "outcome", "reason"),
    [
        (QueueFull("encoder", 3, 1.0), "failed", "QUEUE_FULL"),
        (StageUnavailable("is down"), "failed", "STAGE_UNAVAILABLE"),
        (Cancelled("by the client"), "cancelled", "CANCELLED"),
        (asyncio.CancelledError(), "cancelled", "CANCELLED"),
        (ZeroDivisionError(), "failed", "INTERNAL"),
        (RemoteFailure("x", status="UNAVAILABLE", reason="RANKS_LOST"), "failed", "RANKS_LOST"),
        # Whatever another process says, labels take no values beyond those known here.
        (RemoteFailure("x", status="INTERNAL", reason="a red circle"), "failed", "OTHER"),
    ],
)
def test_a_request_that_fails_is_counted_under_its_reason(
    error: BaseException, outcome: str, reason: str, recorded: Recorded
) -> None:
    def fail() -> None:
        with Tracked(Stage.ENCODER, StageTask.ENCODE_PROMPT) as tracked:
            tracked.begin("painter")
            raise error

    with pytest.raises(type(error)):
        fail()
    ended = labels(**ENCODER, outcome=outcome, reason=reason)
    assert recorded("triptych.requests.finished") == {ended: 1}
    assert recorded("triptych.request.duration") == {}


def test_a_request_refused_before_it_was_taken_in_has_no_model(recorded: Recorded) -> None:
    with pytest.raises(StageUnavailable), Tracked("gateway", "generate"):
        raise StageUnavailable("none is there")
    assert recorded("triptych.requests.started") == {}
    ((ended, count),) = recorded("triptych.requests.finished").items()
    assert (dict(ended)["model"], count) == ("unknown", 1)


async def test_a_caller_who_leaves_early_cancels_and_one_who_leaves_at_the_end_does_not(
    recorded: Recorded,
) -> None:
    async def work() -> AsyncGenerator[int, None]:
        with Tracked(Stage.VAE, StageTask.DECODE) as tracked:
            tracked.begin("painter")
            yield 1
            tracked.succeed()
            yield 2

    for turns in (1, 2):
        working = work()
        for _ in range(turns):
            await anext(working)
        await working.aclose()
    outcomes = {
        dict(each)["outcome"]: n for each, n in recorded("triptych.requests.finished").items()
    }
    assert outcomes == {"cancelled": 1, "succeeded": 1}


def test_what_was_looked_up_is_counted_and_stands_in_the_trace(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    spans, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("test"))
    with Tracked(Stage.ENCODER, StageTask.ENCODE_PROMPT) as tracked:
        tracked.begin("painter")
        tracked.reused(
            (
                ConditioningReuse(ConditioningPart.PROMPT, 1, 1),
                ConditioningReuse(ConditioningPart.IMAGE, 3, 2),
            )
        )
    here = {"stage": "encoder", "model": "painter"}
    assert recorded("triptych.conditioning.lookups") == {
        labels(**here, part="prompt", outcome="hit"): 1,
        labels(**here, part="image", outcome="hit"): 2,
        labels(**here, part="image", outcome="miss"): 1,
    }
    (span,) = spans.get_finished_spans()
    assert span.attributes is not None
    told = {key: span.attributes[key] for key in span.attributes if "conditioning" in key}
    assert told == {
        "triptych.conditioning.prompt.looked_up": 1,
        "triptych.conditioning.prompt.reused": 1,
        "triptych.conditioning.image.looked_up": 3,
        "triptych.conditioning.image.reused": 2,
    }
