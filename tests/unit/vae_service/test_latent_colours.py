import pytest
import torch
from torch.nn import functional

from triptych.domain.errors import InvalidRequest, TriptychError
from vae_service.latent_colours import PIXELS_PER_LATENT, LatentColours, sample_pictures

SCALE = 8
MIXING = torch.tensor(
    [[0.5, 0.2, 0.0, 0.1], [0.0, 0.4, 0.3, -0.2], [0.3, 0.0, 0.5, 0.0], [0.0, 0.2, -0.1, 0.6]]
)


def linear_vae(pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents that are mixed mean colours, and pictures in blocks of those colours."""
    colours = functional.avg_pool2d(pictures, SCALE)
    latents = torch.einsum("kc,bchw->bkhw", MIXING, colours) + 0.25
    return latents, functional.interpolate(colours, scale_factor=SCALE)


def fitted(channels: int = 3) -> LatentColours:
    latents, pixels = linear_vae(sample_pictures())
    return LatentColours.fit(latents, pixels[:, :channels])


def pixels_of(colours: LatentColours, latents: torch.Tensor) -> torch.Tensor:
    picture = colours.picture(latents)
    data = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return data.view(picture.height, picture.width, 3).permute(2, 0, 1) / 127.5 - 1


def random_latents() -> torch.Tensor:
    return torch.randn(1, 4, 5, 7, generator=torch.Generator().manual_seed(3))


def test_what_a_linear_vae_draws_is_found_almost_exactly() -> None:
    latents, pixels = linear_vae(sample_pictures()[:1].flip(3).transpose(2, 3))
    found = pixels_of(fitted(), latents)
    expected = functional.avg_pool2d(pixels, SCALE // PIXELS_PER_LATENT)[0, :3]
    assert found.shape == expected.shape
    # The ridge pulls a little towards grey: 0.0195 on average and 0.109 at most were measured.
    assert (found - expected).abs().mean() < 0.03
    assert (found - expected).abs().max() < 0.2


def test_the_same_vae_gives_the_same_picture_again() -> None:
    latents = random_latents()
    assert torch.equal(pixels_of(fitted(), latents), pixels_of(fitted(), latents))
    assert torch.equal(sample_pictures(), sample_pictures())


def test_frames_and_layers_come_side_by_side() -> None:
    latents = random_latents()
    colours = fitted()
    both = torch.stack([latents, latents.flip(3)], dim=2)
    expected = [pixels_of(colours, each) for each in (latents, latents.flip(3))]
    assert torch.equal(pixels_of(colours, both), torch.cat(expected, dim=2))


def test_what_is_transparent_is_seen_before_grey() -> None:
    colours = fitted(channels=4)
    opaque = torch.tensor([0.6, -0.6, 0.0, 1.0])
    for alpha, expected in ((1.0, opaque[:3]), (-1.0, torch.full((3,), 0.6))):
        shown = torch.cat([opaque[:3], torch.tensor([alpha])]).view(1, 4, 1, 1)
        latents = torch.einsum("kc,bchw->bkhw", MIXING, shown.expand(-1, -1, 4, 4)) + 0.25
        mean = pixels_of(colours, latents).mean(dim=(1, 2))
        assert torch.allclose(mean, expected, atol=0.12)


def test_samples_fill_the_range_in_every_channel_and_differ() -> None:
    samples = sample_pictures()
    assert samples.shape == (8, 4, 64, 64)
    for channel in range(4):
        assert samples[:, channel].min() < -0.9
        assert samples[:, channel].max() > 0.9
    assert len({each.numpy().tobytes() for each in samples}) == 8


@pytest.mark.parametrize(
    "shape", [(1, 5, 4, 4), (4, 4, 4), (2, 1, 4, 1, 4, 4), (64,), (), (1, 4, 0, 4)]
)
def test_latents_of_another_vae_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidRequest, match=r"latents: are .*; this VAE's have 4 channels"):
        fitted().picture(torch.zeros(shape))


def test_what_is_not_finite_is_an_error() -> None:
    latents, pixels = linear_vae(sample_pictures())
    with pytest.raises(TriptychError, match="samples is not finite"):
        LatentColours.fit(latents, pixels * torch.nan)
    with pytest.raises(TriptychError, match="picture is not finite"):
        fitted().picture(torch.full((1, 4, 2, 2), torch.nan))
