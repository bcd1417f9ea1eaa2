"""What recording the metrics and the trace of one denoising step costs.

python -m benchmarks.metrics_overhead [--steps N]
"""

import argparse
import statistics
import time
from collections.abc import Sequence

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import set_meter_provider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import set_tracer_provider
from prometheus_client import CollectorRegistry

from benchmarks.report import Row, write
from denoiser_service.service.recorder import DenoiseRecorder
from services.domain.stages import DenoiseRequest
from services.observability.tracked import Tracked
from tests.unit.domain.examples import PARAMETERS, TENSOR_REF
from triptych.domain.cache_statistics import BranchDecision
from triptych.domain.events import StepCompleted
from triptych.domain.stage_timing import StageTask

ROUNDS = 20
NOTES = (
    "One call of the denoiser's recorder per step, in one thread, {steps} steps in each of {rounds}"
    " rounds: the median over the rounds of the mean processor time per step, with the fastest and"
    " the slowest round. A step without a cache records one histogram; one of a cached request with"
    " two guidance branches also counts two forwards. Off: no `--metrics-listen`, no"
    " `--otlp-endpoint`. Traced, every step is an event of its request's span, one for {request}"
    " steps; spans go to an exporter that drops them, in batches on a thread whose time counts.",
)
REQUEST_STEPS = 50
BRANCHES = ("cond", "uncond")


class Dropped(SpanExporter):
    """Takes spans and keeps none."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Says that all is well."""
        return SpanExportResult.SUCCESS


def step(*, cached: bool) -> StepCompleted:
    """As the denoiser tells of it."""
    decisions = tuple(BranchDecision(each, reused=True, signal=0.1) for each in BRANCHES)
    return StepCompleted(1, 50, 0.5, 0.1, decisions if cached else ())


def microseconds(event: StepCompleted, steps: int) -> list[float]:
    """For each round, the mean of a step."""
    request = DenoiseRequest("0" * 32, "default", PARAMETERS, TENSOR_REF)
    rounds = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(steps // REQUEST_STEPS):
            with Tracked("denoiser", StageTask.DENOISE) as tracked:
                recorder = DenoiseRecorder(tracked, request, "painter")
                for _ in range(REQUEST_STEPS):
                    recorder.take(event)
        rounds.append((time.process_time() - began) / steps * 1e6)
    return rounds


def rows(recorded: str, steps: int) -> Sequence[Row]:
    """Both kinds of steps."""
    measured = []
    for name, cached in (("without a cache", False), ("with a cache, two branches", True)):
        rounds = microseconds(step(cached=cached), steps)
        measured.append(
            {
                "recorded": recorded,
                "step": name,
                "median µs": statistics.median(rounds),
                "fastest µs": min(rounds),
                "slowest µs": max(rounds),
            }
        )
    return measured


def main() -> None:
    """Measures and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5000)
    steps = parser.parse_args().steps
    off = rows("nothing", steps)
    set_meter_provider(MeterProvider([PrometheusMetricReader(registry=CollectorRegistry())]))
    on = rows("metrics", steps)
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Dropped()))
    set_tracer_provider(provider)
    traced = rows("metrics and traces", steps)
    facts = {"steps": steps, "rounds": ROUNDS, "request": REQUEST_STEPS}
    notes = [each.format(**facts) for each in NOTES]
    title = "Cost of recording metrics and traces"
    print(write("metrics_overhead", title, [*off, *on, *traced], notes))


if __name__ == "__main__":
    main()
