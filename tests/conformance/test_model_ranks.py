"""Requests on several ranks, real processes that talk by gloo, against one process."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from denoiser_service.rank.stage import DenoiseStage
from services.model_families import find_family
from services.model_files.directory import ModelDirectory
from services.model_ports.forwards import InTurn
from tests.checkpoints import checkpoint
from tests.conformance.gallery import Gallery
from tests.conformance.ranks import Ranks, running_ranks
from tests.conformance.references import Reference, guidance, references
from tests.conformance.sampling import SAME_CODE
from tests.conformance.split_stages import Split
from tools.generate_model_table import PUBLISHED
from triptych.domain.cache_statistics import BranchDecision
from triptych.domain.element_type import ElementType
from triptych.domain.generation import GenerationParameters
from triptych.domain.model import Capabilities
from triptych.domain.parallel import ONE_RANK, ParallelDegrees, ParallelMethod

STEPS = 6
# Ranks add up in another order. Measured over all cases: 3e-6 at most, and 2e-14 in float64.
TOLERANCE = 1e-5
DOUBLE_TOLERANCE = 1e-12
# Signals are small differences of what agrees to the above.
SIGNAL_TOLERANCE = 1e-4
DEGREES = {
    "u2": ParallelDegrees(ulysses=2),
    "r2": ParallelDegrees(ring=2),
    "u2r2": ParallelDegrees(ulysses=2, ring=2),
    "cfg2": ParallelDegrees(cfg=2),
    "cfg2u2": ParallelDegrees(cfg=2, ulysses=2),
}
_CACHE_DIT: dict[str, Any] = {"kind": "cache_dit", "max_warmup_steps": 1}
CACHES: dict[str, dict[str, Any]] = {
    "none": {"kind": "none"},
    "tea_cache": {
        "kind": "tea_cache",
        "coefficients": [0.0, 0.0, 0.0, 1.0, 0.0],
        "rel_l1_thresh": 1.5,
    },
    "dbcache": {**_CACHE_DIT, "residual_diff_threshold": 0.9},
    "scm": {**_CACHE_DIT, "scm_mask_policy": "fast", "scm_policy": "static"},
}
# What is run by default: each method for each model, and each with each cache.
SAMPLE = [("u2", "tea_cache"), ("r2", "dbcache"), ("u2r2", "none"), ("cfg2u2", "scm")]
DOUBLE_SAMPLE = [("u2r2", "none")]
# Each rank loads the libraries, all at the same time.
pytestmark = pytest.mark.timeout(600)
Taken = list[dict[str, BranchDecision]]
"""Decisions of every branch, by step."""


def reference_of(model: str) -> Reference:
    return next(each for each in references() if each.model == model)


def cases(sample: Sequence[tuple[str, str]] = SAMPLE) -> Iterator[Any]:
    """Every model with every group of ranks and every cache."""
    # Those of the same degrees in a row: other ones take a new group.
    for degrees, spread in DEGREES.items():
        for reference in references():
            if reference.model == "demo" and spread.ulysses > 1:
                # It has three attention heads.
                continue
            for cache in CACHES:
                sampled = (degrees, cache) in sample
                if sample is DOUBLE_SAMPLE and reference.model in SAME_CODE:
                    sampled = False
                marks = [] if sampled else [pytest.mark.exhaustive]
                yield pytest.param(
                    reference.model,
                    degrees,
                    cache,
                    marks=marks,
                    id=f"{reference.model}-{degrees}-{cache}",
                )


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    with running_ranks(tmp_path_factory.mktemp("ranks")) as started:
        yield started


@dataclass(frozen=True)
class Made:
    latents: torch.Tensor
    taken: Taken


def alone(split: Split, parameters: GenerationParameters) -> Made:
    request = split.encoded(parameters)
    stage = DenoiseStage(split.denoiser, split.store)
    steps = [
        stage.step(request.request_id).decisions for _ in range(stage.prepare(request).total_steps)
    ]
    latents = split.decoded(parameters, stage.finish(request.request_id)).latents
    return Made(latents, [united([step]) for step in steps])


def together(
    gallery: Gallery,
    ranks: Ranks,
    reference: Reference,
    degrees: ParallelDegrees,
    parameters: GenerationParameters,
    *,
    double: bool = False,
) -> Made:
    """What every rank makes alike; each says what the branches did that it ran."""
    split = gallery.split(reference, ElementType.FLOAT32)
    conditioning = split.conditioned(parameters)
    directory = gallery.directory(reference)
    made = ranks.denoise(directory, degrees, parameters, conditioning, double=double)
    assert len(set(made.checksums)) == 1
    return Made(made.latents, [united(step) for step in zip(*made.decisions, strict=True)])


def united(decisions: Sequence[Sequence[BranchDecision]]) -> dict[str, BranchDecision]:
    found: dict[str, BranchDecision] = {}
    for each in (decision for rank in decisions for decision in rank):
        known = found.setdefault(each.branch, each)
        assert known == each, "ranks with the same branch decided differently"
    return found


def reused(taken: Taken) -> list[dict[str, bool]]:
    return [{name: each.reused for name, each in sorted(step.items())} for step in taken]


def difference(made: Made, right: Made) -> float:
    scale = right.latents.abs().max()
    return float((made.latents - right.latents).abs().max() / scale)


def apart(split: Split, parameters: GenerationParameters) -> Made:
    """In one process as well, with a forward for each branch, as ranks have them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InTurn, "share_forwards", False)
        return alone(split, parameters)


