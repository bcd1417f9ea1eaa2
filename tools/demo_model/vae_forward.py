"""The autoencoder's passes for single frames, as 2-D convolutions.

A lone frame only meets the last temporal tap of each causal 3-D kernel: the rest multiplies
zero padding. Using that tap alone is the identical function at a third of the cost.
"""

import torch
from diffusers import AutoencoderKLQwenImage
from diffusers.models.autoencoders.autoencoder_kl_qwenimage import (
    QwenImageAttentionBlock,
    QwenImageCausalConv3d,
    QwenImageMidBlock,
    QwenImageResample,
    QwenImageResidualBlock,
    QwenImageRMS_norm,
)
from torch import Tensor
from torch.nn import functional


def encode(vae: AutoencoderKLQwenImage, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Encodes pictures.

    Args:
        vae: An `AutoencoderKLQwenImage`.
        pictures: Values in -1..1, [batch, 3, height, width].

    Returns:
        Posterior mean and log-variance, each [batch, 16, height / 8, width / 8].
    """
    encoder = vae.encoder
    hidden = _convolve(encoder.conv_in, pictures)
    for layer in encoder.down_blocks:
        hidden = _resample(layer, hidden) if hasattr(layer, "mode") else _residual(layer, hidden)
    hidden = _middle(encoder.mid_block, hidden)
    hidden = _convolve(encoder.conv_out, functional.silu(_norm(encoder.norm_out, hidden)))
    mean, log_variance = _convolve(vae.quant_conv, hidden).chunk(2, dim=1)
    return mean, log_variance.clamp(-30.0, 20.0)


def decode(vae: AutoencoderKLQwenImage, latents: Tensor) -> Tensor:
    """Decodes latents [batch, 16, h, w] to pictures [batch, 3, 8 h, 8 w], roughly in -1..1."""
    decoder = vae.decoder
    hidden = _convolve(decoder.conv_in, _convolve(vae.post_quant_conv, latents))
    hidden = _middle(decoder.mid_block, hidden)
    for block in decoder.up_blocks:
        for residual in block.resnets:
            hidden = _residual(residual, hidden)
        for resample in block.upsamplers or ():
            hidden = _resample(resample, hidden)
    return _convolve(decoder.conv_out, functional.silu(_norm(decoder.norm_out, hidden)))


def _convolve(layer: QwenImageCausalConv3d, hidden: Tensor) -> Tensor:
    weight = layer.weight[:, :, -1]
    return functional.conv2d(hidden, weight, layer.bias, padding=weight.shape[-1] // 2)


def _norm(layer: QwenImageRMS_norm, hidden: Tensor) -> Tensor:
    unit = functional.normalize(hidden.float(), dim=1).to(hidden.dtype)
    normed: Tensor = unit * layer.scale * layer.gamma.view(-1, 1, 1)
    return normed


def _residual(block: QwenImageResidualBlock, hidden: Tensor) -> Tensor:
    shortcut = block.conv_shortcut
    skip = _convolve(shortcut, hidden) if hasattr(shortcut, "weight") else hidden
    hidden = _convolve(block.conv1, functional.silu(_norm(block.norm1, hidden)))
    hidden = _convolve(block.conv2, functional.silu(_norm(block.norm2, hidden)))
    return hidden + skip


def _middle(block: QwenImageMidBlock, hidden: Tensor) -> Tensor:
    hidden = _residual(block.resnets[0], hidden)
    for attention, residual in zip(block.attentions, block.resnets[1:], strict=True):
        hidden = _residual(residual, _attend(attention, hidden))
    return hidden


def _attend(block: QwenImageAttentionBlock, hidden: Tensor) -> Tensor:
    joint = block.to_qkv(_norm(block.norm, hidden)).flatten(2).transpose(1, 2)
    query, key, value = joint.chunk(3, dim=-1)
    scores = (query @ key.transpose(1, 2)).float() * query.shape[-1] ** -0.5
    mixed = torch.softmax(scores, dim=-1).to(value.dtype) @ value
    output: Tensor = block.proj(mixed.transpose(1, 2).reshape(hidden.shape)) + hidden
    return output


def _resample(layer: QwenImageResample, hidden: Tensor) -> Tensor:
    """Doubles or halves both sides; the layer's temporal convolution has nothing to do here."""
    if layer.mode.startswith("upsample"):
        hidden = functional.interpolate(hidden, scale_factor=2.0, mode="nearest-exact")
    output: Tensor = layer.resample[-1](
        functional.pad(hidden, (0, 1, 0, 1)) if layer.mode.startswith("down") else hidden
    )
    return output
