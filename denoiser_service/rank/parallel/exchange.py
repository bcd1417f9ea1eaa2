"""What the ranks of a sequence tell one another.

Shapes: B rows, H heads, D head width; S tokens in all, of which a rank has s.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist

from denoiser_service.rank.parallel.mesh import Axis


def tokens_for_heads(mine: torch.Tensor, axis: Axis, lengths: Sequence[int]) -> torch.Tensor:
    """[B, H, s, D] of all heads becomes [B, H / ranks, S, D] of all tokens.

    Args:
        mine: this rank's tokens.
        axis: the ranks that exchange; they divide H.
        lengths: s of each of them.
    """
    if axis.group is None:
        return mine
    rows, heads, tokens, width = mine.shape
    per_token = rows * (heads // axis.size) * width
    sent = mine.reshape(rows, axis.size, -1, tokens, width).movedim(1, 0).reshape(-1)
    sizes = [length * per_token for length in lengths]
    received = _all_to_all(sent, [tokens * per_token] * axis.size, sizes, axis)
    return torch.cat(
        [
            part.view(rows, heads // axis.size, length, width)
            for part, length in zip(torch.split(received, sizes), lengths, strict=True)
        ],
        dim=2,
    )


def heads_for_tokens(mine: torch.Tensor, axis: Axis, lengths: Sequence[int]) -> torch.Tensor:
    """The way back: [B, H / ranks, S, D] becomes [B, H, s, D]."""
    if axis.group is None:
        return mine
    rows, heads, _, width = mine.shape
    per_token, tokens = rows * heads * width, lengths[axis.index]
    sent = torch.cat([part.reshape(-1) for part in torch.split(mine, list(lengths), dim=2)])
    received = _all_to_all(
        sent,
        [length * per_token for length in lengths],
        [tokens * per_token] * axis.size,
        axis,
    )
    return received.view(axis.size, rows, heads, tokens, width).movedim(0, 1).flatten(1, 2)


def round_the_ring(
    keys: torch.Tensor, values: torch.Tensor, axis: Axis, lengths: Sequence[int]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values [B, H, s, D] of every rank of a ring, this one's first.

    While one pair is used the next is on its way.

    Args:
        keys: this rank's.
        values: this rank's.
        axis: the ring.
        lengths: s of each of its ranks.
    """
    held = torch.stack([keys, values])
    to, source = (axis.ranks[(axis.index + step) % axis.size] for step in (1, -1))
    for step in range(1, axis.size + 1):
        underway, following = [], held
        if step < axis.size:
            following = held.new_empty(
                (*held.shape[:3], lengths[(axis.index - step) % axis.size], held.shape[4])
            )
            operations = [(dist.isend, held, to), (dist.irecv, following, source)]
            moves = [
                dist.P2POp(operation, tensor, peer, axis.group)
                for operation, tensor, peer in operations
                if tensor.numel()
            ]
            underway = dist.batch_isend_irecv(moves) if moves else []
        yield held[0], held[1]
        for transfer in underway:
            transfer.wait()
        held = following


def all_tokens(mine: torch.Tensor, dim: int, axis: Axis, lengths: Sequence[int]) -> torch.Tensor:
    """Every rank's share of a tensor, in order, along its axis of tokens: s becomes S."""
    if axis.group is None:
        return mine
    # Exchanged are tensors of one size, whatever the backend; what fills them up is cut off again.
    shape = list(mine.shape)
    shape[dim] = max(lengths)
    filled = mine.new_zeros(shape)
    filled.narrow(dim, 0, mine.shape[dim]).copy_(mine)
    gathered = [torch.empty_like(filled) for _ in lengths]
    dist.all_gather(gathered, filled, group=axis.group)
    return torch.cat(
        [part.narrow(dim, 0, length) for part, length in zip(gathered, lengths, strict=True)],
        dim=dim,
    )


def total(numbers: torch.Tensor, axis: Axis) -> torch.Tensor:
    """The sum of every rank's numbers; the same bits on all of them."""
    if axis.group is not None:
        dist.all_reduce(numbers, group=axis.group)
    return numbers


def _all_to_all(
    sent: torch.Tensor, sent_sizes: list[int], received_sizes: list[int], axis: Axis
) -> torch.Tensor:
    received = sent.new_empty(sum(received_sizes))
    dist.all_to_all_single(received, sent, received_sizes, sent_sizes, group=axis.group)
    return received
