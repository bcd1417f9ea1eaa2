"""One expert's share of a layer: the weights of a Qwen2 layer, with normalised heads."""

import torch
from torch import nn
from transformers import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP, Qwen2RMSNorm


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