def assert_alike(made: Made, right: Made, tolerance: float = TOLERANCE) -> None:
    assert reused(made.taken) == reused(right.taken)
    for step, expected in zip(made.taken, right.taken, strict=True):
        for name, each in step.items():
            right_signal = expected[name].signal
            if right_signal is None:
                assert each.signal is None
            else:
                assert each.signal == pytest.approx(right_signal, rel=SIGNAL_TOLERANCE)
    assert difference(made, right) <= tolerance


def odd(capabilities: Capabilities, reference: Reference, **changes: Any) -> dict[str, Any]:
    """Fields of a request with a number of tokens that no number of ranks divides."""
    sized = capabilities.image_fit is None or capabilities.image_fit.overridable
    size = {"width": 80, "height": 48} if sized else {}
    # Branches with prompts of different lengths, where those are not filled up.
    negative: dict[str, Any] = (
        {"negative_prompt": "grey"}
        if capabilities.supports_negative_prompt and "guidance_scale" not in changes
        else {}
    )
    if capabilities.guidance_field != "guidance_scale":
        negative |= guidance(capabilities, 4.0)
    fields = {**reference.small, **size, **negative, "prompt": "a red circle on it"}
    if reference.model.startswith("wan"):
        fields["options"] = {"kind": "video", "num_frames": 9}
    return {**fields, "steps": STEPS, **changes}


def asked(split: Split, reference: Reference, cache: str) -> GenerationParameters:
    options = CACHES[cache]
    if cache == "dbcache":
        options = {**options, "residual_diff_threshold": clear_threshold(split, reference)}
    capabilities = split.denoiser.loaded.model.capabilities
    return split.parameters(**odd(capabilities, reference, cache=options))


@pytest.mark.parametrize(("model", "name", "cache"), list(cases()))
def test_ranks_draw_what_one_process_draws(
    gallery: Gallery, ranks: Ranks, model: str, name: str, cache: str
) -> None:
    reference, degrees = reference_of(model), DEGREES[name]
    split = gallery.split(reference, ElementType.FLOAT32)
    support = split.denoiser.loaded.model.capabilities.parallel_support
    assert list(degrees.violations(support)) == []
    parameters = asked(split, reference, cache)
    right = alone(split, parameters)
    if cache != "none":
        threshold = getattr(parameters.cache, "residual_diff_threshold", 1.0)
        taken = [each for step in right.taken for each in step.values()]
        assert not all(each.reused for each in taken)
        # Of several lists of blocks one may reuse a step that another computes.
        assert any(
            each.reused or (each.signal is not None and each.signal < threshold) for each in taken
        )
    assert_alike(together(gallery, ranks, reference, degrees, parameters), right)


@pytest.mark.parametrize(("model", "name", "cache"), list(cases(DOUBLE_SAMPLE)))
def test_what_ranks_draw_differs_by_rounding_alone(
    gallery: Gallery, ranks: Ranks, model: str, name: str, cache: str
) -> None:
    reference = reference_of(model)
    parameters = asked(gallery.split(reference, ElementType.FLOAT32), reference, cache)
    right, made = (
        together(gallery, ranks, reference, degrees, parameters, double=True)
        for degrees in (ONE_RANK, DEGREES[name])
    )
    assert right.latents.dtype == torch.float64
    assert_alike(made, right, DOUBLE_TOLERANCE)


def clear_threshold(split: Split, reference: Reference) -> float:
    """In the widest gap between the differences that a request shows: no rounding decides.

    From 1 on, every change counts as small.
    """
    capabilities = split.denoiser.loaded.model.capabilities
    never = {**_CACHE_DIT, "residual_diff_threshold": 1e-9}
    made = alone(split, split.parameters(**odd(capabilities, reference, cache=never)))
    signals = sorted(
        each.signal
        for step in made.taken
        for each in step.values()
        if each.signal is not None and each.signal < 1
    )
    if not signals:
        return 1.0
    _, low, high = max((high - low, low, high) for low, high in pairwise([*signals, 1.0]))
    return (low + high) / 2


