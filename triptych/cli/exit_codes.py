"""What the command's exit codes mean."""

from enum import IntEnum
from typing import Final

from triptych.cluster.errors import ClusterConfigurationError, ClusterError
from triptych.errors import (
    AlreadyExistsError,
    ArtifactCorruptedError,
    CancelledError,
    DeadlineExceededError,
    InvalidRequestError,
    NotFoundError,
    OutOfRangeError,
    ResourceExhaustedError,
    TriptychError,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
)


class ExitCode(IntEnum):
    """Stable: scripts may rely on them."""

    OK = 0
    UNEXPECTED = 1
    USAGE = 2
    INVALID_REQUEST = 3
    UNAVAILABLE = 4
    DEADLINE_EXCEEDED = 5
    CANCELLED = 130


EPILOG: Final = (
    "Exit codes: 0 done; 1 failed unexpectedly; 2 bad usage or configuration;"
    " 3 the cluster refused the request; 4 unavailable or overloaded, try again;"
    " 5 deadline exceeded; 130 cancelled."
)

_BY_ERROR: Final[dict[type[TriptychError | ClusterError], ExitCode]] = {
    InvalidRequestError: ExitCode.INVALID_REQUEST,
    UnauthenticatedError: ExitCode.INVALID_REQUEST,
    NotFoundError: ExitCode.INVALID_REQUEST,
    AlreadyExistsError: ExitCode.INVALID_REQUEST,
    OutOfRangeError: ExitCode.INVALID_REQUEST,
    UnimplementedError: ExitCode.INVALID_REQUEST,
    ResourceExhaustedError: ExitCode.UNAVAILABLE,
    UnavailableError: ExitCode.UNAVAILABLE,
    ArtifactCorruptedError: ExitCode.UNAVAILABLE,
    DeadlineExceededError: ExitCode.DEADLINE_EXCEEDED,
    CancelledError: ExitCode.CANCELLED,
    ClusterConfigurationError: ExitCode.USAGE,
}


def exit_code_of(error: TriptychError | ClusterError) -> ExitCode:
    """The exit code an error ends the command with."""
    for kind, code in _BY_ERROR.items():
        if isinstance(error, kind):
            return code
    return ExitCode.UNEXPECTED
