"""BAGEL's denoising network: the language model, and what turns latents into tokens and back.

Shapes: N latent tokens, F values of a latent patch, D token width.
"""

import torch
from torch import nn
from transformers import Qwen2Config

from services.model_families.bagel.context import Context
from services.model_families.bagel.embeddings import PositionEmbedding, TimeEmbedding
from services.model_families.bagel.mixture_of_transformers import MixtureOfTransformers


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
