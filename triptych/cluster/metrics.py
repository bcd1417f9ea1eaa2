"""Where the processes of a cluster serve their metrics, and where they push what they measure."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from triptych.cluster.address import Address
from triptych.cluster.errors import ClusterConfigurationError
from triptych.cluster.topology import Processes, ProcessSpec


def metrics_addresses(processes: Processes, first: Address) -> Mapping[str, Address]:
    """An address for each process by its name.

    Args:
        processes: of the cluster; its store has no metrics of its own.
        first: the gateway's; the others get the ports after it, or any if the port is 0.

    Raises:
        ClusterConfigurationError: there are not so many ports after the first.
    """
    names = [each.name for each in (processes.gateway, *processes.stages)]
    if first.port == 0:
        # As many different ones, whichever the system offers.
        ports: dict[int, None] = {}
        while len(ports) < len(names):
            ports[first.free().port] = None
    else:
        if first.port + len(names) > 2**16:
            raise ClusterConfigurationError(
                f"metrics: {first} leaves no ports for {len(names)} processes; choose a lower one"
            )
        ports = dict.fromkeys(range(first.port, first.port + len(names)))
    return {name: Address(first.host, port) for name, port in zip(names, ports, strict=True)}


def with_metrics(processes: Processes, addresses: Mapping[str, Address]) -> Processes:
    """The same processes, told where to serve their metrics."""
    return _told(processes, lambda each: ("--metrics-listen", str(addresses[each.name])))


def with_collector(processes: Processes, endpoint: str) -> Processes:
    """The same processes, told where to push metrics and traces."""
    return _told(processes, lambda _: ("--otlp-endpoint", endpoint))


def _told(processes: Processes, flag: Callable[[ProcessSpec], tuple[str, str]]) -> Processes:
    def told(process: ProcessSpec) -> ProcessSpec:
        return replace(process, arguments=(*process.arguments, *flag(process)))

    stages = tuple(map(told, processes.stages))
    return replace(processes, gateway=told(processes.gateway), stages=stages)
