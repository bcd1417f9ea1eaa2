"""What the model has read so far: keys and values that later tokens attend to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

KeysValues = tuple[torch.Tensor, torch.Tensor]
"""Of one layer, each [1, key heads, tokens, head width]."""


@dataclass(frozen=True, slots=True)
class Context:
    """Keys and values of everything before the next token.

    It never changes: contexts that go on from the same beginning share its memory.

    Attributes:
        segments: of what was read, in its order; of each, one pair per layer.
        position: the rotary position of the next token. A picture takes one, however many tokens
            it has.
    """

    segments: tuple[tuple[KeysValues, ...], ...] = ()
    position: int = 0

    @property
    def length(self) -> int:
        """How many tokens were read."""
        return sum(self.lengths)

    @property
    def lengths(self) -> list[int]:
        """How many tokens each segment has."""
        return [segment[0][0].shape[2] for segment in self.segments]

    def mapped(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Context:
        """This context with other keys and values."""
        segments = tuple(
            tuple((function(keys), function(values)) for keys, values in segment)
            for segment in self.segments
        )
        return Context(segments, self.position)

    def extended(self, segment: tuple[KeysValues, ...], positions: int) -> Context:
        """This context and what was read after it, which took so many rotary positions."""
        return Context((*self.segments, segment), self.position + positions)

    def before(self, layer: int, new: KeysValues) -> KeysValues:
        """All keys and values of one layer up to and with those of new tokens."""
        pairs = [*(segment[layer] for segment in self.segments), new]
        keys, values = (torch.cat(each, dim=2) for each in zip(*pairs, strict=True))
        return keys, values
