"""A job's attempts at real stages: a later one takes over, and finds all that it reads."""

import secrets
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from services.domain.stages import (
    Denoised,
    DenoiseEvent,
    DenoiseRequest,
    Encoded,
    EncodeRequest,
)
from services.rpc.stage_clients import RemoteDenoiser, RemoteEncoder
from tests.system.running_cluster import RunningCluster, until
from triptych.domain.call_seal import CallSeal
from triptych.domain.deadline import Deadline
from triptych.domain.errors import TriptychError
from triptych.domain.events import StepCompleted
from triptych.domain.generation import GenerationRequest, resolve

TENANT = "default"


class Stages:
    """An encoder and a denoiser, asked without a gateway, for one request.

    Attributes:
        request: what to denoise, in a few steps.
    """

    def __init__(self, cluster: RunningCluster) -> None:
        seal = CallSeal((cluster.sockets / "secret").read_text())
        self.encoder = RemoteEncoder(f"unix:{cluster.sockets}/encoder.sock", seal=seal)
        self.denoiser = RemoteDenoiser(f"unix:{cluster.sockets}/denoiser.sock", seal=seal)
        # A stage remembers of each request which attempt was its latest.
        self.request_id = secrets.token_hex(16)
        self.request: DenoiseRequest

    async def encode(self, attempt: int) -> None:
        (loaded,) = (await self.encoder.capacity(Deadline.after(10))).models
        asked = GenerationRequest(prompt="a red circle", steps=6, seed=3, preview_every_steps=1)
        parameters = resolve(asked, loaded.model, draw_seed=lambda: 0)
        request = EncodeRequest(self.request_id, TENANT, parameters, attempt=attempt)
        encoded: Encoded = await self.encoder.encode(request, Deadline.after(60))
        self.request = DenoiseRequest(
            self.request_id, TENANT, parameters, encoded.conditioning, attempt=attempt
        )

    def denoising(self, **changes: Any) -> AsyncIterator[DenoiseEvent]:
        steps = changes.pop("steps", 6)
        parameters = replace(self.request.parameters, steps=steps)
        request = replace(self.request, parameters=parameters, **changes)
        return self.denoiser.denoise(request, Deadline.after(60))

    async def denoise(self, **changes: Any) -> Denoised:
        *_, last = [event async for event in self.denoising(**changes)]
        assert isinstance(last, Denoised)
        return last

    async def release(self) -> int:
        return await self.encoder.release(TENANT, self.request_id, Deadline.after(10))

    async def close(self) -> None:
        await self.encoder.close()
        await self.denoiser.close()


@pytest.fixture
async def stages(split_cluster: RunningCluster) -> AsyncIterator[Stages]:
    stages = Stages(split_cluster)
    yield stages
    await stages.release()
    await stages.close()


async def to_a_step(events: AsyncIterator[DenoiseEvent], step: int) -> None:
    async for event in events:
        if isinstance(event, StepCompleted) and event.step >= step:
            return


async def test_a_call_that_was_given_up_leaves_to_the_next_what_it_needs_for_the_same_bits(
    split_cluster: RunningCluster, stages: Stages
) -> None:
    await stages.encode(attempt=1)
    conditioning = split_cluster.stored_tensors()
    for attempt in (1, 0):
        async with aclosing(stages.denoising(steps=150, attempt=attempt)) as events:
            await to_a_step(events, 3)
        # Its previews are gone, and its conditioning is not.
        assert until(lambda: split_cluster.stored_tensors() == conditioning)
    again = await stages.denoise(attempt=1)
    await stages.release()
    await stages.encode(attempt=1)
    undisturbed = await stages.denoise(attempt=1)
    assert again.latents_checksum_xxh3 == undisturbed.latents_checksum_xxh3


async def test_a_later_attempt_ends_an_earlier_one_at_its_next_step_and_outdoes_it(
    split_cluster: RunningCluster, stages: Stages
) -> None:
    await stages.encode(attempt=7)
    async with aclosing(stages.denoising(steps=150)) as events:
        await to_a_step(events, 3)
        # Of the same conditioning, which an earlier attempt has made.
        taken_over = await stages.denoise(attempt=8)
        with pytest.raises(TriptychError, match="attempt: is 7; a later attempt") as ended:
            await to_a_step(events, 150)
    assert (ended.value.status, ended.value.reason) == ("ABORTED", "SUPERSEDED")
    with pytest.raises(TriptychError, match="attempt: is 7; a later attempt"):
        await stages.denoise(attempt=7)
    assert taken_over.latents.request_id == stages.request_id
    await stages.release()
    assert split_cluster.stored_tensors() == []
