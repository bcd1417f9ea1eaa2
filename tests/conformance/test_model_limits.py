"""What every model refuses, and that it does all that it does not refuse."""

from collections.abc import Callable, Mapping

import pytest
import torch

from services.model_ports.encoding import encode_all
from services.model_ports.stages import Tensors
from tests.conformance.gallery import Gallery
from tests.conformance.pictures import pictures_of
from tests.conformance.references import Reference, guidance, references
from tests.conformance.split_stages import Split
from triptych.domain.element_type import ElementType
from triptych.domain.errors import InvalidRequest, TriptychError
from triptych.domain.generation import GenerationParameters

# What models say of themselves differs even where their code does not.
pytestmark = pytest.mark.parametrize(
    "reference", references(), ids=lambda reference: reference.model
)


@pytest.fixture
def split(gallery: Gallery, reference: Reference) -> Split:
    return gallery.split(reference, ElementType.FLOAT32)


@pytest.fixture
def parameters(split: Split, reference: Reference) -> GenerationParameters:
    return split.parameters(**reference.small)


def encoded(split: Split, asked: Mapping[str, object], **changed: object) -> Tensors:
    parameters = split.parameters(**{**asked, **changed})
    return encode_all(split.encoder.model.encodings(parameters, pictures_of(parameters)))


def accepts(split: Split, asked: Mapping[str, object], digits: int) -> bool:
    try:
        encoded(split, asked, prompt="7" * digits)
    except InvalidRequest:
        return False
    return True


def test_a_prompt_with_too_many_tokens_is_refused_before_anything_is_encoded(
    split: Split, reference: Reference
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("a text encoder ran")

    limits = split.encoder.loaded.model.capabilities
    fields = ["prompt", *(["negative_prompt"] if limits.supports_negative_prompt else [])]
    refusal = rf"has \d+ tokens; allowed are at most {limits.max_prompt_tokens}$"
    modules = split.encoder.model.components.values()
    hooks = [module.register_forward_pre_hook(fail) for module in modules]
    try:
        for field in fields:
            changed = {**guidance(limits, 4.0), field: "7" * (limits.max_prompt_tokens + 400)}
            with pytest.raises(InvalidRequest, match=f"^{field}: {refusal}"):
                encoded(split, reference.small, **changed)
    finally:
        for hook in hooks:
            hook.remove()


def test_the_longest_prompt_that_is_not_refused_is_read_to_its_end(
    split: Split, reference: Reference
) -> None:
    asked = reference.small
    limit = split.encoder.loaded.model.capabilities.max_prompt_tokens
    # One token per digit; fewer digits than tokens, because of what stands around them.
    longest = max(
        length for length in (limit - spare for spare in range(24)) if accepts(split, asked, length)
    )
    with pytest.raises(InvalidRequest, match=f"has {limit + 1} tokens"):
        encoded(split, asked, prompt="7" * (longest + 1))
    whole, other = (encoded(split, asked, prompt="7" * (longest - 1) + last) for last in "78")
    assert not torch.equal(whole["prompt_embeds"], other["prompt_embeds"])


def test_the_fewest_steps_draw_a_picture_and_fewer_are_refused(
    split: Split, reference: Reference
) -> None:
    fewest = split.denoiser.loaded.model.capabilities.min_steps
    drawn = split.draw(split.parameters(**{**reference.small, "steps": fewest}))
    assert torch.isfinite(drawn.latents).all()
    with pytest.raises(InvalidRequest, match=f"steps: is {fewest - 1}; allowed are {fewest} to"):
        split.parameters(**{**reference.small, "steps": fewest - 1})


WRONG: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "batched": lambda tensor: torch.cat([tensor, tensor]),
    "without a row": lambda tensor: tensor[0],
    "wider": lambda tensor: torch.cat([tensor, tensor], dim=-1),
    "empty": lambda tensor: tensor[:, :0],
    "another type": lambda tensor: tensor.bfloat16(),
}


@pytest.mark.parametrize("kind", WRONG)
def test_conditioning_that_this_model_does_not_read_is_refused(
    split: Split, parameters: GenerationParameters, kind: str
) -> None:
    right = split.conditioned(parameters)
    split.denoiser.model.prepare(parameters, right)
    for name, tensor in right.items():
        with pytest.raises(TriptychError, match=f"^conditioning: {name} "):
            split.denoiser.model.prepare(parameters, {**right, name: WRONG[kind](tensor)})


def test_conditioning_that_lacks_a_tensor_or_has_another_is_refused(
    split: Split, parameters: GenerationParameters
) -> None:
    right = split.conditioned(parameters)
    wrong: list[Tensors] = [{**right, "more": torch.zeros(1)}]
    wrong += [{name: right[name] for name in right if name != lacking} for lacking in right]
    for each in wrong:
        with pytest.raises(TriptychError, match=r"^conditioning: holds .*; this request needs "):
            split.denoiser.model.prepare(parameters, each)


def test_latents_that_do_not_go_with_the_request_are_refused(
    split: Split, parameters: GenerationParameters
) -> None:
    latents = split.denoise(parameters, split.conditioned(parameters))["latents"]
    wrong: list[Tensors] = [
        {},
        {"latents": latents[..., :-2]},
        {"latents": latents[:, :-1]},
        {"latents": torch.cat([latents, latents])},
        {"latents": latents, "more": torch.zeros(1)},
    ]
    for each in wrong:
        with pytest.raises(
            TriptychError, match=r"^latents: are .*; this request needs latents of "
        ):
            split.vae.model.decode(parameters, each)


def test_a_picture_that_is_not_finite_is_an_error_rather_than_black(
    split: Split, parameters: GenerationParameters
) -> None:
    latents = split.denoise(parameters, split.conditioned(parameters))["latents"].clone()
    latents.view(-1)[-1] = torch.nan
    with pytest.raises(TriptychError, match="picture is not finite"):
        split.vae.model.decode(parameters, {"latents": latents})
