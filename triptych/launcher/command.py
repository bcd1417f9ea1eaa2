"""What is to run in a process of its own."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A Python module, run as `python -m` runs it, in a session of its own.

    Attributes:
        module: what is run.
        arguments: what it is told.
        variables: of the environment, beside those of the process that starts it.
        stdin: descriptor of its standard input; None for that of the process that starts it.
        stdout: likewise.
        stderr: likewise.
        descriptors: what else it inherits, under the same numbers.
        heavy: whether its imports take so long that a fork server is worth waiting for.
        children: modules that it starts itself, by a launcher of its own.
    """

    module: str
    arguments: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    stdin: int | None = None
    stdout: int | None = None
    stderr: int | None = None
    descriptors: tuple[int, ...] = ()
    heavy: bool = False
    children: tuple[str, ...] = ()

    @property
    def standard(self) -> tuple[int, int, int]:
        """The descriptors that become its standard input, output and error."""
        return (
            0 if self.stdin is None else self.stdin,
            1 if self.stdout is None else self.stdout,
            2 if self.stderr is None else self.stderr,
        )
