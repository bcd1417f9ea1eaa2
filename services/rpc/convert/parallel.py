"""How steps are spread over ranks, on the wire."""

from triptych.domain.parallel import ParallelDegrees
from triptych.v1 import acceleration_pb2


def degrees_to_proto(degrees: ParallelDegrees) -> acceleration_pb2.ParallelDegrees:
    """Degrees."""
    return acceleration_pb2.ParallelDegrees(
        ulysses_degree=degrees.ulysses, ring_degree=degrees.ring, cfg_degree=degrees.cfg
    )


def degrees_from_proto(message: acceleration_pb2.ParallelDegrees) -> ParallelDegrees:
    """Degrees; those that a message leaves out are 1."""
    return ParallelDegrees(
        ulysses=message.ulysses_degree or 1,
        ring=message.ring_degree or 1,
        cfg=message.cfg_degree or 1,
    )
