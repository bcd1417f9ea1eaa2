from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack

import pytest

from tests.unit.jobs.benches import BACKENDS, KEPT, Bench, bench_of
from tests.valkey_server import BINARIES, KeyValueServer, key_value_server


@pytest.fixture(scope="session")
def ledger_servers() -> Iterator[Mapping[str, KeyValueServer]]:
    """Servers that keep what they are given, by their kind."""
    with ExitStack() as exits:
        yield {
            kind: exits.enter_context(key_value_server(*KEPT, binary=binary))
            for kind, binary in BINARIES.items()
        }


@pytest.fixture(params=BACKENDS)
async def bench(
    request: pytest.FixtureRequest, ledger_servers: Mapping[str, KeyValueServer]
) -> AsyncIterator[Bench]:
    async with bench_of(ledger_servers, request.param) as bench:
        yield bench
