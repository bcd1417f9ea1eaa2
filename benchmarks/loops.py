"""The denoising loops that are compared: ours as a rank runs it, and the published pipelines."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.random_model import RandomModel
from benchmarks.stock import Pipeline
from benchmarks.turns import Pause
from denoiser_service.rank.stage import DenoiseStage
from services.domain.stages import DenoiseRequest
from services.tensor_store.tensor_store import TensorStore
from triptych.domain.generation import GenerationParameters

TENANT = "benchmark"


@dataclass(frozen=True)
class Looped:
    """What a loop came to.

    Attributes:
        latents: [1, C, H, W], or [1, C, 1, H, W].
        reused: for each step, whether all of its forwards skipped blocks; empty where unknown.
    """

    latents: torch.Tensor
    reused: tuple[bool, ...] = ()


def our_loop(
    model: RandomModel, stage: DenoiseStage, store: TensorStore, parameters: GenerationParameters
) -> Callable[[Pause], Looped]:
    """A request at a stage that may hold others."""

    def loop(pause: Pause) -> Looped:
        request_id = uuid.uuid4().hex
        identity = {"tenant": TENANT, "request_id": request_id}
        stored = store.put(model.conditioning(parameters), **identity)
        stage.prepare(DenoiseRequest(request_id, TENANT, parameters, stored))
        reused = []
        for _ in range(parameters.steps):
            decisions = stage.step(request_id).decisions
            pause()
            reused.append(bool(decisions) and all(each.reused for each in decisions))
        finished = stage.finish(request_id)
        with store.get(finished.latents, **identity) as tensors:
            latents = tensors["latents"].clone()
        store.release_request(TENANT, request_id)
        return Looped(latents, tuple(reused))

    return loop


def stock_loop(
    model: RandomModel, pipeline: Pipeline, parameters: GenerationParameters
) -> Callable[[Pause], Looped]:
    """The same request to a published pipeline."""

    def loop(pause: Pause) -> Looped:
        def after_step(*_: object) -> dict[str, Any]:
            pause()
            return {}

        (packed,) = pipeline(
            **model.arguments(parameters), callback_on_step_end=after_step, return_dict=False
        )
        unpacked = pipeline._unpack_latents(  # noqa: SLF001 — as the pipeline itself does
            packed, parameters.height, parameters.width, pipeline.vae_scale_factor
        )
        return Looped(unpacked.cpu())

    return loop
