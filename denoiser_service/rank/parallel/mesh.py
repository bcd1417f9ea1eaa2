"""Which ranks work together at what.

Ranks are numbered with ulysses fastest, then ring, then cfg: the ranks that exchange most are
neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import product

import torch.distributed as dist

from triptych.domain.errors import ConfigurationError
from triptych.domain.parallel import ParallelDegrees


@dataclass(frozen=True, slots=True)
class Axis:
    """The ranks that this one works with at one thing.

    Attributes:
        ranks: in their order, by their numbers in the whole group.
        index: which of them this one is.
        group: through which they talk; None where this rank is alone.
    """

    ranks: tuple[int, ...]
    index: int
    group: dist.ProcessGroup | None

    @property
    def size(self) -> int:
        """How many there are."""
        return len(self.ranks)


@dataclass(frozen=True, slots=True)
class RankMesh:
    """This rank's place in its group.

    Attributes:
        degrees: of the group.
        cfg: ranks with the same part of the sequence and other branches.
        ring: ranks with the same heads and other parts of the sequence.
        ulysses: ranks that exchange parts of the sequence for heads.
        sequence: all ranks that share a sequence; their order is that of its parts.
        undivided: the same ranks for steps of one branch; None where that is this mesh itself.
    """

    degrees: ParallelDegrees
    cfg: Axis
    ring: Axis
    ulysses: Axis
    sequence: Axis
    undivided: RankMesh | None = None

    def for_branches(self, branches: int) -> RankMesh:
        """How the ranks share the steps of a request that has so many guidance branches.

        With one branch there is nothing to divide but the sequence: the ring grows.
        """
        return self if branches > 1 or self.undivided is None else self.undivided

    @classmethod
    def build(cls, degrees: ParallelDegrees, timeout: timedelta) -> RankMesh:
        """Makes the groups. Every rank must come here, after `init_process_group`.

        Args:
            degrees: the same on every rank.
            timeout: of an exchange.

        Raises:
            ConfigurationError: there are more ranks than the degrees are for, or fewer.
        """
        if dist.get_world_size() != degrees.ranks:
            raise ConfigurationError(
                f"ranks: are {dist.get_world_size()}; cfg {degrees.cfg} x ring {degrees.ring}"
                f" x ulysses {degrees.ulysses} are {degrees.ranks}"
            )
        undivided = cls.build(degrees.without_cfg, timeout) if degrees.cfg > 1 else None
        cfg, ring, ulysses, sequence = (
            _axis(_peers(degrees, free), timeout) for free in ("c", "r", "u", "ru")
        )
        return cls(degrees, cfg, ring, ulysses, sequence, undivided)


def _peers(degrees: ParallelDegrees, free: str) -> Iterator[tuple[int, ...]]:
    """The ranks of every group along some of the axes c, r and u, the others being fixed."""
    sizes = {"c": degrees.cfg, "r": degrees.ring, "u": degrees.ulysses}
    fixed = [range(size) if name not in free else range(1) for name, size in sizes.items()]
    moving = [range(size) if name in free else range(1) for name, size in sizes.items()]
    for base in product(*fixed):
        places = (
            tuple(one + other for one, other in zip(base, offset, strict=True))
            for offset in product(*moving)
        )
        yield tuple(
            (cfg * degrees.ring + ring) * degrees.ulysses + ulysses for cfg, ring, ulysses in places
        )


def _axis(peers: Iterator[tuple[int, ...]], timeout: timedelta) -> Axis:
    own: Axis | None = None
    for ranks in peers:
        # Every rank makes every group, in the same order, also those it is not in.
        group = dist.new_group(list(ranks), timeout=timeout) if len(ranks) > 1 else None
        if dist.get_rank() in ranks:
            own = Axis(ranks, ranks.index(dist.get_rank()), group)
    assert own is not None
    return own
