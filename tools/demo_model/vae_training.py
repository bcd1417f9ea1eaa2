"""Trains the autoencoder: first the whole of it, then the decoder against a fixed encoder."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLQwenImage
from torch import Tensor, nn

from tools.demo_model.captions import Mix
from tools.demo_model.latents import render_scenes
from tools.demo_model.masters import Masters
from tools.demo_model.shapes import IMAGE_SIZE
from tools.demo_model.training_loop import Phase, run_phase
from tools.demo_model.vae_forward import decode, encode

CROP = 64
"""Side of a training crop, in pixels."""

CROPS = 8
"""Crops per process and step."""

WHOLE_PICTURES = 3
"""Uncropped pictures per process and step, late in the decoder's phase."""

WHOLE_FROM = 0.7
"""Share of the decoder's steps after which it sees whole pictures."""

GRADIENT_WEIGHT = 0.25
KL_WEIGHT = 1e-4


@dataclass(frozen=True)
class VaePlan:
    """One phase of the autoencoder.

    Attributes:
        model: Directory whose `vae` folder holds the first weights.
        phase: How long and how fast.
        decoder_only: Whether the encoder, and with it the latent space, stays as it is.
        seed: Seed of every choice.
        device: "cpu" or "cuda".
    """

    model: Path
    phase: Phase
    decoder_only: bool
    seed: int
    device: str


class VaeTrainer:
    """The autoencoder in bf16 and its masters."""

    def __init__(self, plan: VaePlan, rank: int, device: str) -> None:
        """Loads the first weights onto the device."""
        self._plan, self._rank, self._device = plan, rank, device
        directory = str(plan.model / "vae")
        self.vae = AutoencoderKLQwenImage.from_pretrained(directory, dtype=torch.float32)
        self.vae.to(device)
        trained: list[nn.Parameter] = []
        for name, parameter in self.vae.named_parameters():
            frozen = plan.decoder_only and name.startswith(("encoder.", "quant_conv."))
            if frozen:
                parameter.data = parameter.data.bfloat16()
                parameter.requires_grad_(False)
            elif "time_conv" in name:
                # Only video meets the temporal convolutions; they keep their first weights.
                parameter.requires_grad_(False)
            else:
                trained.append(parameter)
        self.masters = Masters(trained, average_decay=0.999, weight_decay=1e-4)

    def loss(self, step: int) -> Tensor:
        """The loss of one batch of crops."""
        plan = self._plan
        late = plan.decoder_only and step >= WHOLE_FROM * plan.phase.steps
        crops = _whole(plan.seed, step, self._rank) if late else _crops(plan.seed, step, self._rank)
        pixels = crops.to(self._device)
        generator = torch.Generator().manual_seed((plan.seed * 1_000_003 + step) * 64 + self._rank)
        if not plan.decoder_only:
            mean, log_variance = encode(self.vae, pixels.bfloat16())
            deviation = torch.exp(0.5 * log_variance)
            noise = torch.randn(mean.shape, generator=generator).to(mean)
            decoded = decode(self.vae, mean + deviation * noise).float()
            return reconstruction_loss(decoded, pixels) + KL_WEIGHT * _divergence(
                mean.float(), log_variance.float()
            )
        with torch.no_grad():
            mean, log_variance = encode(self.vae, pixels.bfloat16())
            # Noise of every strength, so that slightly wrong latents still decode cleanly.
            strength = torch.rand((len(mean), 1, 1, 1), generator=generator).to(mean)
            noise = torch.randn(mean.shape, generator=generator).to(mean)
            latents = mean + strength * torch.exp(0.5 * log_variance) * noise
        return reconstruction_loss(decode(self.vae, latents).float(), pixels)


def train_vae(rank: int, plan: VaePlan) -> None:
    """Runs the phase to its end in one rank."""
    trainer = VaeTrainer(plan, rank, plan.device)
    run_phase(plan.phase, trainer.masters, trainer.loss, rank)


def trained_vae(plan: VaePlan) -> AutoencoderKLQwenImage:
    """Reads a finished phase back: the autoencoder with averaged fp32 weights, on the CPU."""
    trainer = VaeTrainer(plan, 0, "cpu")
    trainer.masters.load(plan.phase.checkpoint)
    trainer.masters.use_average()
    return trainer.vae.float()


def reconstruction_loss(decoded: Tensor, pixels: Tensor) -> Tensor:
    """Absolute and squared error, and the absolute error of the differences between neighbours.

    Args:
        decoded: [batch, 3, height, width].
        pixels: Same shape, values in -1..1.
    """
    error = decoded - pixels
    across = (error[..., :, 1:] - error[..., :, :-1]).abs().mean()
    down = (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    return error.abs().mean() + error.pow(2).mean() + GRADIENT_WEIGHT * (across + down)


def peak_signal_to_noise(vae: AutoencoderKLQwenImage, seed: int, count: int) -> tuple[float, float]:
    """Reconstruction quality on fresh pictures: mean and worst PSNR in dB."""
    _, pictures = render_scenes(seed + 7919, 0, count, Mix())
    with torch.inference_mode():
        decoded = decode(vae, encode(vae, pictures)[0]).clamp(-1.0, 1.0)
    error = ((decoded - pictures) / 2).pow(2).mean(dim=(1, 2, 3))
    decibels = -10.0 * torch.log10(error)
    return float(decibels.mean()), float(decibels.min())


def _divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Mean divergence of the posterior from a standard normal distribution, per value."""
    return 0.5 * (mean.pow(2) + log_variance.exp() - 1.0 - log_variance).mean()


def _whole(seed: int, step: int, rank: int) -> Tensor:
    """Whole pictures, [3, 3, 128, 128]."""
    first = (step * 64 + rank) * CROPS
    return render_scenes(seed + 1, first, WHOLE_PICTURES, Mix())[1]


def _crops(seed: int, step: int, rank: int) -> Tensor:
    """A random crop from each of eight new pictures, [8, 3, 64, 64]."""
    first = (step * 64 + rank) * CROPS
    _, pictures = render_scenes(seed, first, CROPS, Mix())
    corners = np.random.default_rng([seed, 3, first]).integers(0, IMAGE_SIZE - CROP, (CROPS, 2))
    return torch.stack(
        [
            picture[:, y : y + CROP, x : x + CROP]
            for picture, (y, x) in zip(pictures, corners, strict=True)
        ]
    )
