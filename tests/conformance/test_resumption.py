"""Requests that were saved and go on in another stage, beside those never interrupted."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from denoiser_service.rank.commands import Prepared
from denoiser_service.rank.stage import DenoiseStage
from services.domain.checkpoint import Checkpoint
from services.domain.stages import DenoiseRequest
from services.loaded_models.loading import load_denoiser
from tests.conformance.gallery import Gallery
from tests.conformance.references import Reference, guidance, references
from tests.conformance.sampling import every_model_with
from tests.conformance.split_stages import Split
from triptych.domain.cache_statistics import BranchDecision
from triptych.domain.element_type import ElementType
from triptych.domain.errors import InvalidRequest
from triptych.domain.generation import GenerationParameters

STEPS = 6
WAN = next(each for each in references() if each.model.startswith("wan"))
Decisions = list[tuple[BranchDecision, ...]]
NONE: dict[str, Any] = {"kind": "none"}
# Random weights change much from step to step: some are reused, and some computed in between.
TEA_CACHE: dict[str, Any] = {
    "kind": "tea_cache",
    "coefficients": [0.0, 0.0, 0.0, 1.0, 0.0],
    "rel_l1_thresh": 1.2,
}
CACHE_DIT: dict[str, Any] = {
    "kind": "cache_dit",
    "max_warmup_steps": 4,
    "max_continuous_cached_steps": -1,
    "residual_diff_threshold": 1.0,
}
FORECAST = {**CACHE_DIT, "taylorseer_order": 1}
MASKED = {**CACHE_DIT, "scm_mask_policy": "fast", "scm_policy": "static"}


@pytest.fixture(params=references(), ids=lambda reference: reference.model)
def reference(request: pytest.FixtureRequest) -> Reference:
    assert isinstance(request.param, Reference)
    return request.param


@pytest.fixture
def split(gallery: Gallery, reference: Reference) -> Split:
    return gallery.split(reference, ElementType.FLOAT32)


def asked(split: Split, reference: Reference, **changes: Any) -> GenerationParameters:
    guided = guidance(split.denoiser.loaded.model.capabilities, 4.0)
    return split.parameters(**{**reference.small, "steps": STEPS, **guided, **changes})


def uninterrupted(split: Split, request: DenoiseRequest) -> tuple[torch.Tensor, Decisions]:
    stage = DenoiseStage(split.denoiser, split.store)
    stage.prepare(request)
    return finished(split, request, stage, 0)


def finished(
    split: Split, request: DenoiseRequest, stage: DenoiseStage, step: int
) -> tuple[torch.Tensor, Decisions]:
    """The latents, and what is decided from a step on."""
    decisions = [
        stage.step(request.request_id).decisions for _ in range(step, request.parameters.steps)
    ]
    ref = stage.finish(request.request_id).latents
    assert ref is not None
    with split.store.get(ref, tenant=request.tenant, request_id=request.request_id) as tensors:
        return tensors["latents"].clone(), decisions


def saved_at(split: Split, request: DenoiseRequest, step: int) -> Checkpoint:
    """What is left of a stage that goes no further."""
    stage = DenoiseStage(split.denoiser, split.store)
    stage.prepare(request)
    for _ in range(step):
        stage.step(request.request_id)
    return stage.save(request.request_id).checkpoint


def resumed(
    split: Split, request: DenoiseRequest, checkpoint: Checkpoint
) -> tuple[DenoiseStage, Prepared]:
    stage = DenoiseStage(split.denoiser, split.store)
    prepared = stage.prepare(request, resume=checkpoint)
    assert prepared.completed_steps == checkpoint.completed_steps
    return stage, prepared


@every_model_with(
    "cache", {"uncached": NONE, "tea_cache": TEA_CACHE}, always=("uncached", "tea_cache")
)
def test_a_request_that_is_resumed_has_the_bits_of_one_that_was_never_interrupted(
    split: Split, reference: Reference, cache: dict[str, Any]
) -> None:
    request = split.encoded(asked(split, reference, cache=cache))
    latents, decisions = uninterrupted(split, request)
    # A solver of the second order is other after one step than after several.
    for step in (1, 4):
        stage, prepared = resumed(split, request, saved_at(split, request, step))
        again, since = finished(split, request, stage, step)
        assert torch.equal(again, latents)
        assert since == decisions[step:]
        assert not prepared.recomputes
    split.store.release_request(request.tenant, request.request_id)


@every_model_with("cache", {"tea_cache": TEA_CACHE}, always=())
def test_a_stage_that_was_loaded_anew_goes_on_with_the_same_bits(
    gallery: Gallery, split: Split, reference: Reference, cache: dict[str, Any]
) -> None:
    request = split.encoded(asked(split, reference, cache=cache))
    latents, _ = uninterrupted(split, request)
    checkpoint = saved_at(split, request, 3)
    denoiser = load_denoiser(gallery.directory(reference), None, ElementType.FLOAT32, "cpu")
    elsewhere = replace(split, denoiser=denoiser)
    stage, _ = resumed(elsewhere, request, checkpoint)
    again, _ = finished(elsewhere, request, stage, 3)
    assert torch.equal(again, latents)
    split.store.release_request(request.tenant, request.request_id)


@pytest.mark.parametrize("reference", [WAN], ids=lambda reference: reference.model)
@pytest.mark.parametrize("saved", [0, STEPS])
def test_a_request_is_resumed_before_its_first_step_and_after_its_last(
    split: Split, reference: Reference, saved: int
) -> None:
    request = split.encoded(asked(split, reference, cache=TEA_CACHE))
    latents, _ = uninterrupted(split, request)
    stage, prepared = resumed(split, request, saved_at(split, request, saved))
    assert not prepared.recomputes
    assert torch.equal(finished(split, request, stage, saved)[0], latents)


@every_model_with(
    "cache", {"alone": CACHE_DIT, "forecast": FORECAST, "masked": MASKED}, always=("alone",)
)
def test_what_a_library_cannot_save_is_computed_once_after_a_request_is_resumed(
    split: Split, reference: Reference, cache: dict[str, Any]
) -> None:
    parameters = asked(split, reference, cache=cache, steps=10)
    request = split.encoded(parameters)
    _, decisions = uninterrupted(split, request)
    reused = [any(each.reused for each in step) for step in decisions]
    saved = reused.index(True)
    stage, prepared = resumed(split, request, saved_at(split, request, saved))
    latents, since = finished(split, request, stage, saved)
    assert prepared.recomputes
    assert not any(each.reused for each in since[0])
    # Warm-ups and masks go on where they were.
    again = [any(each.reused for each in step) for step in since]
    assert again[1:] == reused[saved + 1 :]
    assert torch.isfinite(latents).all()
    split.store.release_request(request.tenant, request.request_id)


@pytest.mark.parametrize("reference", [WAN], ids=lambda reference: reference.model)
def test_a_request_goes_on_as_before_after_it_was_saved(split: Split, reference: Reference) -> None:
    request = split.encoded(asked(split, reference, cache=TEA_CACHE))
    latents, decisions = uninterrupted(split, request)
    stage = DenoiseStage(split.denoiser, split.store)
    stage.prepare(request)
    stage.step(request.request_id)
    stage.save(request.request_id)
    again, since = finished(split, request, stage, 1)
    assert torch.equal(again, latents)
    assert since == decisions[1:]


@pytest.mark.parametrize("reference", [WAN], ids=lambda reference: reference.model)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 32}, "its latents are"),
        ({"steps": 2}, "allowed are 0 to 2"),
    ],
)
def test_a_checkpoint_of_another_request_is_refused(
    split: Split, reference: Reference, changes: dict[str, Any], message: str
) -> None:
    request = split.encoded(asked(split, reference))
    checkpoint = saved_at(split, request, 3)
    other = replace(request, parameters=asked(split, reference, **changes))
    with pytest.raises(InvalidRequest, match=message):
        resumed(split, other, checkpoint)
    split.store.release_request(request.tenant, request.request_id)


@every_model_with("cache", {"tea_cache": TEA_CACHE}, always=("tea_cache",))
def test_no_later_step_changes_what_was_saved(
    split: Split, reference: Reference, cache: dict[str, Any]
) -> None:
    request = split.encoded(asked(split, reference, cache=cache, steps=4))
    stage = DenoiseStage(split.denoiser, split.store)
    stage.prepare(request)
    stage.step(request.request_id)
    stage.step(request.request_id)
    running = stage._running[request.request_id]
    assert running.session is not None
    components = split.denoiser.model.components
    saved = {**running.state.save(), **running.session.save(components)}
    before = {name: tensor.clone() for name, tensor in saved.items()}
    # It is stored while these are taken.
    finished(split, request, stage, 2)
    assert [name for name in saved if not torch.equal(saved[name], before[name])] == []
    split.store.release_request(request.tenant, request.request_id)
