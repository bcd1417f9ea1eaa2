"""Attention over tokens that lie on several ranks, wherever a block computes attention.

Ulysses (Jacobs et al., 2023) exchanges tokens for heads; Ring Attention (Liu et al., 2023) passes
keys and values round and puts partial results together by their log-sum-exp. With both, tokens are
exchanged inside each place of the ring.

Shapes: B rows, H heads, D head width; s tokens of this rank.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from denoiser_service.rank.parallel.exchange import (
    heads_for_tokens,
    round_the_ring,
    tokens_for_heads,
)
from denoiser_service.rank.parallel.mesh import RankMesh
from triptych.domain.errors import TriptychError


@dataclass(frozen=True, slots=True)
class Lengths:
    """How many tokens every rank of a sequence has."""

    queries: Sequence[int]
    keys: Sequence[int]


class Reach(Enum):
    """What an attention is over."""

    EVERYTHING = auto()
    """All tokens, on all ranks."""
    DRAWN = auto()
    """All tokens that are drawn, on all ranks."""
    RANK = auto()
    """Keys that each rank has all of."""


class SequenceAttention(TorchFunctionMode):
    """Computes scaled_dot_product_attention over all ranks while blocks are run.

    PyTorch's own context parallelism takes attention over in the same way.
    """

    def __init__(self) -> None:
        super().__init__()
        self._mesh: RankMesh | None = None
        self._lengths: dict[Reach, Lengths] = {}
        self._reach = Reach.EVERYTHING

    def narrow(self, attention: nn.Module, reach: Reach) -> None:
        """From now on a module's attention reaches only so far."""

        def begin(*_: object) -> None:
            self._reach = reach

        def end(*_: object) -> None:
            self._reach = Reach.EVERYTHING

        attention.register_forward_pre_hook(begin)
        attention.register_forward_hook(end, always_call=True)

    @contextmanager
    def over(self, mesh: RankMesh, everything: Lengths, drawn: Lengths) -> Iterator[None]:
        """Attention inside is over what all ranks of a sequence have together."""
        self._mesh = mesh
        self._lengths = {Reach.EVERYTHING: everything, Reach.DRAWN: drawn}
        try:
            with self:
                yield
        finally:
            self._mesh = None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 — whatever the function gives
        """Takes attention over and leaves all else as it is."""
        if func is functional.scaled_dot_product_attention and self._reach is not Reach.RANK:
            return self._attend(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        """[B, H, s, D] for this rank's queries, from everybody's keys."""
        if attn_mask is not None or dropout_p or is_causal:
            raise TriptychError("attention over several ranks takes no mask and drops nothing")
        assert self._mesh is not None
        mesh, lengths = self._mesh, self._lengths[self._reach]
        mine = lengths.queries[mesh.sequence.index], lengths.keys[mesh.sequence.index]
        if (query.shape[2], key.shape[2]) != mine:
            raise TriptychError(
                f"attention over several ranks: this one has {query.shape[2]} queries and"
                f" {key.shape[2]} keys; its share is {mine[0]} and {mine[1]}"
            )
        queries, keys = _rows(mesh, lengths.queries), _rows(mesh, lengths.keys)
        here = mesh.ring.index
        query = tokens_for_heads(query, mesh.ulysses, queries[here])
        key, value = (tokens_for_heads(tensor, mesh.ulysses, keys[here]) for tensor in (key, value))
        if mesh.ring.group is None:
            attended = functional.scaled_dot_product_attention(
                query, key, value, scale=scale, enable_gqa=enable_gqa
            )
        else:
            attended = _ring(query, key, value, mesh, list(map(sum, keys)), scale)
        return heads_for_tokens(attended, mesh.ulysses, queries[here])


def _rows(mesh: RankMesh, lengths: Sequence[int]) -> list[list[int]]:
    """Lengths by place in the ring, and there by place in the exchange."""
    width = mesh.ulysses.size
    return [list(lengths[start : start + width]) for start in range(0, len(lengths), width)]


def _ring(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mesh: RankMesh,
    lengths: Sequence[int],
    scale: float | None,
) -> torch.Tensor:
    attended = torch.zeros(query.shape, dtype=torch.float32, device=query.device)
    weight = torch.full(query.shape[:3], -torch.inf, dtype=torch.float32, device=query.device)
    for keys, values in round_the_ring(key, value, mesh.ring, lengths):
        # Places without tokens still take part in what goes round.
        if query.shape[2] and keys.shape[2]:
            part, part_weight = attention_with_weight(query, keys, values, scale)
            together = torch.logaddexp(weight, part_weight)
            attended = attended * (weight - together).exp().unsqueeze(-1)
            attended = attended + part * (part_weight - together).exp().unsqueeze(-1)
            weight = together
    return attended.to(query.dtype)


def attention_with_weight(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention [B, H, s, D], and the log-sum-exp of its scores [B, H, s] in float32.

    Keys may have fewer heads, each for as many queries' heads in a row.
    """
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = (tensor.repeat_interleave(repeats, dim=1) for tensor in (key, value))
    aten = torch.ops.aten
    if query.device.type == "cpu":
        attended, weight = aten._scaled_dot_product_flash_attention_for_cpu(  # noqa: SLF001 — PyTorch gives the sums by no public name
            query, key, value, scale=scale
        )
    elif query.dtype in (torch.float16, torch.bfloat16):
        attended, weight, *_ = aten._scaled_dot_product_flash_attention(  # noqa: SLF001 — as above
            query, key, value, scale=scale
        )
    else:
        attended, weight, *_ = aten._scaled_dot_product_efficient_attention(  # noqa: SLF001 — as above
            query, key, value, None, compute_log_sumexp=True, scale=scale
        )
        # Its rows are filled up to a multiple of 32.
        weight = weight[..., : query.shape[2]]
    return attended, weight.float()
