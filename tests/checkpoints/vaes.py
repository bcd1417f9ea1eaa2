"""Autoencoders with the published factors and latent statistics, and a few channels inside."""

from typing import Any

from diffusers import AutoencoderKL, AutoencoderKLQwenImage, AutoencoderKLWan

LATENT_CHANNELS = 16

_VIDEO_SIZES: dict[str, Any] = {
    "base_dim": 6,
    "dim_mult": [1, 2, 2, 2],
    "num_res_blocks": 1,
    "temperal_downsample": [False, True, True],
    "z_dim": LATENT_CHANNELS,
}


def flux_vae() -> AutoencoderKL:
    """FLUX.1's image autoencoder: 8 pixels per latent."""
    return _image_vae(scaling_factor=0.3611, shift_factor=0.1159)


def sd3_vae() -> AutoencoderKL:
    """Stable Diffusion 3's image autoencoder: 8 pixels per latent."""
    return _image_vae(scaling_factor=1.5305, shift_factor=0.0609)


def qwen_image_vae(channels: int = 3) -> AutoencoderKLQwenImage:
    """Qwen-Image's autoencoder of single frames, with its published latent statistics.

    Args:
        channels: of a picture; 4 where layers have an alpha channel.
    """
    return AutoencoderKLQwenImage(**_VIDEO_SIZES, input_channels=channels)


def wan_vae() -> AutoencoderKLWan:
    """Wan's video autoencoder: 8 pixels and 4 frames per latent, published latent statistics."""
    return AutoencoderKLWan(**_VIDEO_SIZES)


def _image_vae(*, scaling_factor: float, shift_factor: float) -> AutoencoderKL:
    levels = 4
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=(8, 16, 16, 16),
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=LATENT_CHANNELS,
        sample_size=1024,
        scaling_factor=scaling_factor,
        shift_factor=shift_factor,
        use_quant_conv=False,
        use_post_quant_conv=False,
        force_upcast=True,
    )
