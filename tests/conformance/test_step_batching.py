"""Steps of several requests in one forward, against the same requests alone."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from denoiser_service.rank.commands import (
    Finish,
    Finished,
    Prepare,
    Prepared,
    Step,
    StepBatch,
    Stepped,
    SteppedBatch,
)
from denoiser_service.rank.executor import RankExecutor
from denoiser_service.rank.stage import DenoiseStage
from services.domain.stages import DenoiseRequest
from services.model_ports.stages import BatchingDenoiserModel
from tests.conformance.gallery import Gallery
from tests.conformance.references import Reference, guidance
from tests.conformance.split_stages import Split
from triptych.domain.element_type import ElementType
from triptych.domain.generation import GenerationParameters

STEPS = (5, 3, 4)


def test_models_say_whether_their_steps_can_be_shared(
    gallery: Gallery, reference: Reference
) -> None:
    held = gallery.split(reference, ElementType.FLOAT32).denoiser
    said = held.loaded.model.capabilities.supports_step_batching
    assert said == isinstance(held.model, BatchingDenoiserModel)


@pytest.fixture
def split(gallery: Gallery, reference: Reference) -> Split:
    split = gallery.split(reference, ElementType.FLOAT32)
    if not isinstance(split.denoiser.model, BatchingDenoiserModel):
        pytest.skip("takes every step alone")
    return split


def asked(split: Split, reference: Reference) -> list[GenerationParameters]:
    """Requests with seeds, step counts and, where there is any, guidance of their own."""
    limits = split.denoiser.loaded.model.capabilities
    many = []
    for number, steps in enumerate(STEPS):
        fields: dict[str, Any] = {**reference.small, "steps": steps, "seed": number}
        fields["prompt"] = ("a red circle", "a blue circle", "two green stars and a heart")[number]
        if limits.supports_guidance:
            fields["guidance_scale"] = (3.0, 4.5, 6.0)[number]
        if limits.guidance_field != "guidance_scale":
            fields |= guidance(limits, (6.0, 3.0, 4.5)[number])
        many.append(split.parameters(**fields))
    return many


class Rank:
    """An executor as a rank has it, and how many forwards its transformers made."""

    def __init__(self, split: Split) -> None:
        self.stage = DenoiseStage(split.denoiser, split.store)
        self.executor = RankExecutor(self.stage)
        self.forwards = 0
        self._store = split.store
        self._components = list(split.denoiser.model.components.values())

    @contextmanager
    def counting(self) -> Iterator[None]:
        def count(*_: object) -> None:
            self.forwards += 1

        handles = [each.register_forward_pre_hook(count) for each in self._components]
        try:
            yield
        finally:
            for each in handles:
                each.remove()

    def prepare(self, request: DenoiseRequest) -> Prepared:
        reply = self.executor.execute(
            Prepare(
                request_id=request.request_id,
                tenant=request.tenant,
                parameters=request.parameters,
                conditioning=request.conditioning,
                image_latents=request.image_latents,
                shares_steps=True,
            )
        )
        assert isinstance(reply, Prepared)
        return reply

    def together(self, requests: Sequence[DenoiseRequest]) -> list[list[str | None]]:
        """Takes all steps of all requests, together as long as there is more than one left."""
        keys = {each.request_id: [self.prepare(each).batch_key] for each in requests}
        while ids := [name for name, known in keys.items() if known[-1] is not None]:
            reply = self.executor.execute(StepBatch(request_ids=tuple(ids)))
            assert isinstance(reply, SteppedBatch)
            for name, stepped in zip(ids, reply.replies, strict=True):
                assert isinstance(stepped, Stepped), stepped
                keys[name].append(stepped.batch_key)
        return list(keys.values())

    def latents(self, request: DenoiseRequest) -> torch.Tensor:
        """What a request ends with."""
        reply = self.executor.execute(Finish(request_id=request.request_id))
        assert isinstance(reply, Finished)
        assert reply.latents is not None
        with self._store.get(reply.latents, tenant=request.tenant, request_id=reply.request_id) as (
            tensors
        ):
            return tensors["latents"].clone()


def alone(split: Split, request: DenoiseRequest) -> tuple[torch.Tensor, int]:
    """The latents of a request, and its forwards."""
    rank = Rank(split)
    with rank.counting():
        for _ in range(rank.prepare(request).total_steps):
            assert isinstance(rank.executor.execute(Step(request_id=request.request_id)), Stepped)
    return rank.latents(request), rank.forwards


def test_requests_that_step_together_make_fewer_forwards_and_differ_by_rounding_alone(
    split: Split, reference: Reference
) -> None:
    rank, requests = Rank(split), [split.encoded(each) for each in asked(split, reference)]
    with rank.counting():
        rank.together(requests)
    longest = 0
    for request in requests:
        together = rank.latents(request)
        by_itself, forwards = alone(split, request)
        longest = max(longest, forwards)
        difference = (together - by_itself).abs().max()
        # Measured are up to 5.7e-6 of the largest latent, and 0 for Z-Image, after 3 to 5 steps:
        # kernels add up in another order when there are more rows.
        assert difference <= 2e-5 * by_itself.abs().max()
        split.store.release_request(request.tenant, request.request_id)
    # The two experts of Wan are at work at different steps of requests of different lengths.
    experts = len(split.denoiser.model.components)
    assert longest <= rank.forwards <= longest * experts
