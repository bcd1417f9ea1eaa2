"""What recording the metrics of one denoising step costs.

python -m benchmarks.metrics_overhead [--steps N]
"""

import argparse
import statistics
import time
from collections.abc import Sequence

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import set_meter_provider
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry

from benchmarks.report import Row, write
from denoiser_service.recorder import DenoiseRecorder
from services.domain.stages import BranchDecision, DenoiseRequest, StageTask, StepCompleted
from services.observability.tracked import Tracked
from tests.unit.domain.examples import PARAMETERS, TENSOR_REF

ROUNDS = 20
NOTES = (
    "One call of the denoiser's recorder per step, in one thread, {steps} steps in each of {rounds}"
    " rounds: the median over the rounds of the mean processor time per step, with the fastest and"
    " the slowest round. A step without a cache records one histogram; one of a cached request with"
    " two guidance branches also counts two forwards. Off: no `--metrics-listen`.",
)
BRANCHES = ("cond", "uncond")


def step(*, cached: bool) -> StepCompleted:
    """As the denoiser tells of it."""
    decisions = tuple(BranchDecision(each, reused=True, signal=0.1) for each in BRANCHES)
    return StepCompleted(1, 50, 0.5, 0.1, decisions if cached else ())


def microseconds(event: StepCompleted, steps: int) -> list[float]:
    """For each round, the mean of a step."""
    request = DenoiseRequest("0" * 32, "default", PARAMETERS, TENSOR_REF)
    recorder = DenoiseRecorder(Tracked("denoiser", StageTask.DENOISE), request, "painter")
    rounds = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(steps):
            recorder.take(event)
        rounds.append((time.process_time() - began) / steps * 1e6)
    return rounds


def rows(metrics: str, steps: int) -> Sequence[Row]:
    """Both kinds of steps."""
    measured = []
    for name, cached in (("without a cache", False), ("with a cache, two branches", True)):
        rounds = microseconds(step(cached=cached), steps)
        measured.append(
            {
                "metrics": metrics,
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
    off = rows("off", steps)
    set_meter_provider(MeterProvider([PrometheusMetricReader(registry=CollectorRegistry())]))
    on = rows("on", steps)
    notes = [each.format(steps=steps, rounds=ROUNDS) for each in NOTES]
    print(write("metrics_overhead", "Cost of recording metrics", [*off, *on], notes))


if __name__ == "__main__":
    main()
