"""Published pipelines, and cache-dit switched on for them the library's own way."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from triptych.domain.acceleration import CacheDit

Pipeline = Any
"""One of diffusers' pipelines; they are published without types."""


def stock_pipeline(
    published: type[Pipeline],
    transformer: torch.nn.Module,
    scheduler: FlowMatchEulerDiscreteScheduler,
) -> Pipeline:
    """A pipeline that loops alone, without encoders and VAE.

    Of a class of its own: cache-dit changes the class of what it is switched on for.

    Args:
        published: its class.
        transformer: whose forwards it calls.
        scheduler: copied.
    """
    own: Any = type(published.__name__, (published,), {})
    parts = dict.fromkeys(signature(published).parameters)
    loops = {"transformer": transformer, "scheduler": copy.deepcopy(scheduler)}
    pipeline = own(**{**parts, **loops})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def switch_on(pipeline: Pipeline, cache: CacheDit, *, guided: bool, steps: int) -> None:
    """Switches cache-dit on for a published pipeline, the library's own way."""
    import cache_dit
    from cache_dit.logger import suppress_loggers

    suppress_loggers(["cache_dit*"])
    mask, order = cache.scm_mask_policy, cache.taylorseer_order
    config = cache_dit.DBCacheConfig(
        Fn_compute_blocks=cache.fn_compute_blocks,
        Bn_compute_blocks=cache.bn_compute_blocks,
        max_warmup_steps=cache.max_warmup_steps,
        max_cached_steps=cache.max_cached_steps,
        max_continuous_cached_steps=cache.max_continuous_cached_steps,
        residual_diff_threshold=cache.residual_diff_threshold,
        # Told, where it cannot guess: a request without guidance has one forward a step.
        enable_separate_cfg=None if guided else False,
        steps_computation_mask=None
        if mask is None
        else cache_dit.steps_mask(total_steps=steps, mask_policy=mask),
        steps_computation_policy=cache.scm_policy or "dynamic",
    )
    calibrator = (
        None if order is None else cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=order)
    )
    cache_dit.enable_cache(pipeline, cache_config=config, calibrator_config=calibrator)


@contextmanager
def switched_on(pipeline: Pipeline, cache: CacheDit, *, guided: bool, steps: int) -> Iterator[None]:
    """As switch_on, and off again."""
    import cache_dit

    switch_on(pipeline, cache, guided=guided, steps=steps)
    try:
        yield
    finally:
        cache_dit.disable_cache(pipeline)
