"""A guidance branch caches alike however it is run: alone, in turn, in one forward, by a rank."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn

from denoiser_service.rank import stage as denoise_stage
from denoiser_service.rank.acceleration.session import Session, open_session
from denoiser_service.rank.stage import DenoiseStage
from services.model_ports.forwards import Branches, each_branch
from tests.conformance.gallery import Gallery
from tests.conformance.references import Reference, guidance, references
from tests.conformance.sampling import every_model_with
from tests.conformance.split_stages import Split
from triptych.domain.cache_statistics import BranchDecision
from triptych.domain.element_type import ElementType
from triptych.domain.generation import GenerationParameters

STEPS = 10
CACHES: dict[str, dict[str, Any]] = {
    "tea_cache": {
        "kind": "tea_cache",
        "coefficients": [0.0, 0.0, 0.0, 1.0, 0.0],
        "rel_l1_thresh": 0.9,
    },
    "cache_dit": {
        "kind": "cache_dit",
        "max_warmup_steps": 2,
        "residual_diff_threshold": 0.9,
        "taylorseer_order": 1,
    },
    "mask": {
        "kind": "cache_dit",
        "max_warmup_steps": 2,
        "scm_mask_policy": "fast",
        "scm_policy": "static",
    },
}


@pytest.fixture
def split(gallery: Gallery, reference: Reference) -> Split:
    return gallery.split(reference, ElementType.FLOAT32)


@dataclass
class OneBranchPerRank:
    """Gives every branch caches of its own and forwards of its own, as ranks would."""

    model: Any
    asked: tuple[Any, ...]
    last_step: bool = False
    decisions: list[BranchDecision] = field(default_factory=list)
    ranks: dict[str, Session] = field(default_factory=dict)

    def run(self, transformer: nn.Module, branches: Branches, /, *args: Any, **inputs: Any) -> Any:
        names = each_branch(branches)
        outputs = []
        for row, name in enumerate(names):
            rank = self.ranks.setdefault(name, open_session(self.model, *self.asked))
            rank.last_step = self.last_step
            own_args = [row_of(each, row, len(names)) for each in args]
            own_inputs = {key: row_of(each, row, len(names)) for key, each in inputs.items()}
            outputs.append(rank.run(transformer, name, *own_args, **own_inputs))
            self.decisions += rank.decisions
            rank.decisions.clear()
        if len(names) == 1:
            return outputs[0]
        rows = [row for (output,) in outputs for row in output]
        return (torch.stack(rows) if isinstance(outputs[0][0], torch.Tensor) else rows,)


def row_of(value: Any, row: int, rows: int) -> Any:
    batch = isinstance(value, (torch.Tensor, list)) and len(value) == rows
    return value[row : row + 1] if rows > 1 and batch else value


def drawn(
    split: Split, parameters: GenerationParameters
) -> tuple[torch.Tensor, dict[str, list[BranchDecision]]]:
    request = split.encoded(parameters)
    stage = DenoiseStage(split.denoiser, split.store)
    by_branch: dict[str, list[BranchDecision]] = {}
    for _ in range(stage.prepare(request).total_steps):
        for each in stage.step(request.request_id).decisions:
            by_branch.setdefault(each.branch, []).append(each)
    return split.decoded(parameters, stage.finish(request.request_id)).latents, by_branch


def on_ranks(
    split: Split, parameters: GenerationParameters
) -> tuple[torch.Tensor, dict[str, list[BranchDecision]]]:
    def open_ranks(model: Any, *asked: Any) -> OneBranchPerRank:
        return OneBranchPerRank(model, asked)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(denoise_stage, "open_session", open_ranks)
        return drawn(split, parameters)


def check_alike(
    ours: tuple[torch.Tensor, dict[str, list[BranchDecision]]],
    others: tuple[torch.Tensor, dict[str, list[BranchDecision]]],
) -> None:
    (latents, decisions), (other_latents, other_decisions) = ours, others
    for branch, own in decisions.items():
        pairs = list(zip(own, other_decisions[branch], strict=True))
        assert all(one.reused == other.reused for one, other in pairs)
        # Rows of one forward and forwards of one row round otherwise, and random weights make more
        # of it from step to step: 1e-7 in the first became up to 2e-4 in the last.
        assert all(
            one.signal == other.signal or one.signal == pytest.approx(other.signal, rel=1e-3)
            for one, other in pairs
        )
    assert torch.allclose(latents, other_latents, rtol=1e-3, atol=1e-3)


def guided(split: Split, reference: Reference, scale: float, **asked: Any) -> GenerationParameters:
    limits = split.denoiser.loaded.model.capabilities
    fields = {**reference.small, "steps": STEPS, **guidance(limits, scale), **asked}
    if reference.model.startswith("wan"):
        video = {"kind": "video", "num_frames": 5, "low_noise_guidance_scale": scale}
        fields["options"] = video
    return split.parameters(**fields)


@every_model_with("name", {name: name for name in CACHES}, always=("tea_cache", "cache_dit"))
def test_a_branch_decides_alike_without_guidance_beside_the_others_and_on_a_rank_of_its_own(
    split: Split, reference: Reference, name: str
) -> None:
    off = split.denoiser.loaded.model.capabilities.guidance_off_scale
    # So little guidance that the latents, which decisions are made on, are those without.
    parameters = guided(split, reference, off + 1e-5, cache=CACHES[name])
    together = drawn(split, parameters)
    assert len(together[1]) > 1
    alone = drawn(split, guided(split, reference, off, cache=CACHES[name]))
    check_alike(on_ranks(split, parameters), together)
    check_alike(alone, together)
    if name != "cache_dit":  # Random weights may change too much from step to step for it.
        assert any(each.reused for each in alone[1]["cond"])


def of(*models: str) -> list[Reference]:
    return [each for each in references() if each.model in models]


@pytest.mark.parametrize(
    "reference",
    of("stable-diffusion-3.5-medium", "z-image-turbo"),
    ids=lambda reference: reference.model,
)
@pytest.mark.parametrize(
    ("kind", "threshold"),
    [("tea_cache", "rel_l1_thresh"), ("cache_dit", "residual_diff_threshold")],
)
def test_branches_in_one_forward_go_different_ways(
    split: Split, reference: Reference, kind: str, threshold: str
) -> None:
    def decided(value: float) -> tuple[torch.Tensor, dict[str, list[BranchDecision]]]:
        return run(
            split,
            guided(
                split,
                reference,
                4.0,
                cache={**CACHES[kind], threshold: value},
                # Of another length than the prompt: in Z-Image's forward a row is filled up.
                negative_prompt="grey " * 40,
            ),
        )

    run = drawn
    _, computed = decided(1e-9)
    # Between what both branches change by in one of the steps, which one of them reuses then.
    changes = zip(computed["cond"], computed["uncond"], strict=True)
    between = min(
        (one.signal + other.signal) / 2 for one, other in changes if one.signal and other.signal
    )
    together = decided(between)
    pairs = zip(together[1]["cond"], together[1]["uncond"], strict=True)
    assert any(one.reused != other.reused for one, other in pairs)
    run = on_ranks
    check_alike(decided(between), together)


@pytest.mark.parametrize("reference", of("bagel-7b-mot"), ids=["bagel-7b-mot"])
def test_branches_that_guide_at_some_noise_levels_count_their_own_forwards(
    split: Split, reference: Reference
) -> None:
    interval = {"guidance_interval_start": 0.5, "guidance_interval_end": 0.95}
    parameters = guided(
        split,
        reference,
        4.0,
        images=1,
        options={"kind": "bagel", **interval},
        cache={**CACHES["cache_dit"], "residual_diff_threshold": 1.0},
    )
    together = drawn(split, parameters)
    check_alike(on_ranks(split, parameters), together)
    sequences = {
        branch: "".join("CR"[each.reused] for each in decisions)
        for branch, decisions in together[1].items()
    }
    # Two to warm up, then three reused in a row at most: from whichever step each one begins.
    guided_only = "CCRRRC"
    assert sequences == {
        "cond": "CCRRRCRRRC",
        "without_text": guided_only,
        "without_image": guided_only,
    }
