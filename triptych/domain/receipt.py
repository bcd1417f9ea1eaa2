"""What a result's bytes depend on beside its parameters."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Fingerprint:
    """What a part of a model is, told in a few digits: a file of weights, or configurations."""

    part: str
    digest: str


@dataclass(frozen=True, slots=True, order=True)
class SoftwareVersion:
    """A package, and which release of it.

    Attributes:
        name: for example "torch".
    """

    name: str
    version: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the same bytes need again; the result has the parameters and the checksums.

    Attributes:
        fingerprints: of the parts of the model, as far as the cluster knows them.
        versions: of the replicas that may have worked on it; a name comes twice while they are
            being replaced.
    """

    fingerprints: tuple[Fingerprint, ...] = ()
    versions: tuple[SoftwareVersion, ...] = ()


NO_RECEIPT = Receipt()
"""Of a cluster that gives none."""
