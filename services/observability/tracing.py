"""One request as a tree of spans, across processes.

The gateway's span is the root, or continues the trace of the client's `traceparent`; every stage's
span is a child of it, and what a stage does are children of that. Spans go through OpenTelemetry
and cost next to nothing while nobody collects them (services.observability.exposition). They carry
what the request is like and never what it says: prompts and pictures stay out, and so do error
messages, which may quote them.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from triptych.domain.errors import TriptychError

Attributes = Mapping[str, str | int | float | bool]

TRACEPARENT: Final = "traceparent"
"""Of W3C's Trace Context: what a parent is called in metadata and commands."""
TRACEPARENT_LENGTH: Final = 55
_HEADERS: Final = (TRACEPARENT, "tracestate")
_NANOSECONDS: Final = 1e9

_tracer = trace.get_tracer("triptych")
_wire = TraceContextTextMapPropagator()


def start(name: str, attributes: Attributes, kind: SpanKind = SpanKind.INTERNAL) -> Span:
    """A span below the current one, for the caller to end; it does not become the current one."""
    return _tracer.start_span(name, attributes=dict(attributes), kind=kind)


@contextmanager
def span(
    name: str, attributes: Attributes | None = None, *, parent: str | None = None
) -> Iterator[Span]:
    """The current span until the block is left.

    Args:
        name: what is done inside.
        attributes: what is known of it.
        parent: traceparent of the span above it; the current one by default.
    """
    above = None if parent is None else _wire.extract({TRACEPARENT: parent})
    with _tracer.start_as_current_span(
        name,
        above,
        attributes=dict(attributes or {}),
        record_exception=False,
        set_status_on_exception=False,
    ) as begun:
        try:
            yield begun
        except Exception as error:
            # Any failure is the span's as well; it goes on unchanged.
            fail(begun, error)
            raise


@contextmanager
def current(begun: Span) -> Iterator[None]:
    """Makes a span the current one until the block is left; nothing may be yielded inside."""
    with trace.use_span(begun, record_exception=False, set_status_on_exception=False):
        yield


def past(name: str, seconds: float, above: Span | None = None) -> None:
    """A span that ends now and began so long ago, below the current one or another."""
    ended = time.time_ns()
    parent = None if above is None else trace.set_span_in_context(above)
    began = ended - int(seconds * _NANOSECONDS)
    _tracer.start_span(name, parent, start_time=began).end(ended)


def fail(begun: Span, error: BaseException) -> None:
    """Marks a span as failed, by the error's reason alone."""
    reason = error.reason if isinstance(error, TriptychError) else type(error).__name__
    begun.set_attribute("error.type", reason)
    begun.set_status(Status(StatusCode.ERROR, reason))


def attach(begun: Span) -> None:
    """Makes a span the current one for what is left of this task, and for the tasks it starts."""
    context.attach(trace.set_span_in_context(begun))


def attach_remote(metadata: Iterable[tuple[str, str | bytes]]) -> None:
    """Likewise for the span of the caller, if metadata name one; what is malformed is no parent."""
    told = {key: str(value) for key, value in metadata if key in _HEADERS}
    if told:
        context.attach(_wire.extract(told, Context()))


def headers() -> tuple[tuple[str, str], ...]:
    """What tells another process of the current span, as metadata; empty if there is none."""
    told: dict[str, str] = {}
    _wire.inject(told)
    return tuple(told.items())


def traceparent(begun: Span) -> str | None:
    """What tells another process of a span; None for one that nobody collects."""
    if not begun.is_recording():
        return None
    told: dict[str, str] = {}
    _wire.inject(told, trace.set_span_in_context(begun))
    return told.get(TRACEPARENT)


def trace_ids() -> dict[str, str]:
    """Of the current span, as logs have them; empty if there is none."""
    found = trace.get_current_span().get_span_context()
    if not found.is_valid:
        return {}
    return {
        "trace_id": trace.format_trace_id(found.trace_id),
        "span_id": trace.format_span_id(found.span_id),
    }
