"""What happens to a local cluster, in words."""

from triptych.cluster.events import ClusterEvent, ForkServerLost, ProcessDied, ProcessStarted


def describe(event: ClusterEvent) -> str:
    """One line."""
    match event:
        case ProcessStarted(name=name, pid=pid):
            return f"{name:<9} started, pid {pid}"
        case ProcessDied(name=name, pid=pid, how=how, restart_in_seconds=seconds):
            return f"{name:<9} {how} (pid {pid}); it is started again in {seconds:g} s"
        case ForkServerLost(how=how):
            return f"launcher  the fork server is lost: {how}; processes start all the same"
