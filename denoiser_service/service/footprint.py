"""How many bytes a rank will keep of a request, said before it has any. Loads no torch."""

from collections.abc import Callable

from services.domain.stages import DenoiseRequest
from services.model_ports.sizes import Residency
from triptych.domain.acceleration import Cache, CacheDit, NoCache, TeaCache
from triptych.domain.errors import InvalidRequest

Estimate = Callable[[DenoiseRequest], Residency]
"""What a model's requests take, as its family says."""


def size_bytes(residency: Residency, cache: Cache) -> int:
    """What is kept of a request with such a cache, at most."""
    return residency.state_bytes + residency.forwards * _per_forward_bytes(residency, cache)


def check_fits(request: DenoiseRequest, residency: Residency, limit_bytes: int) -> None:
    """Refuses what would not fit if it had the ranks for itself.

    Raises:
        InvalidRequest: naming the cache if the request would fit without it, else the size.
    """
    parameters = request.parameters
    needed = size_bytes(residency, parameters.cache)
    if needed <= limit_bytes:
        return
    limit = f"{needed} bytes of each rank's memory; allowed are at most {limit_bytes}"
    if residency.state_bytes <= limit_bytes:
        raise InvalidRequest.of(
            "acceleration.cache",
            f"is {parameters.cache.kind}; with it the request takes {limit}",
        )
    raise InvalidRequest.of(
        "width", f"and height are {parameters.width} x {parameters.height}; that takes {limit}"
    )


def _per_forward_bytes(residency: Residency, cache: Cache) -> int:
    match cache:
        case NoCache():
            return 0
        case TeaCache():
            # What was compared last, and what all blocks added.
            return residency.signal_bytes + residency.hidden_bytes
        case CacheDit(taylorseer_order=order):
            # What the first blocks added, which is compared, and what the middle ones did; or a
            # Taylor expansion of the latter, this step's and the one before.
            terms = 1 if order is None else 2 * (order + 1)
            return residency.lists * (
                (1 + terms) * residency.hidden_bytes + terms * residency.encoder_bytes
            )
