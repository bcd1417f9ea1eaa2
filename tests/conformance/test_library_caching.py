"""Our Cache-DiT against a published pipeline with the library switched on the library's own way."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cache_dit
import pytest
import torch

from services.domain.element_type import ElementType
from services.domain.generation import GenerationParameters
from tests.checkpoints.stock import stock_pipeline
from tests.conformance.gallery import Gallery
from tests.conformance.references import Reference, references

STEPS = 10
# Random weights change much from step to step: from 1 on, every change counts as small.
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
    "scm": {"mask_policy": "fast", "policy": "static"},
}


def _supported() -> list[Reference]:
    # BAGEL has no pipeline, and what the demo model's does Qwen-Image's does.
    return [each for each in references() if each.model not in {"bagel-7b-mot", "demo"}]


@pytest.fixture(params=_supported(), ids=lambda reference: reference.model)
def reference(request: pytest.FixtureRequest) -> Reference:
    assert isinstance(request.param, Reference)
    return request.param


@contextmanager
def switched_on(
    gallery: Gallery, reference: Reference, parameters: GenerationParameters, cache: dict[str, Any]
) -> Iterator[Any]:
    """A pipeline of its own: the library changes its class, until it is switched off again."""
    pipeline = stock_pipeline(gallery.directory(reference), torch.float32)
    scm, order = cache.get("scm"), cache.get("taylorseer_order")
    config = cache_dit.DBCacheConfig(
        Fn_compute_blocks=1,
        Bn_compute_blocks=0,
        max_warmup_steps=cache["max_warmup_steps"],
        residual_diff_threshold=cache.get("residual_diff_threshold", 0.24),
        max_cached_steps=-1,
        max_continuous_cached_steps=cache.get("max_continuous_cached_steps", 3),
        # Told, where it cannot guess: a request without guidance has one forward a step.
        enable_separate_cfg=None if parameters.guided else False,
        steps_computation_mask=None
        if scm is None
        else cache_dit.steps_mask(total_steps=STEPS, mask_policy=scm["mask_policy"]),
        steps_computation_policy="dynamic" if scm is None else scm["policy"],
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


@pytest.mark.parametrize("cache", [DYNAMIC, MASKED], ids=["taylorseer", "masked"])
def test_cached_requests_draw_what_the_library_draws_by_itself(
    gallery: Gallery, reference: Reference, cache: dict[str, Any]
) -> None:
    if "scm" in cache and reference.model.startswith("wan"):
        pytest.skip("the library has one mask for both experts, who share the steps")
    split = gallery.split(reference, ElementType.FLOAT32)
    parameters = split.parameters(**{**reference.small, "steps": STEPS, "cache": cache})
    ours = split.draw(parameters)
    plain = reference.draw(gallery.published(reference, ElementType.FLOAT32), parameters)
    with switched_on(gallery, reference, parameters, cache) as pipeline:
        theirs = reference.draw(pipeline, parameters)
    assert torch.equal(ours.latents, theirs.latents)
    assert ours.pixels == theirs.pixels
    assert not torch.equal(ours.latents, plain.latents)


def test_switching_the_library_off_leaves_the_published_pipeline_as_it_was(
    gallery: Gallery,
) -> None:
    reference = next(each for each in references() if each.model == "qwen-image")
    split = gallery.split(reference, ElementType.FLOAT32)
    parameters = split.parameters(**reference.small)
    published = gallery.published(reference, ElementType.FLOAT32)
    before = reference.draw(published, parameters)
    with switched_on(gallery, reference, parameters, DYNAMIC):
        pass
    assert torch.equal(reference.draw(published, parameters).latents, before.latents)
