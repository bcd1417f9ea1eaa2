"""What is measured of a request in the denoising loop."""

import time
from collections.abc import Sequence

from services.domain.stages import Denoised, DenoiseEvent, DenoiseRequest, DenoiseStarted
from services.observability import tracing
from services.observability.metrics import FORWARDS, REUSED_RATIO, STEP_SECONDS
from services.observability.tracked import Tracked
from triptych.domain.cache_statistics import BranchDecision
from triptych.domain.events import StepCompleted


class DenoiseRecorder:
    """Reads a request's events as they pass.

    Args:
        tracked: the request in this process.
        request: what was asked.
        model: that denoises it.
    """

    def __init__(self, tracked: Tracked, request: DenoiseRequest, model: str) -> None:
        self._tracked = tracked
        self._request = request
        self._arrived = time.monotonic()
        self._labels = {"model": model, "method": request.parameters.cache.kind}

    def take(self, event: DenoiseEvent) -> None:
        """Records one."""
        if isinstance(event, DenoiseStarted):
            tracing.past("queue", time.monotonic() - self._arrived, self._tracked.span)
        elif isinstance(event, StepCompleted):
            self._step(event)
        elif isinstance(event, Denoised):
            self._denoised(event)

    def _step(self, step: StepCompleted) -> None:
        decision = _decision(step.decisions)
        STEP_SECONDS.record(step.seconds, **self._labels, decision=decision)
        self._tracked.span.add_event(
            "step",
            {
                "triptych.step": step.step,
                "triptych.step.seconds": step.seconds,
                "triptych.step.decision": decision,
            },
        )
        for forward in step.decisions:
            done = "reused" if forward.reused else "computed"
            FORWARDS.add(1, **self._labels, branch=forward.branch, decision=done)

    def _denoised(self, denoised: Denoised) -> None:
        request = self._request
        self._tracked.time(denoised.timing)
        self._tracked.read(
            sum(ref.size_bytes for ref in (request.conditioning, *request.image_latents))
        )
        self._tracked.wrote(denoised.latents.size_bytes)
        if denoised.cache_statistics is not None:
            share = denoised.cache_statistics.reused_share
            REUSED_RATIO.record(share, **self._labels)
            self._tracked.span.set_attribute("triptych.cache.reused_share", share)
        self._tracked.succeed()


def _decision(decisions: Sequence[BranchDecision]) -> str:
    reused = {decision.reused for decision in decisions}
    if len(reused) > 1:
        return "mixed"
    return "reused" if True in reused else "computed"
