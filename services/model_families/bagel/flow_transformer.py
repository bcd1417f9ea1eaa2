"""BAGEL's denoising network: the language model, and what turns latents into tokens and back.

Shapes: N latent tokens, F values of a latent patch, D token width.
"""

import torch
from diffusers.models.embeddings import Timesteps
from torch import nn
from transformers import Qwen2Config

from services.model_families.bagel.context import Context
from services.model_families.bagel.mixture_of_transformers import MixtureOfTransformers

_FREQUENCIES = 256


class PositionEmbedding(nn.Module):
    """One vector for each place of a square grid; published as it was computed for training.

    Args:
        max_side: places per side.
        width: values per token.
    """

    def __init__(self, max_side: int, width: int) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.empty(max_side**2, width))

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        """The vectors [1, N, width] of places [N]."""
        return self.pos_embed[positions][None]


class TimeEmbedding(nn.Module):
    """A vector for a noise level.

    Args:
        width: values per token.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.frequencies = Timesteps(_FREQUENCIES, flip_sin_to_cos=True, downscale_freq_shift=0.0)
        self.mlp = nn.Sequential(nn.Linear(_FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, sigma: float) -> torch.Tensor:
        """The vector [1, 1, width] for a noise level between 0 and 1."""
        weight = next(self.mlp.parameters())
        waves = self.frequencies(torch.tensor([sigma], device=weight.device))
        vector: torch.Tensor = self.mlp(waves.to(weight.dtype))
        return vector[None]


class FlowTransformer(nn.Module):
    """Reads prompts and pictures into contexts, and predicts velocities in them.

    Args:
        config: of the language model.
        patch_values: F.
        max_side: latent patches per side of the largest picture.
    """

    def __init__(self, config: Qwen2Config, patch_values: int, max_side: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.language_model = MixtureOfTransformers(config)
        self.vae2llm = nn.Linear(patch_values, width)
        self.llm2vae = nn.Linear(width, patch_values)
        self.time_embedder = TimeEmbedding(width)
        self.latent_pos_embed = PositionEmbedding(max_side, width)

    @property
    def dtype(self) -> torch.dtype:
        """The type it computes in."""
        return self.vae2llm.weight.dtype

    @property
    def width(self) -> int:
        """Values per token, D."""
        return self.vae2llm.out_features

    @property
    def patch_values(self) -> int:
        """Values per latent patch, F."""
        return self.vae2llm.in_features

    def read_prompt(self, context: Context, prompt: torch.Tensor) -> Context:
        """Goes on with an embedded prompt [1, L, D]."""
        return self.language_model.read_text(context, prompt)

    def read_image(self, context: Context, markers: torch.Tensor, image: torch.Tensor) -> Context:
        """Goes on with a picture as the vision tower sees it, [1, V, D], between its markers."""
        tokens = torch.cat([markers, image], dim=1)
        return self.language_model.read_picture(context, tokens, tokens[:, :0])

    def read_latents(
        self,
        context: Context,
        markers: torch.Tensor,
        patches: torch.Tensor,
        positions: torch.Tensor,
    ) -> Context:
        """Goes on with a picture without noise as the VAE sees it, [1, N, F] at [N]."""
        tokens = self._tokens(patches, positions, sigma=0.0)
        return self.language_model.read_picture(context, markers, tokens)

    def forward(
        self,
        context: Context,
        markers: torch.Tensor,
        patches: torch.Tensor,
        positions: torch.Tensor,
        sigma: float,
    ) -> torch.Tensor:
        """Where noise lies as seen from a picture's noisy patches, [1, N, F] in float32.

        Args:
            context: what the picture is drawn from.
            markers: embedded start and end of a picture [1, 2, D].
            patches: latents [1, N, F], of which a part, `sigma`, is noise.
            positions: of the patches in the grid [N].
            sigma: 0 to 1.
        """
        tokens = self._tokens(patches, positions, sigma)
        drawn = self.language_model.draw_picture(context, markers, tokens)
        velocity: torch.Tensor = self.llm2vae(drawn)
        return velocity.float()

    def _tokens(self, patches: torch.Tensor, positions: torch.Tensor, sigma: float) -> torch.Tensor:
        tokens: torch.Tensor = self.vae2llm(patches.to(self.dtype))
        placed: torch.Tensor = tokens + self.time_embedder(sigma) + self.latent_pos_embed(positions)
        return placed
