"""Our Cache-DiT against a published pipeline with the library switched on the library's own way."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import cache_dit
import pytest
import torch

from tests.checkpoints.stock import stock_pipeline
from tests.conformance.gallery import Gallery
from tests.conformance.references import Reference, references
from tests.conformance.references.flux import TRUE
from triptych.domain.acceleration import NO_CACHE, CacheDit
from triptych.domain.element_type import ElementType
from triptych.domain.family_options import FluxOptions
from triptych.domain.generation import GenerationParameters

STEPS = 10
# Random weights change much from step to step: from 1 on, every change counts as small.
CACHED: dict[str, Any] = {"kind": "cache_dit"}
DYNAMIC: dict[str, Any] = {
    "kind": "cache_dit",
    "max_warmup_steps": 3,
    "residual_diff_threshold": 1.0,
    "max_continuous_cached_steps": 2,
    "taylorseer_order": 1,
}
MASKED: dict[str, Any] = {
    "kind": "cache_dit",
    "max_warmup_steps": 2,
    "scm_mask_policy": "fast",
    "scm_policy": "static",
}


@contextmanager
def switched_on(
    gallery: Gallery, reference: Reference, parameters: GenerationParameters
) -> Iterator[Any]:
    """A pipeline of its own: the library changes its class, until it is switched off again."""
    pipeline = stock_pipeline(gallery.directory(reference), torch.float32)
    cache = parameters.cache
    assert isinstance(cache, CacheDit)
    mask, order = cache.scm_mask_policy, cache.taylorseer_order
    config = cache_dit.DBCacheConfig(
        Fn_compute_blocks=cache.fn_compute_blocks,
        Bn_compute_blocks=cache.bn_compute_blocks,
        max_warmup_steps=cache.max_warmup_steps,
        warmup_interval=cache.warmup_interval,
        residual_diff_threshold=cache.residual_diff_threshold,
        max_accumulated_residual_diff_threshold=cache.max_accumulated_residual_diff_threshold,
        max_cached_steps=cache.max_cached_steps,
        max_continuous_cached_steps=cache.max_continuous_cached_steps,
        # Told, where it cannot guess: a request without guidance has one forward a step, and one
        # with FLUX.1's true guidance has two.
        enable_separate_cfg=isinstance(parameters.options, FluxOptions) or None
        if parameters.guided
        else False,
        steps_computation_mask=None
        if mask is None
        else cache_dit.steps_mask(total_steps=parameters.steps, mask_policy=mask),
        steps_computation_policy=cache.scm_policy or "dynamic",
    )
    calibrator = None
    if order is not None:
        # Stable Diffusion 3's last block gives nothing to forecast for the prompt.
        forecasts = not reference.model.startswith("stable-diffusion-3")
        calibrator = cache_dit.TaylorSeerCalibratorConfig(
            taylorseer_order=order, enable_encoder_calibrator=forecasts
        )
    cache_dit.enable_cache(pipeline, cache_config=config, calibrator_config=calibrator)
    try:
        yield pipeline
    finally:
        cache_dit.disable_cache(pipeline)


def check_equal(gallery: Gallery, reference: Reference, **asked: Any) -> None:
    split = gallery.split(reference, ElementType.FLOAT32)
    parameters = split.parameters(**{**reference.small, "steps": STEPS, **asked})
    ours = split.draw(parameters)
    plain = gallery.drawn(reference, replace(parameters, cache=NO_CACHE))
    with switched_on(gallery, reference, parameters) as pipeline:
        theirs = reference.draw(pipeline, parameters)
    assert torch.equal(ours.latents, theirs.latents)
    assert ours.pixels == theirs.pixels
    assert not torch.equal(ours.latents, plain.latents)


@pytest.mark.parametrize("cache", [DYNAMIC, MASKED], ids=["taylorseer", "masked"])
def test_cached_requests_draw_what_the_library_draws_by_itself(
    gallery: Gallery, reference: Reference, cache: dict[str, Any]
) -> None:
    if reference.model == "bagel-7b-mot":
        pytest.skip("it has no pipeline")
    if "scm_mask_policy" in cache and reference.model.startswith("wan"):
        pytest.skip("the library has one mask for both experts, who share the steps")
    check_equal(gallery, reference, cache=cache)


def of(*models: str) -> list[Reference]:
    return [each for each in references() if each.model in models]


@pytest.mark.parametrize(
    "reference",
    of("stable-diffusion-3.5-medium", "flux.1-dev"),
    ids=lambda reference: reference.model,
)
def test_last_blocks_that_are_always_computed_draw_the_same(
    gallery: Gallery, reference: Reference
) -> None:
    check_equal(gallery, reference, cache={**DYNAMIC, "bn_compute_blocks": 1})


@pytest.mark.parametrize("cache", [DYNAMIC, MASKED], ids=["taylorseer", "masked"])
@pytest.mark.parametrize("reference", of("flux.1-dev"), ids=["flux.1-dev"])
def test_a_distilled_model_that_guides_by_a_second_branch_draws_the_same(
    gallery: Gallery, reference: Reference, cache: dict[str, Any]
) -> None:
    check_equal(gallery, reference, cache=cache, negative_prompt="grey", options=TRUE)


@pytest.mark.parametrize(
    "reference",
    of("stable-diffusion-3.5-medium", "z-image-turbo"),
    ids=lambda reference: reference.model,
)
def test_models_that_guide_in_one_forward_draw_the_same_without_guidance(
    gallery: Gallery, reference: Reference
) -> None:
    off = gallery.split(reference, ElementType.FLOAT32).denoiser.loaded.model.capabilities
    check_equal(gallery, reference, cache=DYNAMIC, guidance_scale=off.guidance_off_scale)


# What people would ask of a model that was trained, whose changes lie on both sides of thresholds.
@pytest.mark.parametrize(
    "options",
    [
        {"fn_compute_blocks": 2, "bn_compute_blocks": 3, "taylorseer_order": 2},
        {"residual_diff_threshold": 0.3, "max_cached_steps": 5},
        {"residual_diff_threshold": 0.3, "max_continuous_cached_steps": 1},
        {"residual_diff_threshold": 0.2, "scm_mask_policy": "ultra", "scm_policy": "dynamic"},
        {"residual_diff_threshold": 0.3, "max_accumulated_residual_diff_threshold": 0.8},
        {"residual_diff_threshold": 0.3, "max_warmup_steps": 8, "warmup_interval": 3},
    ],
    ids=", ".join,
)
def test_every_option_draws_what_it_draws_in_the_library(
    gallery: Gallery, options: dict[str, Any]
) -> None:
    (demo,) = of("demo")
    check_equal(gallery, demo, steps=20, cache={"kind": "cache_dit", **options})


def test_switching_the_library_off_leaves_the_published_pipeline_as_it_was(
    gallery: Gallery,
) -> None:
    reference = next(each for each in references() if each.model == "qwen-image")
    split = gallery.split(reference, ElementType.FLOAT32)
    parameters = split.parameters(**reference.small)
    published = gallery.published(reference, ElementType.FLOAT32)
    before = reference.draw(published, parameters)
    cached = split.parameters(**reference.small, cache=CACHED)
    with switched_on(gallery, reference, cached):
        pass
    assert torch.equal(reference.draw(published, parameters).latents, before.latents)
