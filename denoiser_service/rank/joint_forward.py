"""One forward in the place of those of several requests.

A step changes nothing before its last forward is done. So it can be left at any forward and begun
again once that one's output is known, from whomever it came.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from services.model_ports.forwards import Branches, Rows


@dataclass(frozen=True, slots=True)
class Forward:
    """What a step asks of a transformer; see services.model_ports.forwards.Acceleration."""

    transformer: nn.Module
    branches: Branches
    args: tuple[Any, ...]
    inputs: Mapping[str, Any]

    def kind(self, rows: Rows) -> Hashable:
        """Equal for forwards that can be one, but for what is shared."""
        named = {
            name: _kind(value, padded=name in rows.padded)
            for name, value in self.inputs.items()
            if name not in rows.padded.values()
        }
        positional = tuple(_kind(value) for value in self.args)
        return id(self.transformer), self.branches, positional, tuple(sorted(named.items()))

    def goes_with(self, other: "Forward", rows: Rows) -> bool:
        """Whether both can be one forward."""
        return self.kind(rows) == other.kind(rows) and all(
            torch.equal(self.inputs[name], other.inputs[name])
            for name in rows.shared & self.inputs.keys()
        )


class Unanswered(Exception):
    """A step came to a forward whose output is not known yet."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.forward = forward


class Answers:
    """What the forwards of one step give, in their order; an Acceleration."""

    def __init__(self) -> None:
        self._outputs: list[Any] = []
        self._asked = 0
        self._alone = False

    def begin(self) -> None:
        """The step begins, or begins again."""
        self._asked = 0

    def add(self, output: Any) -> None:  # noqa: ANN401 — whatever the transformer gives
        """The next forward's output becomes known."""
        self._outputs.append(output)

    def go_alone(self) -> None:
        """The next forward that is not known is computed where it is asked for."""
        self._alone = True

    def run(self, transformer: nn.Module, branches: Branches, /, *args: Any, **inputs: Any) -> Any:  # noqa: ANN401 — see Acceleration
        """Gives what is known.

        Raises:
            Unanswered: nothing is.
        """
        if self._asked == len(self._outputs):
            if not self._alone:
                raise Unanswered(Forward(transformer, branches, args, inputs))
            self._alone = False
            self.add(transformer(*args, **inputs))
        self._asked += 1
        return self._outputs[self._asked - 1]


def grouped(forwards: Mapping[str, Forward], rows: Rows) -> list[list[str]]:
    """Those that can be one forward, by the names they were given."""
    groups: list[list[str]] = []
    for name, forward in forwards.items():
        for group in groups:
            if forward.goes_with(forwards[group[0]], rows):
                group.append(name)
                break
        else:
            groups.append([name])
    return groups


@torch.no_grad()
def run_together(forwards: Sequence[Forward], rows: Rows) -> list[tuple[Any, ...]]:
    """One forward; what each of those would give by itself, but for rounding.

    Args:
        forwards: that can be one.
        rows: of their transformer.
    """
    first = forwards[0]
    counts = [_row_count(forward, rows) for forward in forwards]
    args = [_joined(values) for values in zip(*(forward.args for forward in forwards), strict=True)]
    inputs = {
        name: value
        if name in rows.shared
        else _joined([forward.inputs[name] for forward in forwards])
        for name, value in first.inputs.items()
        if name not in rows.padded
    }
    for name, mask in rows.padded.items():
        tensors = [forward.inputs[name] for forward in forwards]
        if len({tensor.shape[1] for tensor in tensors}) > 1:
            tensors, inputs[mask] = _padded(tensors)
        inputs[name] = _joined(tensors)
    outputs = [_split(output, counts) for output in first.transformer(*args, **inputs)]
    return list(zip(*outputs, strict=True))


def _kind(value: Any, *, padded: bool = False) -> Hashable:  # noqa: ANN401 — whatever the transformer takes
    if isinstance(value, torch.Tensor):
        shape = list(value.shape)
        if padded:
            del shape[1]
        return tuple(shape), str(value.dtype)
    if isinstance(value, list):
        # A transformer that takes tensors in a list takes them in different sizes.
        return tuple(
            str(entry.dtype) if isinstance(entry, torch.Tensor) else repr(entry) for entry in value
        )
    return repr(value)


def _row_count(forward: Forward, rows: Rows) -> int:
    named = (value for name, value in forward.inputs.items() if name not in rows.shared)
    return next(len(value) for value in (*forward.args, *named) if isinstance(value, _IN_ROWS))


_IN_ROWS = (torch.Tensor, list)


def _joined(values: Sequence[Any]) -> Any:  # noqa: ANN401 — as above
    if isinstance(values[0], torch.Tensor):
        return torch.cat(list(values))
    if isinstance(values[0], list):
        return [entry for value in values for entry in value]
    return values[0]


def _padded(tensors: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Tensors [rows, tokens, ...] with zeros up to the longest, and which tokens are their own."""
    longest = max(tensor.shape[1] for tensor in tensors)
    padded, masks = [], []
    for tensor in tensors:
        count, tokens, *rest = tensor.shape
        padded.append(torch.cat([tensor, tensor.new_zeros(count, longest - tokens, *rest)], dim=1))
        own = torch.arange(longest, device=tensor.device) < tokens
        masks.append(own.expand(count, longest))
    return padded, torch.cat(masks)


def _split(output: Any, counts: Sequence[int]) -> Iterable[Any]:  # noqa: ANN401 — as above
    if isinstance(output, torch.Tensor):
        return torch.split(output, list(counts))
    ends = [sum(counts[: number + 1]) for number in range(len(counts))]
    return [output[end - count : end] for end, count in zip(ends, counts, strict=True)]