@pytest.mark.parametrize("model", sorted(set(PUBLISHED.values())))
def test_every_cell_of_the_table_of_models_has_a_case_that_is_always_run(model: str) -> None:
    # The two differ in their weights alone.
    tested = "qwen-image" if model == "qwen-image-2512" else model
    covered = {
        method
        for case in cases()
        if case.values[0] == tested and not case.marks
        for method in methods_of(*case.values[1:])
    }
    assert claimed(model) <= covered


def methods_of(degrees: str, cache: str) -> Iterator[str]:
    """What a case covers, in the words of capabilities."""
    spread = DEGREES[degrees]
    yield from (each for each in ParallelMethod if getattr(spread, each.value) > 1)
    yield CACHES[cache]["kind"]


def claimed(model: str) -> set[str]:
    with tempfile.TemporaryDirectory() as folder:
        directory = ModelDirectory(checkpoint(model, Path(folder)))
        capabilities = find_family(directory).spec.capabilities(directory)
    return {*capabilities.parallel_support.methods, *capabilities.cache_support.methods}


@pytest.mark.parametrize("model", ["z-image-turbo", "stable-diffusion-3.5-medium"])
def test_ranks_for_branches_give_the_bits_of_a_process_with_a_forward_for_each(
    gallery: Gallery, ranks: Ranks, model: str
) -> None:
    reference, degrees = reference_of(model), DEGREES["cfg2"]
    split = gallery.split(reference, ElementType.FLOAT32)
    capabilities = split.denoiser.loaded.model.capabilities
    parameters = split.parameters(**odd(capabilities, reference, cache=CACHES["tea_cache"]))
    assert parameters.guided
    made = together(gallery, ranks, reference, degrees, parameters)
    right = apart(split, parameters)
    assert reused(made.taken) == reused(right.taken)
    assert torch.equal(made.latents, right.latents)


def test_without_guidance_ranks_for_branches_take_parts_of_the_sequence(
    gallery: Gallery, ranks: Ranks, reference: Reference
) -> None:
    # The demo has three attention heads.
    degrees = ParallelDegrees(cfg=2, ulysses=1 if reference.model == "demo" else 2)
    split = gallery.split(reference, ElementType.FLOAT32)
    parameters = split.parameters(**unguided(split, reference), cache=CACHES["tea_cache"])
    made = ranks.denoise(
        gallery.directory(reference), degrees, parameters, split.conditioned(parameters)
    )
    assert made.degrees == ParallelDegrees(ring=2, ulysses=degrees.ulysses)
    right = alone(split, parameters)
    assert_alike(together(gallery, ranks, reference, degrees, parameters), right)


def unguided(split: Split, reference: Reference) -> dict[str, Any]:
    """Fields of a request whose steps have one branch."""
    capabilities = split.denoiser.loaded.model.capabilities
    fields = odd(capabilities, reference)
    fields.pop("negative_prompt", None)
    if capabilities.guidance_field == "guidance_scale":
        return {**fields, "guidance_scale": capabilities.guidance_off_scale}
    return {**fields, **guidance(capabilities, capabilities.guidance_off_scale)}


@pytest.mark.parametrize("degrees", [ParallelDegrees(ring=3), ParallelDegrees(ring=4)])
def test_ranks_may_have_a_token_or_two_or_none(
    gallery: Gallery, ranks: Ranks, degrees: ParallelDegrees
) -> None:
    reference = reference_of("bagel-7b-mot")
    split = gallery.split(reference, ElementType.FLOAT32)
    # Six tokens are drawn or markers, and the prompt is shared out by itself.
    parameters = split.parameters(width=32, height=32, steps=2, prompt="a")
    right = alone(split, parameters)
    assert_alike(together(gallery, ranks, reference, degrees, parameters), right)


@pytest.mark.parametrize("cache", ["none", "tea_cache"])
@pytest.mark.parametrize("degrees", [ParallelDegrees(cfg=2, ulysses=2), ParallelDegrees(cfg=3)])
def test_three_branches_run_on_two_ranks_or_on_three(
    gallery: Gallery, ranks: Ranks, degrees: ParallelDegrees, cache: str
) -> None:
    reference = reference_of("bagel-7b-mot")
    split = gallery.split(reference, ElementType.FLOAT32)
    capabilities = split.denoiser.loaded.model.capabilities
    parameters = split.parameters(
        **odd(
            capabilities,
            reference,
            images=1,
            cache=CACHES[cache],
            options={"kind": "bagel", "image_guidance_scale": 2.0},
        )
    )
    right = alone(split, parameters)
    assert_alike(together(gallery, ranks, reference, degrees, parameters), right)
