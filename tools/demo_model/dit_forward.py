"""The transformer's forward pass, rewritten for fast training on small batches.

It computes what `QwenImageTransformer2DModel.forward` computes, from the same parameters, with
three differences that only concern speed: attention is a plain softmax, because the backward
pass of the fused CPU kernel is slow in bf16; the rotary embedding uses the half-split layout,
which needs no complex numbers; and a block is a pure function of tensors, so that one compiled
graph serves all of them.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from diffusers import QwenImageTransformer2DModel
from diffusers.models.transformers.transformer_qwenimage import QwenImageTransformerBlock
from torch import Tensor
from torch.nn import functional

from tools.demo_model.architecture import HEAD_SIZE, HEADS

Streams: TypeAlias = tuple[Tensor, Tensor]
BlockForward: TypeAlias = Callable[
    [Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, list[Tensor]], Streams
]

_STREAM_LINEARS = (
    (
        "img_mod.1",
        "attn.to_q",
        "attn.to_k",
        "attn.to_v",
        "attn.to_out.0",
        "img_mlp.net.0.proj",
        "img_mlp.net.2",
    ),
    (
        "txt_mod.1",
        "attn.add_q_proj",
        "attn.add_k_proj",
        "attn.add_v_proj",
        "attn.to_add_out",
        "txt_mlp.net.0.proj",
        "txt_mlp.net.2",
    ),
)
_STREAM_NORMS = (("attn.norm_q", "attn.norm_k"), ("attn.norm_added_q", "attn.norm_added_k"))
_WEIGHTS_PER_STREAM = 16

# Even places of a head first, odd ones second: interleaved pairs become two halves.
_SPLIT = torch.cat([torch.arange(0, HEAD_SIZE, 2), torch.arange(1, HEAD_SIZE, 2)])
_INTERLEAVE = torch.argsort(_SPLIT)


def to_half_split(transformer: QwenImageTransformer2DModel) -> None:
    """Reorders queries and keys in place from the interleaved to the half-split layout."""
    _reorder(transformer, _SPLIT)


def to_interleaved(transformer: QwenImageTransformer2DModel) -> None:
    """Undoes `to_half_split` exactly: this is the layout that diffusers loads."""
    _reorder(transformer, _INTERLEAVE)


def _reorder(transformer: QwenImageTransformer2DModel, order: Tensor) -> None:
    with torch.no_grad():
        for block in transformer.transformer_blocks:
            attention = block.attn
            places = order.to(attention.to_q.weight.device)
            for name in ("to_q", "to_k", "add_q_proj", "add_k_proj"):
                linear = getattr(attention, name)
                rows = linear.weight.view(HEADS, HEAD_SIZE, -1)[:, places]
                linear.weight.copy_(rows.reshape(linear.weight.shape))
                biases = linear.bias.view(HEADS, HEAD_SIZE)[:, places]
                linear.bias.copy_(biases.reshape(-1))
            for name in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
                weight = getattr(attention, name).weight
                weight.copy_(weight[places].clone())


def block_weights(block: QwenImageTransformerBlock) -> list[Tensor]:
    """Lists a block's parameters in the order `block_forward` takes them."""
    parameters = dict(block.named_parameters())
    weights = []
    for linears, norms in zip(_STREAM_LINEARS, _STREAM_NORMS, strict=True):
        for name in linears:
            weights += [parameters[f"{name}.weight"], parameters[f"{name}.bias"]]
        weights += [parameters[f"{name}.weight"] for name in norms]
    return weights


def block_forward(
    image: Tensor,
    text: Tensor,
    condition: Tensor,
    cosine: Tensor,
    sine: Tensor,
    bias: Tensor,
    weights: list[Tensor],
) -> Streams:
    """Runs one double-stream block.

    Args:
        image: Image stream, [batch, 64, width].
        text: Text stream, [batch, tokens, width].
        condition: Activated time embedding, [batch, width].
        cosine: Rotary cosines of text then image, [tokens + 64, 1, head / 2].
        sine: Rotary sines, same shape.
        bias: Attention bias that hides padding, [batch, 1, 1, tokens + 64].
        weights: The block's parameters, as `block_weights` lists them.

    Returns:
        The two streams, same shapes.
    """
    image_weights = weights[:_WEIGHTS_PER_STREAM]
    text_weights = weights[_WEIGHTS_PER_STREAM:]
    image_mod = functional.linear(condition, image_weights[0], image_weights[1])
    text_mod = functional.linear(condition, text_weights[0], text_weights[1])
    image_parts = image_mod[:, None].chunk(6, dim=-1)
    text_parts = text_mod[:, None].chunk(6, dim=-1)
    image_heads = _heads(image, image_parts, image_weights)
    text_heads = _heads(text, text_parts, text_weights)
    query, key, value = (
        torch.cat([first, second], dim=1)
        for first, second in zip(text_heads, image_heads, strict=True)
    )
    mixed = _attend(_rotate(query, cosine, sine), _rotate(key, cosine, sine), value, bias)
    tokens = text.shape[1]
    image = _finish(image, mixed[:, tokens:], image_parts, image_weights)
    text = _finish(text, mixed[:, :tokens], text_parts, text_weights)
    return image, text


