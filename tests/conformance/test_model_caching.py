"""Caches that belong to one request, against doing without and against independent references."""

import gc
import weakref
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from denoiser_service.rank.acceleration.tea_cache import TeaCacheSession
from denoiser_service.rank.stage import DenoiseStage
from tests.conformance.gallery import Gallery
from tests.conformance.references import Drawn, Reference, guidance
from tests.conformance.sampling import every_model_with
from tests.conformance.split_stages import Split
from triptych.domain.cache_statistics import BranchDecision
from triptych.domain.element_type import ElementType
from triptych.domain.generation import GenerationParameters

STEPS = 12
IDENTITY = [0.0, 0.0, 0.0, 1.0, 0.0]
# Far enough for reuse, near enough for computing in between.
TEA_CACHE: dict[str, Any] = {
    "kind": "tea_cache",
    "coefficients": IDENTITY,
    "rel_l1_thresh": 1.5,
}
CACHE_DIT: dict[str, Any] = {
    "kind": "cache_dit",
    "max_warmup_steps": 2,
    # Random weights change much from step to step: from 1 on, every change counts as small.
    "residual_diff_threshold": 1.0,
}
CACHES = {
    "tea_cache": TEA_CACHE,
    "cache_dit": CACHE_DIT,
    "taylorseer": {**CACHE_DIT, "taylorseer_order": 1},
    "scm": {**CACHE_DIT, "scm_mask_policy": "fast", "scm_policy": "static"},
}

TAKING_TURNS: list[dict[str, Any]] = [
    {**TEA_CACHE, "rel_l1_thresh": 0.6},
    TEA_CACHE,
    {"kind": "none"},
    {**CACHE_DIT, "max_warmup_steps": 3, "max_continuous_cached_steps": 1},
    {**CACHE_DIT, "residual_diff_threshold": 0.9, "bn_compute_blocks": 1, "taylorseer_order": 2},
    {**CACHE_DIT, "scm_mask_policy": "fast", "scm_policy": "static"},
]


@pytest.fixture
def split(gallery: Gallery, reference: Reference) -> Split:
    return gallery.split(reference, ElementType.FLOAT32)


def asked(split: Split, reference: Reference, **changes: Any) -> GenerationParameters:
    return split.parameters(**{**reference.small, "steps": STEPS, **changes})


def drawn(
    split: Split, parameters: GenerationParameters
) -> tuple[Drawn, list[tuple[BranchDecision, ...]]]:
    request = split.encoded(parameters)
    stage = DenoiseStage(split.denoiser, split.store)
    decisions = [
        stage.step(request.request_id).decisions for _ in range(stage.prepare(request).total_steps)
    ]
    return split.decoded(parameters, stage.finish(request.request_id)), decisions


def test_a_request_without_a_cache_decides_nothing(split: Split, reference: Reference) -> None:
    _, decisions = drawn(split, asked(split, reference))
    assert not any(decisions)


@every_model_with(
    "cache",
    {
        "tea_cache at 0": {**TEA_CACHE, "rel_l1_thresh": 0.0},
        "warm-up to the end": {**CACHE_DIT, "max_warmup_steps": STEPS},
        "cache_dit at 0": {**CACHE_DIT, "residual_diff_threshold": 0.0},
        "nothing may be cached": {**CACHE_DIT, "max_cached_steps": 0, "taylorseer_order": 2},
    },
    always=("tea_cache at 0", "cache_dit at 0"),
)
def test_a_cache_that_may_reuse_nothing_changes_no_bit(
    split: Split, reference: Reference, cache: dict[str, Any]
) -> None:
    plain = split.drawn_once(asked(split, reference))
    cached, decisions = drawn(split, asked(split, reference, cache=cache))
    assert torch.equal(plain.latents, cached.latents)
    assert plain.pixels == cached.pixels
    assert all(step for step in decisions)
    assert not any(each.reused for step in decisions for each in step)


@pytest.mark.parametrize("name", CACHES)
def test_a_cache_that_reuses_steps_changes_the_latents(
    split: Split, reference: Reference, name: str
) -> None:
    plain = split.drawn_once(asked(split, reference))
    cached, decisions = drawn(split, asked(split, reference, cache=CACHES[name]))
    reused = [any(each.reused for each in step) for step in decisions]
    assert any(reused)
    assert not reused[0]
    assert not torch.equal(plain.latents, cached.latents)
    assert torch.isfinite(cached.latents).all()


