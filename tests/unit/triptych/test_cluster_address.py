"""Addresses a cluster listens on."""

import random
import socket
from pathlib import Path

import pytest

from triptych.cluster.address import Address
from triptych.cluster.errors import ClusterConfigurationError


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:7843", Address("127.0.0.1", 7843)),
        ("localhost:0", Address("localhost", 0)),
        ("[::1]:7843", Address("::1", 7843)),
    ],
)
def test_address_survives_being_written_and_read(text: str, address: Address) -> None:
    assert Address.parse(text) == address
    assert str(address) == text


@pytest.mark.parametrize("text", ["", "7843", ":7843", "localhost", "localhost:http", "a:65536"])
def test_what_is_no_address_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ClusterConfigurationError, match=r"host:port, for example 127\.0\.0\.1"):
        Address.parse(text)


def test_port_0_becomes_one_that_is_free() -> None:
    free = Address("127.0.0.1", 0).free()
    assert free.host == "127.0.0.1"
    assert free.port > 0


def test_a_port_for_0_is_none_that_the_system_gives_to_outgoing_connections() -> None:
    first, _ = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    assert Address("127.0.0.1", 0).free().port < int(first)


def test_a_port_that_is_taken_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = Address("127.0.0.1", 0).free().port
        monkeypatch.setattr(random, "sample", lambda *_: [free, taken.getsockname()[1]])
        assert Address("127.0.0.1", 0).free().port == free


def test_a_host_that_is_not_this_machines_is_looked_up_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[object] = []

    def unknown(*told: object, **_: object) -> None:
        asked.append(told)
        raise socket.gaierror(socket.EAI_NONAME, "not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(ClusterConfigurationError, match="cannot listen on nowhere:0"):
        Address("nowhere", 0).free()
    assert len(asked) == 1


def test_address_for_all_interfaces_is_reached_by_the_local_one() -> None:
    assert Address.parse("0.0.0.0:80").reachable() == Address("127.0.0.1", 80)
    assert str(Address.parse("[::]:80").reachable()) == "[::1]:80"
