"""Which replicas of a model are replicas of the same one: pure functions over what they report."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from services.domain.stages import Capacity
from triptych.domain.acceleration import NO_CACHE, CacheSupport
from triptych.domain.model import Capabilities, LoadedModel, Stage


class Reported(Protocol):
    """A replica of which something is known, or nothing while it does not answer."""

    @property
    def last_capacity(self) -> Capacity | None:
        """What it last reported; None while it is down."""
        ...

    @property
    def assigned(self) -> int:
        """Requests it was chosen for since then."""
        ...

    @property
    def answered(self) -> bool:
        """Whether it ever reported."""
        ...


R = TypeVar("R", bound=Reported)
Pools = Mapping[Stage, Sequence[R]]


@dataclass
class _Group:
    """Replicas that agree on what a model is.

    Attributes:
        fingerprints: all that any of them knows of the model's files.
        denoised: what its denoisers say that it can do, once there is one.
    """

    family: str
    capabilities: Capabilities
    fingerprints: dict[str, str] = field(default_factory=dict)
    denoised: Capabilities | None = None
    members: list[tuple[Stage, Reported]] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether it can carry out a request."""
        return {stage for stage, _ in self.members} == set(Stage)

    def takes(self, stage: Stage, replica: Reported, held: LoadedModel) -> bool:
        """Adds a replica, unless it holds another model."""
        capabilities = held.model.capabilities
        denoises = stage is Stage.DENOISER
        known = {each.part: each.digest for each in held.fingerprints}
        if not (
            # The type may differ from stage to stage; the model may not.
            held.model.family == self.family
            and _without_cache(capabilities) == self.capabilities
            and all(self.fingerprints.get(part, digest) == digest for part, digest in known.items())
            # What is reused between steps is the denoisers' alone to say, but all of them alike.
            and (not denoises or self.denoised in (None, capabilities))
        ):
            return False
        self.fingerprints |= known
        self.denoised = capabilities if denoises else self.denoised
        self.members.append((stage, replica))
        return True


def agreeing(name: str, pools: Pools[R]) -> dict[Stage, list[R]] | None:
    """The replicas that a request for a model may be given to; None if no stages agree on it.

    Of several groups, each of all three stages, it is the largest: while replicas are replaced one
    by one, whichever of the two has more of them. Without a group there may be no replica at all.

    Args:
        name: the model's.
        pools: the replicas of each stage.
    """
    complete = [group for group in _groups(name, pools) if group.complete]
    if not complete:
        return None
    chosen = max(complete, key=lambda group: len(group.members))
    members = {id(replica) for _, replica in chosen.members}
    return {
        stage: [each for each in replicas if id(each) in members]
        for stage, replicas in pools.items()
    }


def held_by(replica: Reported) -> Mapping[str, LoadedModel]:
    """The models of a replica that works, by name."""
    capacity = replica.last_capacity
    if capacity is None or capacity.draining:
        return {}
    return {loaded.model.name: loaded for loaded in capacity.models}


def _groups(name: str, pools: Pools[R]) -> Sequence[_Group]:
    """One for each kind of denoiser; the other stages' replicas are in all that they agree with."""
    groups: list[_Group] = []
    for replica, held in _holders(name, pools[Stage.DENOISER]):
        if not any(group.takes(Stage.DENOISER, replica, held) for group in groups):
            group = _Group(held.model.family, _without_cache(held.model.capabilities))
            group.takes(Stage.DENOISER, replica, held)
            groups.append(group)
    for stage in (Stage.ENCODER, Stage.VAE):
        for replica, held in _holders(name, pools[stage]):
            for group in groups:
                group.takes(stage, replica, held)
    return groups


def _holders(name: str, replicas: Sequence[R]) -> Iterator[tuple[R, LoadedModel]]:
    for replica in replicas:
        if (held := held_by(replica).get(name)) is not None:
            yield replica, held


def _without_cache(capabilities: Capabilities) -> Capabilities:
    defaults = replace(capabilities.defaults, cache=NO_CACHE, cache_min_steps=0)
    return replace(capabilities, cache_support=CacheSupport(), defaults=defaults)
