"""Counts, times and traces a request on its way through one process."""

import asyncio
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Final, Self

from opentelemetry.trace import SpanKind

from services.observability import metrics, tracing
from triptych.domain.conditioning_reuse import ConditioningReuse
from triptych.domain.errors import Cancelled, Superseded, TriptychError
from triptych.domain.stage_timing import StageTask, StageTiming

GATEWAY: Final = "gateway"
GENERATE: Final = "generate"
SUBMIT: Final = "submit_job"
JOB: Final = "job"
"""What is done for a job that no stream is bound to."""
UNKNOWN: Final = "unknown"
"""The model of a request that was refused before it was known to name a served one."""
_OTHER: Final = "OTHER"
_SUCCEEDED: Final = ("succeeded", "OK")
_CANCELLED: Final = ("cancelled", Cancelled.reason)


class Tracked:
    """Wraps the work for one request; whatever it ends with is counted once.

    Args:
        stage: who works, for example "encoder"; a gateway is one here.
        task: what it does.

    Attributes:
        span: of this work; not the current one by itself.
    """

    def __init__(self, stage: str, task: StageTask | str) -> None:
        self._stage = str(stage)
        self._task = str(task)
        self._model = UNKNOWN
        self._ended: tuple[str, str] | None = None

    def __enter__(self) -> Self:
        self._began = time.perf_counter()
        self.span = tracing.start(self._task, {"triptych.stage": self._stage}, SpanKind.SERVER)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        outcome, reason = self._ended or _ending(error)
        self.span.set_attribute("triptych.outcome", outcome)
        if outcome == "failed" and error is not None:
            tracing.fail(self.span, error)
        self.span.end()
        metrics.REQUESTS_FINISHED.add(1, **self._labels, outcome=outcome, reason=reason)
        if self._ended or error is None:
            seconds = time.perf_counter() - self._began
            metrics.REQUEST_SECONDS.record(seconds, **self._labels)

    @property
    def _labels(self) -> dict[str, str]:
        return {"stage": self._stage, "task": self._task, "model": self._model}

    def begin(self, model: str) -> None:
        """The request was taken in.

        Args:
            model: one that is served.
        """
        self._model = model
        self.span.set_attribute("gen_ai.request.model", model)
        metrics.REQUESTS_STARTED.add(1, **self._labels)

    def time(self, timing: StageTiming) -> None:
        """Where the time of the stage's work went."""
        labels = self._labels
        metrics.QUEUE_SECONDS.record(timing.queue_seconds, **labels)
        metrics.RUN_SECONDS.record(timing.run_seconds, **labels)
        metrics.TRANSFER_SECONDS.record(timing.transfer_seconds, **labels)

    def wrote(self, size_bytes: int) -> None:
        """Tensors that went into the store."""
        metrics.TRANSFERRED_BYTES.add(size_bytes, **self._labels, direction="written")

    def read(self, size_bytes: int) -> None:
        """Tensors that came from the store."""
        metrics.TRANSFERRED_BYTES.add(size_bytes, **self._labels, direction="read")

    def reused(self, reuse: Iterable[ConditioningReuse]) -> None:
        """What was looked up in a conditioning cache; nothing without one."""
        for each in reuse:
            labels = {"stage": self._stage, "model": self._model, "part": str(each.part)}
            # Also where it is none, so that a share of both can be taken from the first on.
            metrics.CONDITIONING_LOOKUPS.add(each.reused, **labels, outcome="hit")
            metrics.CONDITIONING_LOOKUPS.add(each.looked_up - each.reused, **labels, outcome="miss")
            self.span.set_attribute(f"triptych.conditioning.{each.part}.looked_up", each.looked_up)
            self.span.set_attribute(f"triptych.conditioning.{each.part}.reused", each.reused)

    def succeed(self) -> None:
        """All is done; a caller who leaves before the last word changes nothing."""
        self._ended = _SUCCEEDED


def _ending(error: BaseException | None) -> tuple[str, str]:
    """Outcome and reason; reasons are ours alone, whatever another process may have called it."""
    match error:
        case None:
            return _SUCCEEDED
        case GeneratorExit() | asyncio.CancelledError():
            return _CANCELLED
        case TriptychError(reason=Cancelled.reason):
            return _CANCELLED
        case TriptychError(reason=Superseded.reason):
            # Another attempt's outcome is the request's.
            return "cancelled", Superseded.reason
        case TriptychError():
            return "failed", error.reason if error.reason in _REASONS else _OTHER
        case _:
            return "failed", TriptychError.reason


def _all_reasons(kind: type[TriptychError]) -> set[str]:
    return {kind.reason}.union(*map(_all_reasons, kind.__subclasses__()))


_REASONS: Final = frozenset(_all_reasons(TriptychError))