def _heads(
    stream: Tensor, parts: tuple[Tensor, ...], weights: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of one stream, each [batch, n, heads, head]."""
    width = stream.shape[-1]
    normed = functional.layer_norm(stream, (width,), eps=1e-6) * (1 + parts[1]) + parts[0]
    joint_weight = torch.cat([weights[2], weights[4], weights[6]])
    joint_bias = torch.cat([weights[3], weights[5], weights[7]])
    joint = functional.linear(normed, joint_weight, joint_bias)
    query, key, value = joint.view(*joint.shape[:2], 3, HEADS, HEAD_SIZE).unbind(2)
    return _rms(query, weights[14]), _rms(key, weights[15]), value


def _rms(heads: Tensor, weight: Tensor) -> Tensor:
    wide = heads.float()
    scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
    return (wide * scale).to(heads.dtype) * weight


def _rotate(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    real, imaginary = heads.float().chunk(2, dim=-1)
    turned = (real * cosine - imaginary * sine, real * sine + imaginary * cosine)
    return torch.cat(turned, dim=-1).to(heads.dtype)


def _attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    scores = query.transpose(1, 2) @ key.permute(0, 2, 3, 1)
    chances = torch.softmax(scores.float() * HEAD_SIZE**-0.5 + bias, dim=-1).to(value.dtype)
    return (chances @ value.transpose(1, 2)).transpose(1, 2).flatten(2)


def _finish(
    stream: Tensor, mixed: Tensor, parts: tuple[Tensor, ...], weights: list[Tensor]
) -> Tensor:
    """Adds the attention's result and the MLP's to the stream."""
    stream = stream + parts[2] * functional.linear(mixed, weights[8], weights[9])
    normed = functional.layer_norm(stream, (stream.shape[-1],), eps=1e-6)
    normed = normed * (1 + parts[4]) + parts[3]
    hidden = functional.gelu(
        functional.linear(normed, weights[10], weights[11]), approximate="tanh"
    )
    return stream + parts[5] * functional.linear(hidden, weights[12], weights[13])


class FastTransformer:
    """A forward pass over the parameters of a half-split `QwenImageTransformer2DModel`."""

    def __init__(
        self, transformer: QwenImageTransformer2DModel, *, grid: int, tokens: int, compiled: bool
    ) -> None:
        """Prepares the rotary tables.

        Args:
            transformer: The module whose parameters are used; `to_half_split` has been applied.
            grid: Patches along each side of the latent picture.
            tokens: Text tokens of every batch.
            compiled: Whether to compile the block.
        """
        self._model = transformer
        device = transformer.proj_out.weight.device
        image, text = transformer.pos_embed(
            [(1, grid, grid)], max_txt_seq_len=tokens, device=device
        )
        turns = torch.cat([text, image])[:, None]
        self._cosine, self._sine = turns.real.contiguous(), turns.imag.contiguous()
        self._block: BlockForward = torch.compile(block_forward) if compiled else block_forward

    def __call__(self, noisy: Tensor, text: Tensor, visible: Tensor, sigma: Tensor) -> Tensor:
        """Predicts the velocity.

        Args:
            noisy: Packed noisy latents, [batch, grid * grid, 64].
            text: Prompt embeddings, [batch, tokens, 64].
            visible: True for real tokens, bool [batch, tokens].
            sigma: Noise levels in 0..1, fp32 [batch].

        Returns:
            Predicted noise minus picture, same shape as `noisy`.
        """
        model = self._model
        image = model.img_in(noisy)
        stream = model.txt_in(model.txt_norm(text))
        condition = functional.silu(model.time_text_embed(sigma, image))
        everything = functional.pad(visible, (0, image.shape[1]), value=True)[:, None, None]
        bias = torch.zeros(everything.shape, device=noisy.device).masked_fill(~everything, -1e9)
        for block in model.transformer_blocks:
            weights = block_weights(block)
            image, stream = self._block(
                image, stream, condition, self._cosine, self._sine, bias, weights
            )
        scale, shift = model.norm_out.linear(condition).chunk(2, dim=1)
        normed = functional.layer_norm(image, (image.shape[-1],), eps=1e-6)
        output: Tensor = model.proj_out(normed * (1 + scale[:, None]) + shift[:, None])
        return output
