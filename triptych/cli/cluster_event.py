"""What happens to a local cluster, in words."""

from triptych.cluster.events import (
    ClusterEvent,
    ForkServerLost,
    ProcessDied,
    ProcessNotStarted,
    ProcessStarted,
    ProcessStuck,
)


def describe(event: ClusterEvent) -> str:
    """One line."""
    match event:
        case ProcessStarted(name=name, pid=pid):
            return f"{name:<9} started, pid {pid}"
        case ProcessDied(name=name, pid=pid, how=how, restart_in_seconds=seconds):
            return f"{name:<9} {how} (pid {pid}); it is started again in {seconds:g} s"
        case ProcessNotStarted(name=name, how=how, restart_in_seconds=seconds):
            return f"{name:<9} cannot be started now: {how}; tried again in {seconds:g} s"
        case ProcessStuck(name=name, pid=pid):
            return f"{name:<9} does not end although it was killed (pid {pid}); it is left behind"
        case ForkServerLost(how=how):
            return f"launcher  the fork server is lost: {how}; processes start all the same"
