"""BAGEL's networks against published ones with the same weights, and its formulas by hand."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import Qwen2Config, Qwen3Config, Qwen3Model, SiglipVisionConfig, SiglipVisionModel

from services.model_families.bagel import guidance as guiding
from services.model_families.bagel.context import Context
from services.model_families.bagel.encoder import VisionTower
from services.model_families.bagel.flow_transformer import TimeEmbedding
from services.model_families.bagel.guidance import Guidance
from services.model_families.bagel.mixture_of_transformers import MixtureOfTransformers
from services.model_families.bagel.pictures import (
    grid_positions,
    patches_of,
    picture_of_patches,
    vae_pixels,
    vision_pixels,
)
from services.model_families.bagel.spec import VAE_FIT, VISION_FIT
from services.model_ports.forwards import CONDITIONAL
from tests.checkpoints.directory import draw_weights
from triptych.domain.image_fit import ImageFit

SIZES = {
    "vocab_size": 8,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 50_000.0},
}


def tokens(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(1, count, 32, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def qwen() -> Qwen3Model:
    """Qwen2 with normalised heads, as transformers has it: Qwen3 with biases."""
    model = Qwen3Model(Qwen3Config(**SIZES, head_dim=8, attention_bias=True)).eval()
    draw_weights(model, "qwen")
    for layer in model.layers:
        torch.nn.init.zeros_(layer.self_attn.o_proj.bias)
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def mixture(qwen: Qwen3Model) -> MixtureOfTransformers:
    """Both experts have the weights of the published layers."""
    mixture = MixtureOfTransformers(Qwen2Config(**SIZES)).eval()
    for layer, published in zip(mixture.layers, qwen.layers, strict=True):
        weights = {
            name.removeprefix("self_attn."): weight
            for name, weight in published.state_dict().items()
            if not name.endswith("o_proj.bias")
        }
        layer.understanding.load_state_dict(weights)
        layer.generation.load_state_dict(weights)
    mixture.norm.load_state_dict(qwen.norm.state_dict())
    return mixture.requires_grad_(False)


def flat(context: Context, layers: int = 3) -> list[torch.Tensor]:
    return [
        torch.cat([segment[layer][which] for segment in context.segments], dim=2)
        for layer in range(layers)
        for which in (0, 1)
    ]


def assert_close(ones: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> None:
    for one, other in zip(ones, others, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_reading_text_gives_the_keys_and_values_of_the_published_model(
    mixture: MixtureOfTransformers, qwen: Qwen3Model
) -> None:
    text = tokens(9)
    published = qwen(inputs_embeds=text, use_cache=True).past_key_values
    pairs = [each for layer in published.layers for each in (layer.keys, layer.values)]
    assert_close(flat(mixture.read_text(Context(), text)), pairs)


@pytest.mark.parametrize("understood", [0, 1, 4, 7])
def test_two_experts_with_equal_weights_are_one_published_model(
    mixture: MixtureOfTransformers, qwen: Qwen3Model, understood: int
) -> None:
    picture = tokens(7)
    drawn = mixture.draw_picture(Context(), picture[:, :understood], picture[:, understood:])
    # All attend to all, from one position.
    published = qwen(
        inputs_embeds=picture,
        attention_mask=torch.zeros(1, 1, 7, 7),
        position_ids=torch.zeros(1, 7, dtype=torch.int64),
    ).last_hidden_state
    assert_close([drawn], [published[:, understood:]])


def test_a_picture_after_text_sees_what_one_forward_over_both_would_see(
    mixture: MixtureOfTransformers, qwen: Qwen3Model
) -> None:
    text, picture = tokens(5, seed=1), tokens(6, seed=2)
    context = mixture.read_text(Context(), text)
    drawn = mixture.draw_picture(context, picture[:, :2], picture[:, 2:])
    mask = torch.zeros(11, 11)
    mask[:5] = torch.full((5, 11), -torch.inf).triu(1)
    published = qwen(
        inputs_embeds=torch.cat([text, picture], dim=1),
        attention_mask=mask[None, None],
        position_ids=torch.tensor([[0, 1, 2, 3, 4, 5, 5, 5, 5, 5, 5]]),
    ).last_hidden_state
    assert_close([drawn], [published[:, 7:]])


def test_text_read_in_two_parts_is_read_as_in_one(mixture: MixtureOfTransformers) -> None:
    text = tokens(9)
    parts = mixture.read_text(mixture.read_text(Context(), text[:, :4]), text[:, 4:])
    whole = mixture.read_text(Context(), text)
    assert parts.position == whole.position == 9
    assert parts.length == whole.length == 9
    assert_close(flat(parts), flat(whole))


def test_a_picture_takes_one_position_and_its_context_is_shared(
    mixture: MixtureOfTransformers,
) -> None:
    start = mixture.read_text(Context(), tokens(3))
    pictured = mixture.read_picture(start, tokens(2), tokens(8))
    assert (start.position, start.length) == (3, 3)
    assert (pictured.position, pictured.length) == (4, 13)
    assert pictured.segments[0] is start.segments[0]


def test_each_expert_has_its_own_tokens(mixture: MixtureOfTransformers) -> None:
    understood, generated = tokens(3, seed=3), tokens(4, seed=4)
    text, picture = (
        mixture.read_text(Context(), understood),
        mixture.draw_picture(Context(), understood, generated),
    )
    right = {name: each.clone() for name, each in mixture.state_dict().items()}
    try:
        for layer in mixture.layers:
            draw_weights(layer.generation, "other weights")
        assert_close(flat(mixture.read_text(Context(), understood)), flat(text))
        changed = mixture.draw_picture(Context(), understood, generated)
        assert not torch.allclose(changed, picture, atol=0.1)
    finally:
        mixture.load_state_dict(right)


def test_the_vision_tower_is_siglip_where_siglip_takes_the_size() -> None:
    config = SiglipVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=56,
        patch_size=14,
        vision_use_head=False,
    )
    published, tower = SiglipVisionModel(config).eval(), VisionTower(config, 16, max_side=4).eval()
    draw_weights(published, "siglip")
    weights = published.state_dict()
    patches = "embeddings.patch_embedding.weight"
    weights[patches] = weights[patches].permute(0, 2, 3, 1).flatten(1)
    tower.vit_model.load_state_dict(weights)
    for layer in (tower.connector.fc1, tower.connector.fc2):
        torch.nn.init.eye_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    tower.connector.activation_fn = torch.nn.Identity()
    torch.nn.init.constant_(tower.vit_pos_embed.pos_embed, 0.5)
    pixels = torch.randn(1, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        seen = published(pixels).last_hidden_state
        assert_close([tower(pixels)], [seen + 0.5])
        # A lower picture has the places of the upper rows.
        lower = tower(pixels[:, :, :28])
    assert lower.shape == (1, 8, 16)


def test_patches_have_their_channels_innermost_and_go_back_to_the_picture() -> None:
    picture = torch.arange(2 * 4 * 6).reshape(1, 2, 4, 6)
    patches = patches_of(picture, 2)
    assert patches.shape == (1, 6, 8)
    assert patches[0, 1].tolist() == [2, 26, 3, 27, 8, 32, 9, 33]
    assert torch.equal(picture_of_patches(patches, 2, 3, 2), picture)


def test_positions_count_through_the_rows_of_the_largest_grid() -> None:
    assert grid_positions(2, 3, 64).tolist() == [0, 1, 2, 64, 65, 66]


def test_noise_levels_are_embedded_as_cosines_and_sines() -> None:
    embedding = TimeEmbedding(256)
    torch.nn.init.eye_(embedding.mlp[0].weight)
    torch.nn.init.eye_(embedding.mlp[2].weight)
    for layer in (embedding.mlp[0], embedding.mlp[2]):
        torch.nn.init.zeros_(layer.bias)
    waves = 0.6 * 10_000 ** -(torch.arange(128) / 128)
    expected = torch.nn.functional.silu(torch.cat([waves.cos(), waves.sin()]))
    with torch.no_grad():
        assert_close([embedding(0.6)], [expected[None, None]])


def combined(
    guidance: Guidance,
    wanted: torch.Tensor,
    without_text: torch.Tensor | None,
    without_image: torch.Tensor | None,
) -> torch.Tensor:
    branches = {
        CONDITIONAL: wanted,
        guiding.WITHOUT_TEXT: without_text,
        guiding.WITHOUT_IMAGE: without_image,
    }
    return guidance.combine(
        {name: velocity for name, velocity in branches.items() if velocity is not None}
    )


WANTED, WITHOUT_TEXT, WITHOUT_IMAGE = (
    torch.randn(1, 5, 4, generator=torch.Generator().manual_seed(seed)) for seed in range(3)
)


def test_drawing_goes_from_the_velocity_without_the_prompt_and_keeps_the_length() -> None:
    guidance = Guidance(text_scale=4.0, image_scale=1.5, editing=False)
    assert guidance.needs_without_text
    assert not guidance.needs_without_image
    guided = combined(guidance, WANTED, WITHOUT_TEXT, None)
    # 4 in the difference, and 1.5 times what that adds: 1 + 3 * 1.5.
    direction = WITHOUT_TEXT + 5.5 * (WANTED - WITHOUT_TEXT)
    assert_close([guided], [direction * WANTED.norm() / direction.norm()])


def test_guidance_never_lengthens_and_shortens_only_what_is_longer() -> None:
    guidance = Guidance(text_scale=2.0, image_scale=1.0, editing=False)
    guided = combined(guidance, WANTED, 1.5 * WANTED, None)
    assert_close([guided], [0.5 * WANTED])


def test_editing_keeps_the_length_of_each_token_before_the_image_has_its_say() -> None:
    guidance = Guidance(text_scale=4.0, image_scale=1.5, editing=True)
    assert guidance.needs_without_text
    assert guidance.needs_without_image
    guided = combined(guidance, WANTED, WITHOUT_TEXT, WITHOUT_IMAGE)
    direction = WITHOUT_TEXT + 4.0 * (WANTED - WITHOUT_TEXT)
    lengths = WANTED.norm(dim=-1, keepdim=True) / direction.norm(dim=-1, keepdim=True)
    text = direction * lengths.clamp(max=1)
    assert (lengths > 1).any() or (lengths < 1).any()
    assert_close([guided], [WITHOUT_IMAGE + 1.5 * (text - WITHOUT_IMAGE)])


@pytest.mark.parametrize("editing", [False, True])
def test_a_scale_of_one_leaves_its_branch_out(editing: bool) -> None:
    guidance = Guidance(text_scale=1.0, image_scale=1.0, editing=editing)
    assert not guidance.needs_without_text
    assert not guidance.needs_without_image
    assert combined(guidance, WANTED, None, None) is WANTED


def test_the_images_scale_counts_only_where_the_prompts_does_as_published() -> None:
    guidance = Guidance(text_scale=1.0, image_scale=2.0, editing=True)
    assert not guidance.needs_without_image
    assert combined(guidance, WANTED, None, None) is WANTED
    assert Guidance(text_scale=1.1, image_scale=2.0, editing=True).needs_without_image


@pytest.mark.parametrize(
    ("size", "vae", "vision"),
    [
        ((1024, 1024), (1024, 1024), (980, 980)),
        ((120, 72), (848, 512), (854, 518)),
        ((700, 500), (720, 512), (714, 518)),
        ((3000, 2000), (1024, 688), (980, 658)),
        ((1600, 100), (1024, 64), (980, 56)),
        ((250, 4000), (64, 1024), (56, 980)),
    ],
)
def test_images_are_resized_as_published(
    size: tuple[int, int], vae: tuple[int, int], vision: tuple[int, int]
) -> None:
    image = Image.new("RGB", size)
    assert vae_pixels(image).shape == (1, 3, vae[1], vae[0])
    assert vision_pixels(image).shape == (1, 3, vision[1], vision[0])


@pytest.mark.parametrize("limits", [VAE_FIT, VISION_FIT])
@given(st.integers(1, 10_000), st.floats(1 / 16, 16))
def test_any_image_fits_the_grid_and_fits_it_at_once(
    limits: ImageFit, width: int, ratio: float
) -> None:
    size = limits.size(width, max(1, round(width * ratio)))
    assert max(size) <= limits.longest_edge
    assert all(edge > 0 and edge % limits.multiple == 0 for edge in size)
    if limits is VAE_FIT:
        assert limits.size(*size) == size


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_are_white(mode: str) -> None:
    image = Image.new("RGBA", (512, 512), (255, 0, 0, 0)).convert(mode)
    if mode == "P":
        image.info["transparency"] = image.getpixel((0, 0))
    assert torch.equal(vae_pixels(image), torch.ones(1, 3, 512, 512))


def test_pixels_are_scaled_to_minus_one_and_one_and_channels_come_first() -> None:
    pixels = np.zeros((512, 512, 3), np.uint8)
    pixels[:, :, 1] = 255
    made = vae_pixels(Image.fromarray(pixels))
    assert made.is_contiguous()
    assert made[0, :, 0, 0].tolist() == [-1.0, 1.0, -1.0]
