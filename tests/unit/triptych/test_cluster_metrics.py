import pytest

from triptych.cluster.address import Address
from triptych.cluster.errors import ClusterConfigurationError
from triptych.cluster.metrics import metrics_addresses, with_metrics
from triptych.cluster.topology import Processes, ProcessSpec

PROCESSES = Processes(
    ProcessSpec("gateway", "g"), (ProcessSpec("encoder", "e"), ProcessSpec("vae", "v"))
)


def test_the_gateway_gets_the_address_and_the_others_the_ports_after_it() -> None:
    addresses = metrics_addresses(PROCESSES, Address("127.0.0.1", 9464))
    told = with_metrics(PROCESSES, addresses)
    assert told.gateway.arguments == ("--metrics-listen", "127.0.0.1:9464")
    assert [each.arguments[1] for each in told.stages] == ["127.0.0.1:9465", "127.0.0.1:9466"]


def test_port_0_stands_for_as_many_different_ports_that_are_free() -> None:
    addresses = metrics_addresses(PROCESSES, Address("127.0.0.1", 0))
    assert len({each.port for each in addresses.values()} - {0}) == 3


@pytest.mark.parametrize(("port", "enough"), [(65533, True), (65534, False)])
def test_too_few_ports_after_the_first_are_refused(port: int, enough: bool) -> None:
    if enough:
        assert len(metrics_addresses(PROCESSES, Address("127.0.0.1", port))) == 3
        return
    with pytest.raises(ClusterConfigurationError, match="leaves no ports for 3 processes"):
        metrics_addresses(PROCESSES, Address("127.0.0.1", port))
