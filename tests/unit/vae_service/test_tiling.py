from collections.abc import Mapping
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderKLQwenImage
from PIL import Image

from services.domain.tiling import Tiling
from services.model_ports.stages import Tensors, VaeModel
from tests.checkpoints.vaes import flux_vae, qwen_image_vae, wan_vae
from triptych.domain.errors import ConfigurationError
from triptych.domain.generation import GenerationParameters
from vae_service.tiling import set_pieces

SIDE = 160


class Holder:
    """A VAE that is nothing but its module."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.components: Mapping[str, torch.nn.Module] = {"vae": module}

    def decode(self, parameters: GenerationParameters, latents: Tensors) -> list[Image.Image]:
        raise AssertionError("what is asked is the module")

    def reconstruct(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        raise AssertionError("what is asked is the module")


def tiled(module: torch.nn.Module, tiling: Tiling) -> int:
    vae: VaeModel = Holder(module)
    return set_pieces(vae, tiling, slicing=False)


@pytest.mark.parametrize("make", [flux_vae, qwen_image_vae, wan_vae])
@pytest.mark.parametrize("overlap", [None, 0.125, 0.25, 0.375, 0.5])
@torch.no_grad()
def test_tiles_of_every_overlap_make_up_a_picture_of_the_right_size(
    make: Any, overlap: float | None
) -> None:
    vae = make().eval()
    assert tiled(vae, Tiling(64, overlap)) == 64
    seen: set[tuple[int, ...]] = set()
    vae.decoder.register_forward_pre_hook(lambda _, given: seen.add(given[0].shape[-2:]))
    frames = () if isinstance(vae, AutoencoderKL) else (1,)
    (picture,) = vae.decode(torch.zeros(1, 16, *frames, SIDE // 8, SIDE // 8), return_dict=False)
    assert picture.shape[-2:] == (SIDE, SIDE)
    assert max(seen) == (8, 8)
    assert vae.encode(picture).latent_dist.mean.shape[-2:] == (SIDE // 8, SIDE // 8)


def test_tiles_are_as_large_as_the_vae_has_them_unless_told() -> None:
    assert tiled(flux_vae(), Tiling()) == 1024
    assert tiled(qwen_image_vae(), Tiling()) == 256
    vae: AutoencoderKLQwenImage = qwen_image_vae()
    tiled(vae, Tiling(512))
    assert (vae.tile_sample_stride_height, vae.tile_sample_stride_width) == (384, 384)


@pytest.mark.parametrize(
    ("tiling", "says"),
    [
        (Tiling(100), r"tile_size: is 100; .* 0\.25 of a tile, allowed are multiples of 32"),
        (Tiling(96, 0.125), r"tile_size: is 96; .* 0\.125 of a tile, allowed are multiples of 64"),
    ],
)
def test_tiles_that_would_leave_gaps_are_refused(tiling: Tiling, says: str) -> None:
    for make in (flux_vae, qwen_image_vae, wan_vae):
        with pytest.raises(ConfigurationError, match=says):
            tiled(make(), tiling)


def test_a_vae_whose_own_tiles_are_not_square_asks_for_a_size() -> None:
    vae = AutoencoderKL(norm_num_groups=1, block_out_channels=(1,), sample_size=[32, 64])
    with pytest.raises(ConfigurationError, match=r"tile_size: is \[32, 64\]"):
        tiled(vae, Tiling())
    assert tiled(vae, Tiling(64)) == 64


def test_a_vae_without_tiles_refuses_them() -> None:
    with pytest.raises(ConfigurationError, match="tiling: is true; Linear has no tiles, leave it"):
        tiled(torch.nn.Linear(1, 1), Tiling())


def test_nothing_is_changed_unless_told() -> None:
    vae = qwen_image_vae()
    assert set_pieces(Holder(vae), None, slicing=False) == 0
    assert not vae.use_tiling
    assert not vae.use_slicing