def test_requests_that_take_turns_cache_as_they_would_alone(
    split: Split, reference: Reference
) -> None:
    limits = split.denoiser.loaded.model.capabilities
    guided = guidance(limits, 4.0)
    many = [
        asked(split, reference, cache=cache, steps=STEPS - number % 4, seed=number, **guided)
        for number, cache in enumerate(TAKING_TURNS)
    ]
    stage = DenoiseStage(split.denoiser, split.store)
    requests = [split.encoded(parameters) for parameters in many]
    for request in requests:
        stage.prepare(request)
    together: list[list[tuple[BranchDecision, ...]]] = [[] for _ in many]
    for turn in range(STEPS):
        for number, request in enumerate(requests):
            if turn < many[number].steps:
                together[number].append(stage.step(request.request_id).decisions)
    for number, request in enumerate(requests):
        finished = split.decoded(many[number], stage.finish(request.request_id))
        alone, decisions = drawn(split, many[number])
        assert torch.equal(finished.latents, alone.latents)
        assert together[number] == decisions


@every_model_with("threshold", {"low": 0.05, "middle": 0.4, "high": 1.5}, always=("middle",))
def test_tea_cache_decides_by_the_published_formula(
    split: Split,
    reference: Reference,
    threshold: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: dict[tuple[int, int], list[np.ndarray]] = {}
    decided: dict[tuple[int, int], list[bool]] = {}
    original = TeaCacheSession._decide

    def record(self: TeaCacheSession, state: Any, signal: torch.Tensor) -> None:
        original(self, state, signal)
        key = (id(self), id(state))
        seen.setdefault(key, []).append(signal.float().numpy().astype(np.float64))
        decided.setdefault(key, []).append(state.decision[0])

    monkeypatch.setattr(TeaCacheSession, "_decide", record)
    coefficients = [-2.0, 1.5, -0.5, 1.1, 0.01]
    cache = {**TEA_CACHE, "rel_l1_thresh": threshold, "coefficients": coefficients}
    drawn(split, asked(split, reference, cache={**cache, "compute_last_step": False}))
    assert seen
    for key, signals in seen.items():
        assert decided[key] == published_decisions(signals, coefficients, threshold)


def published_decisions(
    signals: list[np.ndarray], coefficients: list[float], threshold: float
) -> list[bool]:
    """Whether each step is reused: TeaCache's rule, written once more."""
    reused, accumulated = [False], 0.0
    for before, now in pairwise(signals):
        distance = np.abs(now - before).mean() / np.abs(before).mean()
        accumulated += abs(float(np.poly1d(coefficients)(distance)))
        reused.append(accumulated < threshold)
        accumulated = accumulated if reused[-1] else 0.0
    return reused


def test_the_last_step_is_computed_unless_the_request_says_otherwise(
    split: Split, reference: Reference
) -> None:
    greedy = {**TEA_CACHE, "rel_l1_thresh": 1e9}
    _, careful = drawn(split, asked(split, reference, cache=greedy))
    _, careless = drawn(
        split, asked(split, reference, cache={**greedy, "compute_last_step": False})
    )
    assert not any(each.reused for each in careful[-1])
    assert all(each.reused for each in careless[-1])


def test_nothing_of_a_finished_request_is_kept(split: Split, reference: Reference) -> None:
    kept: list[weakref.ref[Any]] = []
    for cache in CACHES.values():
        stage = DenoiseStage(split.denoiser, split.store)
        request = split.encoded(asked(split, reference, cache=cache))
        for _ in range(stage.prepare(request).total_steps):
            stage.step(request.request_id)
        session = stage._running[request.request_id].session
        assert session is not None
        kept.extend(map(weakref.ref, residuals(session)))
        del session
        split.decoded(request.parameters, stage.finish(request.request_id))
        # The stage lives on, as a rank does; collected, since blocks and their lists are in cycles.
        gc.collect()
        assert not any(each() is not None for each in kept)
        assert stage._running == {}
    assert kept


def residuals(session: Any) -> list[torch.Tensor]:
    """What a session keeps between steps."""
    if isinstance(session, TeaCacheSession):
        return [each.residual for each in session._branches.values() if each.residual is not None]
    return [
        buffer
        for managers in session._managers.values()
        for manager in managers.values()
        for buffer in manager.get_context().buffers.values()
    ]
