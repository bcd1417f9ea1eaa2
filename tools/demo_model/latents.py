"""The training set: pictures as packed latents, captions as token ids, in one tensor file."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLQwenImage
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Qwen2Tokenizer

from tools.demo_model.architecture import LATENT_CHANNELS
from tools.demo_model.captions import Mix, Scene, describe, place, sample_kind, sample_scene, vary
from tools.demo_model.shapes import render
from tools.demo_model.tokenizer import encode as encode_text
from tools.demo_model.tokenizer import fits, load_tokenizer
from tools.demo_model.vae_forward import encode as encode_pictures

WORDINGS = 4
"""Captions kept for every picture; a training step picks one of them."""

_CHUNK = 32


@dataclass(frozen=True)
class Examples:
    """Pictures and captions to train the transformer with.

    Attributes:
        latents: Normalised packed latents, fp16 [n, 64, 64] (patches, channels).
        tokens: Token ids of every wording, int32 [n, wordings, 54].
        lengths: Their lengths with the prefix, int32 [n, wordings].
    """

    latents: Tensor
    tokens: Tensor
    lengths: Tensor


def render_scenes(seed: int, first: int, count: int, mix: Mix) -> tuple[list[Scene], Tensor]:
    """Samples and draws scenes `first` to `first + count` of the seed's endless sequence.

    Every index has its own random stream, so shares can be drawn by different processes.

    Returns:
        The scenes, and their pictures in -1..1, fp32 [count, 3, 128, 128].
    """
    scenes, pictures = [], []
    for index in range(first, first + count):
        rng = np.random.default_rng([seed, 1, index])
        scene = sample_scene(rng, sample_kind(rng, mix))
        scenes.append(scene)
        pictures.append(render(*place(rng, scene)))
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    return scenes, pixels.float().div(127.5).sub(1.0)


def pack(latents: Tensor) -> Tensor:
    """Packs latents [n, 16, h, w] into 2 x 2 patches, [n, h * w / 4, 64], as the pipeline does."""
    n, channels, height, width = latents.shape
    grid = latents.view(n, channels, height // 2, 2, width // 2, 2)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(n, height * width // 4, channels * 4)


def measure(
    vae: AutoencoderKLQwenImage, seed: int, count: int, device: str
) -> tuple[list[float], list[float]]:
    """Measures mean and standard deviation of each latent channel over `count` pictures."""
    parts = [
        _posterior_means(vae, render_scenes(seed, first, _CHUNK, Mix())[1], device)
        for first in range(0, count, _CHUNK)
    ]
    values = torch.cat(parts).transpose(0, 1).reshape(LATENT_CHANNELS, -1).double()
    means = [round(float(value), 6) for value in values.mean(1)]
    deviations = [round(float(value), 6) for value in values.std(1)]
    return means, deviations


@dataclass(frozen=True)
class ExamplesPlan:
    """A training set to make, in one share per process.

    Attributes:
        model: Directory with the trained `vae` and the `tokenizer`.
        shares: The file of each rank.
        count: Pictures altogether.
        seed: Seed of scenes and wordings.
        device: "cpu" or "cuda".
    """

    model: Path
    shares: tuple[Path, ...]
    count: int
    seed: int
    device: str


def make_share(rank: int, plan: ExamplesPlan) -> None:
    """Makes one rank's share of the training set, unless it is there already."""
    path = plan.shares[rank]
    if path.exists():
        return
    # bf16 halves the time; its rounding is a third of a percent of a latent's spread.
    vae = AutoencoderKLQwenImage.from_pretrained(str(plan.model / "vae"), dtype=torch.bfloat16)
    bounds = [plan.count * index // len(plan.shares) for index in (rank, rank + 1)]
    examples = make_examples(
        vae.to(plan.device).eval(),
        load_tokenizer(plan.model),
        seed=plan.seed,
        first=bounds[0],
        count=bounds[1] - bounds[0],
        mix=Mix(),
        device=plan.device,
    )
    save_examples(examples, path)


def make_examples(
    vae: AutoencoderKLQwenImage,
    tokenizer: Qwen2Tokenizer,
    *,
    seed: int,
    first: int,
    count: int,
    mix: Mix,
    device: str,
) -> Examples:
    """Draws and encodes a share of the training set.

    Args:
        vae: The trained autoencoder, with its latent statistics in its config.
        tokenizer: The model's tokenizer.
        seed: Seed of the whole training set.
        first: Index of the first scene of this share.
        count: Number of scenes of this share.
        mix: Shares of the kinds of scene.
        device: Where the autoencoder is.
    """
    mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1)
    deviation = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1)
    latents, tokens, lengths = [], [], []
    for start in range(first, first + count, _CHUNK):
        size = min(_CHUNK, first + count - start)
        scenes, pictures = render_scenes(seed, start, size, mix)
        posterior = _posterior_means(vae, pictures, device)
        latents.append(pack((posterior - mean) / deviation).half())
        captions = []
        for index, scene in enumerate(scenes, start):
            captions += _wordings(tokenizer, np.random.default_rng([seed, 2, index]), scene)
        ids, sizes = encode_text(tokenizer, captions)
        tokens.append(ids.view(size, WORDINGS, -1))
        lengths.append(sizes.view(size, WORDINGS))
    return Examples(torch.cat(latents), torch.cat(tokens), torch.cat(lengths))


def save_examples(examples: Examples, path: Path) -> None:
    """Writes examples to a safetensors file, which appears only when it is complete."""
    partial = path.with_suffix(".partial")
    save_file(vars(examples), partial)
    partial.replace(path)


def load_examples(paths: list[Path], device: str) -> Examples:
    """Reads the shares of a training set back, as one."""
    shares = [load_file(path, device=device) for path in paths]
    return Examples(**{name: torch.cat([share[name] for share in shares]) for name in shares[0]})


def _posterior_means(vae: AutoencoderKLQwenImage, pictures: Tensor, device: str) -> Tensor:
    with torch.inference_mode():
        mean, _ = encode_pictures(vae, pictures.to(device, vae.dtype))
    return mean.float().cpu()


def _wordings(tokenizer: Qwen2Tokenizer, rng: np.random.Generator, scene: Scene) -> list[str]:
    """The plain caption's variations; one that is too long gives way to the plain one."""
    captions = [vary(rng, scene) for _ in range(WORDINGS)]
    return [caption if fits(tokenizer, caption) else describe(scene) for caption in captions]
