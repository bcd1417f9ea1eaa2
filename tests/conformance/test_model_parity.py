"""The three stages against the published pipelines, bit for bit.

Each stage is loaded from a directory that holds its own weight files alone, and what crosses
between stages crosses through a tensor store.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from denoiser_service.rank.stage import DenoiseStage
from services.model_families import find_family
from services.model_files.directory import ModelDirectory
from tests.conformance.gallery import Gallery
from tests.conformance.references import Reference, guidance, references
from tests.conformance.sampling import IN_BOTH_TYPES
from tests.conformance.split_stages import Split
from triptych.domain.element_type import ElementType
from triptych.domain.generation import GenerationParameters
from triptych.domain.model import Stage

REFERENCES = references()


@pytest.fixture(params=REFERENCES, ids=lambda reference: reference.model)
def reference(request: pytest.FixtureRequest) -> Reference:
    assert isinstance(request.param, Reference)
    return request.param


@pytest.fixture(params=IN_BOTH_TYPES)
def dtype(request: pytest.FixtureRequest) -> ElementType:
    return ElementType(request.param)


@pytest.fixture
def split(gallery: Gallery, reference: Reference, dtype: ElementType) -> Split:
    return gallery.split(reference, dtype)


def richest(split: Split, reference: Reference) -> GenerationParameters:
    """A case in which everything crosses that the model knows."""
    cases = [split.parameters(**asked) for asked in reference.cases]
    return max(cases, key=lambda parameters: parameters.guided)


def every_case() -> Iterator[Any]:
    """In float32 all that there are, and in bfloat16 by default one of each model."""
    for reference in REFERENCES:
        least = min(range(len(reference.cases)), key=lambda number: work(reference.cases[number]))
        for number, asked in enumerate(reference.cases):
            for dtype in (ElementType.FLOAT32, ElementType.BFLOAT16):
                sampled = dtype == ElementType.FLOAT32 or number == least
                yield pytest.param(
                    reference,
                    asked,
                    dtype,
                    id=f"{reference.model}-{number}-{dtype}",
                    marks=() if sampled else pytest.mark.exhaustive,
                )


def work(asked: dict[str, Any]) -> tuple[bool, int]:
    """What sorts cases by what they take; one step alone would show no mistake that builds up."""
    steps = asked.get("steps", 50)
    pixels = asked.get("width", 1024) * asked.get("height", 1024)
    return steps == 1, pixels * steps


@pytest.mark.parametrize(("reference", "asked", "dtype"), list(every_case()))
def test_split_stages_draw_what_the_published_pipeline_draws(
    gallery: Gallery,
    split: Split,
    reference: Reference,
    dtype: ElementType,
    asked: dict[str, object],
) -> None:
    parameters = split.parameters(**asked)
    ours = split.draw(parameters)
    theirs = reference.draw(gallery.published(reference, dtype), parameters)
    assert ours.latents.dtype == theirs.latents.dtype
    assert torch.equal(ours.latents, theirs.latents)
    assert ours.pixels == theirs.pixels


def test_cases_differ_in_whatever_a_request_can_choose(split: Split, reference: Reference) -> None:
    cases = [split.parameters(**asked) for asked in reference.cases]
    limits = split.denoiser.loaded.model.capabilities
    assert len({(each.width, each.height) for each in cases}) >= 2
    assert len({each.steps for each in cases}) >= 2
    if limits.supports_guidance:
        assert len({each.guidance_scale for each in cases}) >= 2
    if limits.supports_negative_prompt:
        assert {each.guided for each in cases} == {True, False}


def test_interleaved_requests_draw_what_each_draws_alone(
    split: Split, reference: Reference
) -> None:
    many = [split.parameters(**asked) for asked in reference.cases]
    stage = DenoiseStage(split.denoiser, split.store)
    requests = [split.encoded(parameters) for parameters in many]
    total_steps = [stage.prepare(request).total_steps for request in requests]
    for turn in range(max(total_steps)):
        for request, steps in zip(requests, total_steps, strict=True):
            if turn < steps:
                stage.step(request.request_id)
    for request in reversed(requests):
        together = split.decoded(request.parameters, stage.finish(request.request_id))
        alone = split.drawn_once(request.parameters)
        assert torch.equal(together.latents, alone.latents)
        assert together.pixels == alone.pixels


def test_a_prepared_request_needs_its_conditioning_no_longer(
    split: Split, reference: Reference
) -> None:
    parameters = richest(split, reference)
    conditioning = split.conditioned(parameters)
    right = split.denoise(parameters, conditioning)["latents"]
    state = split.denoiser.model.prepare(parameters, conditioning)
    for tensor in conditioning.values():
        tensor.fill_(torch.nan if tensor.is_floating_point() else 0)
    for _ in range(state.total_steps):
        split.denoiser.model.step(state)
    assert torch.equal(split.denoiser.model.finish(state)["latents"], right)


def test_every_tensor_that_reaches_the_denoiser_decides_the_latents(
    split: Split, reference: Reference
) -> None:
    parameters = richest(split, reference)
    conditioning = split.conditioned(parameters)
    right = split.denoise(parameters, conditioning)["latents"]
    for name, tensor in conditioning.items():
        flipped = split.denoise(parameters, {**conditioning, name: -tensor})["latents"]
        assert not torch.equal(flipped, right), name


def test_the_latents_that_reach_the_vae_decide_the_picture(
    split: Split, reference: Reference
) -> None:
    parameters = split.parameters(**reference.cases[-1])
    latents = split.denoise(parameters, split.conditioned(parameters))
    right = split.vae.model.decode(parameters, latents)
    flipped = split.vae.model.decode(parameters, {"latents": -latents["latents"]})
    assert [each.tobytes() for each in flipped] != [each.tobytes() for each in right]


def test_every_number_of_a_request_decides_the_latents(split: Split, reference: Reference) -> None:
    limits = split.denoiser.loaded.model.capabilities
    changes: list[dict[str, object]] = [{"seed": 8}, {"steps": 3}]
    if limits.supports_guidance:
        changes.append({"guidance_scale": limits.defaults.guidance_scale + 1})
    if limits.guidance_field != "guidance_scale":
        changes += [guidance(limits, 2.0), guidance(limits, 3.0)]
    first = split.draw(split.parameters(**reference.small))
    again = split.draw(split.parameters(**reference.small))
    assert torch.equal(first.latents, again.latents)
    for change in changes:
        other = split.draw(split.parameters(**{**reference.small, **change}))
        assert not torch.equal(first.latents, other.latents), change


def test_events_tell_of_a_noise_level_that_falls_to_nothing(
    split: Split, reference: Reference
) -> None:
    parameters = split.parameters(**reference.small)
    denoiser = split.denoiser.model
    state = denoiser.prepare(parameters, split.conditioned(parameters))
    sigmas = []
    while state.completed_steps < state.total_steps:
        sigmas.append(state.sigma)
        denoiser.step(state)
    assert len(sigmas) == parameters.steps
    assert 0.9 < sigmas[0] <= 1.0
    assert sigmas == sorted(set(sigmas), reverse=True)
    assert state.sigma == 0.0


def test_stages_hold_their_own_components_alone(
    gallery: Gallery, split: Split, reference: Reference
) -> None:
    spec = find_family(ModelDirectory(gallery.directory(reference))).spec
    held = {
        Stage.ENCODER: split.encoder.loaded.components,
        Stage.DENOISER: split.denoiser.loaded.components,
        Stage.VAE: split.vae.loaded.components,
    }
    names = {stage: tuple(each.name for each in components) for stage, components in held.items()}
    assert names == spec.weights
