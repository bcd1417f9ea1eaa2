"""What every model shows of a request while it is in the loop."""

import io
from typing import Any

import pytest
import torch
from PIL import Image

from denoiser_service.rank.stage import DenoiseStage
from services.domain.stages import DrawPreviewRequest
from services.domain.tensor_ref import TensorRef
from tests.conformance.gallery import Gallery
from tests.conformance.references import Drawn, Reference, references
from tests.conformance.split_stages import TENANT, Split
from triptych.domain.element_type import ElementType
from triptych.domain.generation import GenerationParameters
from vae_service.preview_stage import PreviewStage

STEPS = 4
TEA_CACHE = {
    "kind": "tea_cache",
    "coefficients": [0.0, 0.0, 0.0, 1.0, 0.0],
    "rel_l1_thresh": 1.5,
    "compute_last_step": False,
}


@pytest.fixture
def split(gallery: Gallery, reference: Reference) -> Split:
    return gallery.split(reference, ElementType.FLOAT32)


def asked(split: Split, reference: Reference, **changes: Any) -> GenerationParameters:
    return split.parameters(**{**reference.small, "steps": STEPS, **changes})


def taken(split: Split, ref: TensorRef) -> torch.Tensor:
    with split.store.get(ref, tenant=TENANT, request_id=ref.request_id) as tensors:
        return tensors["latents"].clone()


def drawn(split: Split, parameters: GenerationParameters) -> tuple[Drawn, list[torch.Tensor]]:
    """The result, and what was to be seen after each step."""
    request = split.encoded(parameters)
    stage = DenoiseStage(split.denoiser, split.store)
    previews = []
    for _ in range(stage.prepare(request).total_steps):
        ref = stage.step(request.request_id).preview
        if ref is not None:
            previews.append(taken(split, ref))
    return split.decoded(parameters, stage.finish(request.request_id)), previews


def seen(parameters: GenerationParameters, latents: torch.Tensor) -> torch.Tensor:
    """The part of the latents that previews show: of a video its middle frame."""
    if parameters.options is None or parameters.options.kind != "video":
        return latents
    middle = latents.shape[2] // 2
    return latents[:, :, middle : middle + 1]


@pytest.mark.parametrize(
    ("dtype", "cache"),
    [
        (ElementType.FLOAT32, {"kind": "none"}),
        (ElementType.FLOAT32, TEA_CACHE),
        pytest.param(ElementType.BFLOAT16, {"kind": "none"}, marks=pytest.mark.exhaustive),
    ],
    ids=["float32", "cached", "bfloat16"],
)
def test_what_the_last_step_is_heading_for_is_where_it_arrives(
    gallery: Gallery, reference: Reference, dtype: ElementType, cache: dict[str, Any]
) -> None:
    split = gallery.split(reference, dtype)
    parameters = asked(split, reference, preview_every_steps=1, cache=cache)
    result, previews = drawn(split, parameters)
    assert len(previews) == STEPS
    assert torch.equal(previews[-1], seen(parameters, result.latents))
    assert not torch.equal(previews[0], previews[-1])


def test_previews_change_no_bit_of_the_result(split: Split, reference: Reference) -> None:
    plain, nothing = drawn(split, asked(split, reference))
    shown, previews = drawn(split, asked(split, reference, preview_every_steps=2))
    assert (len(nothing), len(previews)) == (0, 2)
    assert torch.equal(plain.latents, shown.latents)
    assert plain.pixels == shown.pixels


def test_requests_that_take_turns_show_what_they_would_alone(
    split: Split, reference: Reference
) -> None:
    many = [
        asked(split, reference, preview_every_steps=every, seed=every, cache=cache)
        for every, cache in ((1, {"kind": "none"}), (2, TEA_CACHE))
    ]
    stage = DenoiseStage(split.denoiser, split.store)
    requests = [split.encoded(parameters) for parameters in many]
    for request in requests:
        stage.prepare(request)
    together: list[list[torch.Tensor]] = [[] for _ in many]
    for _ in range(STEPS):
        for number, request in enumerate(requests):
            ref = stage.step(request.request_id).preview
            if ref is not None:
                together[number].append(taken(split, ref))
    for number, request in enumerate(requests):
        split.decoded(many[number], stage.finish(request.request_id))
        _, alone = drawn(split, many[number])
        assert len(alone) == len(together[number])
        assert all(map(torch.equal, alone, together[number]))


def test_a_preview_is_a_quarter_of_the_picture_on_each_side(
    split: Split, reference: Reference
) -> None:
    parameters = asked(split, reference, preview_every_steps=STEPS)
    request = split.encoded(parameters)
    stage = DenoiseStage(split.denoiser, split.store)
    stage.prepare(request)
    *_, latents = [stage.step(request.request_id).preview for _ in range(STEPS)]
    assert latents is not None
    previews = PreviewStage(split.vae, split.store)
    previews.fit()
    before = split.store.stats().stored_count
    picture = previews.draw(DrawPreviewRequest(request.request_id, TENANT, parameters, latents))
    assert split.store.stats().stored_count == before - 1
    options = parameters.options
    layers = options.layers if options is not None and options.kind == "layered" else 1
    assert layers is not None
    size = (layers * parameters.width // 4, parameters.height // 4)
    assert Image.open(io.BytesIO(picture.data)).size == (picture.width, picture.height) == size
    stage.abort(request.request_id)
    split.store.release_request(TENANT, request.request_id)


def test_what_wans_loop_is_heading_for_is_what_its_scheduler_predicts(gallery: Gallery) -> None:
    (reference,) = (each for each in references() if each.model.startswith("wan"))
    split = gallery.split(reference, ElementType.FLOAT32)
    denoiser = split.denoiser.model
    parameters = asked(split, reference)
    state: Any = denoiser.prepare(parameters, split.conditioned(parameters))
    for _ in range(STEPS):
        denoiser.step(state)
        predicted = state.schedule._scheduler.model_outputs[-1]
        assert torch.equal(state.schedule.destination, predicted)
