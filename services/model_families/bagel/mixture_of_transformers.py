"""BAGEL's language model: two experts, each for its own tokens, under one attention.

Text, the tokens of the vision tower and the markers around pictures belong to the understanding
expert, latents to the generating one. Of tokens [1, S, D] those of the understanding expert come
first: a picture's tokens all attend to one another from the same position, so that their order
says nothing.
"""

from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.nn import functional
from transformers import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import (
    Qwen2MLP,
    Qwen2RMSNorm,
    Qwen2RotaryEmbedding,
    apply_rotary_pos_emb,
)

from services.model_families.bagel.context import Context, KeysValues


class Expert(nn.Module):
    """What a layer does to tokens one by one; what tokens do to one another is not its business.

    Shapes: S tokens, D their width, H heads, A head width.

    Args:
        config: of the language model.
    """

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.rms_norm_eps
        self.head_width = width // config.num_attention_heads
        keys_width = config.num_key_value_heads * self.head_width
        self.input_layernorm = Qwen2RMSNorm(width, eps=eps)
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, keys_width)
        self.v_proj = nn.Linear(width, keys_width)
        self.q_norm = Qwen2RMSNorm(self.head_width, eps=eps)
        self.k_norm = Qwen2RMSNorm(self.head_width, eps=eps)
        self.o_proj = nn.Linear(width, width, bias=False)
        self.post_attention_layernorm = Qwen2RMSNorm(width, eps=eps)
        self.mlp = Qwen2MLP(config)

    def project(
        self, hidden: torch.Tensor, norm_dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries and keys in `norm_dtype`, and values, of [1, S, D]; each [1, H, S, A]."""
        normalised = self.input_layernorm(hidden)
        queries = self._heads(self.q_proj(normalised)).to(norm_dtype)
        keys = self._heads(self.k_proj(normalised)).to(norm_dtype)
        return self.q_norm(queries), self.k_norm(keys), self._heads(self.v_proj(normalised))

    def feed_forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """What is added to [1, S, D] after attention was."""
        added: torch.Tensor = self.mlp(self.post_attention_layernorm(hidden))
        return added

    def _heads(self, projected: torch.Tensor) -> torch.Tensor:
        return projected.view(*projected.shape[:2], -1, self.head_width).transpose(1, 2)


class MixtureLayer(nn.Module):
    """One layer.

    Args:
        config: of the language model.
        number: which layer it is.
    """

    def __init__(self, config: Qwen2Config, number: int) -> None:
        super().__init__()
        self._number = number
        self.understanding = Expert(config)
        self.generation = Expert(config)

    def forward(
        self,
        hidden: torch.Tensor,
        understood: int,
        rotary: tuple[torch.Tensor, torch.Tensor],
        context: Context,
        mask: torch.Tensor | None,
    ) -> tuple[torch.Tensor, KeysValues]:
        """Tokens [1, S, D] after this layer, and their own keys and values.

        Args:
            hidden: tokens [1, S, D].
            understood: how many of them, the first, are the understanding expert's.
            rotary: cosines and sines of their positions.
            context: what they attend to besides one another.
            mask: [S, all tokens], true where one attends to another; None if all do to all.
        """
        # Published: where there are latents, heads are normalised and turned in float32.
        norm_dtype = torch.float32 if understood < hidden.shape[1] else hidden.dtype
        shares = list(self._shares(hidden, understood))
        projected = [expert.project(share, norm_dtype) for expert, share in shares]
        queries, keys, values = (torch.cat(each, dim=2) for each in zip(*projected, strict=True))
        queries, keys = apply_rotary_pos_emb(queries, keys, *rotary)
        own = (keys.to(hidden.dtype), values)
        all_keys, all_values = context.before(self._number, own)
        attended = functional.scaled_dot_product_attention(
            queries.to(hidden.dtype), all_keys, all_values, attn_mask=mask, enable_gqa=True
        )
        attended = attended.transpose(1, 2).flatten(2)
        hidden = hidden + self._each(attended, understood, lambda expert: expert.o_proj)
        return hidden + self._each(hidden, understood, lambda expert: expert.feed_forward), own

    def _shares(
        self, hidden: torch.Tensor, understood: int
    ) -> Iterator[tuple[Expert, torch.Tensor]]:
        """Each expert that has tokens, and those tokens."""
        shares = (hidden[:, :understood], hidden[:, understood:])
        for expert, share in zip((self.understanding, self.generation), shares, strict=True):
            if share.shape[1]:
                yield expert, share

    def _each(
        self,
        hidden: torch.Tensor,
        understood: int,
        function: Callable[[Expert], Callable[[torch.Tensor], torch.Tensor]],
    ) -> torch.Tensor:
        done = [function(expert)(share) for expert, share in self._shares(hidden, understood)]
        return torch.cat(done, dim=1)


class MixtureOfTransformers(nn.Module):
    """All layers.

    Args:
        config: of the language model.
    """

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        layers = [MixtureLayer(config, number) for number in range(config.num_hidden_layers)]
        self.layers = nn.ModuleList(layers)
        # Only latents ever leave; what was understood stays in keys and values.
        self.norm = Qwen2RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        # Computed rather than loaded, so that it needs real memory from the start.
        with torch.device("cpu"):
            self.rotary_emb = Qwen2RotaryEmbedding(config)

    def read_text(self, context: Context, text: torch.Tensor) -> Context:
        """Reads embedded text [1, S, D], token after token."""
        length = text.shape[1]
        positions = torch.arange(context.position, context.position + length, device=text.device)
        mask = torch.ones(
            length, context.length + length, dtype=torch.bool, device=text.device
        ).tril(context.length)
        _, segment = self._forward(text, length, positions, context, mask)
        return context.extended(segment, length)

    def read_picture(
        self, context: Context, understood: torch.Tensor, generated: torch.Tensor
    ) -> Context:
        """Reads a picture's tokens [1, S, D] at once; see `draw_picture`."""
        _, segment = self._picture(context, understood, generated)
        return context.extended(segment, 1)

    def draw_picture(
        self, context: Context, understood: torch.Tensor, generated: torch.Tensor
    ) -> torch.Tensor:
        """What becomes of a picture's latents [1, N, D] in a context, which stays as it is.

        Args:
            context: all that the picture follows.
            understood: its tokens [1, S, D] for the understanding expert.
            generated: its latents' tokens [1, N, D].
        """
        hidden, _ = self._picture(context, understood, generated)
        drawn: torch.Tensor = self.norm(hidden[:, understood.shape[1] :])
        return drawn

    def _picture(
        self, context: Context, understood: torch.Tensor, generated: torch.Tensor
    ) -> tuple[torch.Tensor, tuple[KeysValues, ...]]:
        hidden = torch.cat([understood, generated], dim=1)
        positions = torch.full((hidden.shape[1],), context.position, device=hidden.device)
        return self._forward(hidden, understood.shape[1], positions, context, mask=None)

    def _forward(
        self,
        hidden: torch.Tensor,
        understood: int,
        positions: torch.Tensor,
        context: Context,
        mask: torch.Tensor | None,
    ) -> tuple[torch.Tensor, tuple[KeysValues, ...]]:
        rotary = self.rotary_emb(hidden, positions[None])
        segment = []
        for layer in self.layers:
            hidden, own = layer(hidden, understood, rotary, context, mask)
            segment.append(own)
        return hidden, tuple(segment)
