"""A cluster on this machine."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, NoReturn, Self

from triptych.cluster.address import Address
from triptych.cluster.backoff import Backoff
from triptych.cluster.errors import ClusterFailedError
from triptych.cluster.events import ClusterEvent, ForkServerLost
from triptych.cluster.metrics import metrics_addresses, with_collector, with_metrics
from triptych.cluster.readiness import until_serving
from triptych.cluster.state import held_state
from triptych.cluster.supervisor import Supervisor
from triptych.cluster.topology import Processes, ProcessSpec, Topology, with_launcher
from triptych.cluster.workplace import Workplace, workplace
from triptych.launcher.fork_launcher import ForkLauncher
from triptych.launcher.launcher import ExecLauncher, Launcher, LauncherName

DEFAULT_ADDRESS: Final = Address("127.0.0.1", 7843)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSpec:
    """What to run, where, and with how much patience.

    Attributes:
        address: where the gateway listens; port 0 for any that is free.
        metrics: where the gateway serves its metrics; see metrics_addresses. None for nowhere.
        otlp_endpoint: URL of a collector to push metrics and traces to; None for nowhere.
        store_url: the user's own tensor store; EMBEDDED for a server of this cluster alone; None
            for a fresh one in memory.
        logs: directory for the processes' logs; None for one that is removed with the cluster.
        state: directory of what outlives the cluster, for the next one to go on with; None for
            nothing.
        drain_seconds: how long running requests may take to finish once the cluster is to end.
        grace_seconds: what a process gets beyond that before it is killed.
        ready_seconds: how long the cluster may take to serve.
        start_attempts: lives a process gets while the cluster is starting.
        backoff: pauses between lives; one is made for each process.
        launcher: how processes are started, by the cluster and by what it starts.
    """

    topology: Topology
    address: Address = DEFAULT_ADDRESS
    metrics: Address | None = None
    otlp_endpoint: str | None = None
    store_url: str | None = None
    logs: Path | None = None
    state: Path | None = None
    drain_seconds: float = 5.0
    grace_seconds: float = 3.0
    ready_seconds: float = 300.0
    start_attempts: int = 3
    backoff: Callable[[], Backoff] = Backoff
    launcher: LauncherName = LauncherName.FORK


class LocalCluster:
    """Processes that serve together while the `async with` block runs.

    Entering returns once the gateway reports SERVING; leaving drains the gateway, then ends the
    stages, and leaves no process and no file behind; cancelling the leaving task cuts that short.
    In between, what dies is started again.
    Use it from the main thread: the processes end with the thread that started them.
    """

    def __init__(
        self, spec: ClusterSpec, on_event: Callable[[ClusterEvent], None] = lambda _: None
    ) -> None:
        self._spec = spec
        self._on_event = on_event
        self._exits = AsyncExitStack()
        self._launcher: Launcher = ExecLauncher()
        self._supervisors: list[Supervisor] = []
        self._tasks: set[asyncio.Task[NoReturn]] = set()
        self._address = spec.address
        self._metrics: Mapping[str, Address] = {}
        self._place: Workplace | None = None
        self._in_a_hurry = False

    async def __aenter__(self) -> Self:
        """Starts and waits until it serves.

        Raises:
            ClusterConfigurationError: it cannot start as it was told to.
            ClusterFailedError: a process does not come up, or not in time.
        """
        async with AsyncExitStack() as exits:
            self._address = self._spec.address.free()
            # Left last: until its server has ended nobody else may have it.
            directory = self._spec.state
            state = exits.enter_context(held_state(directory)) if directory is not None else None
            self._place = exits.enter_context(
                workplace(self._spec.store_url, self._spec.logs, state=state)
            )
            processes = self._spec.topology.processes(
                self._address, self._place, self._spec.drain_seconds
            )
            if self._spec.metrics is not None:
                self._metrics = metrics_addresses(processes, self._spec.metrics)
                processes = with_metrics(processes, self._metrics)
            if self._spec.otlp_endpoint is not None:
                processes = with_collector(processes, self._spec.otlp_endpoint)
            processes = with_launcher(processes, self._spec.launcher)
            self._launcher = exits.enter_context(self._opened_launcher(processes, self._place.logs))
            exits.push_async_callback(self._launcher.close)
            # Ended in reverse: the gateway's running requests still need the stages.
            for group in (processes.servers, processes.stages, (processes.gateway,)):
                exits.push_async_callback(self._stop, self._start(group, self._place.logs))
            await self._until_ready()
            self._exits = exits.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._exits.aclose()

    @property
    def target(self) -> str:
        """Where clients on this machine connect to."""
        return str(self._address.reachable())

    @property
    def place(self) -> Workplace:
        """Its sockets, store and logs; only inside the `async with` block."""
        assert self._place is not None, "the cluster was not entered"
        return self._place

    @property
    def metrics_urls(self) -> dict[str, str]:
        """Where each process serves its metrics, by name; none unless they were asked for."""
        return {
            name: f"http://{address.reachable()}/metrics" for name, address in self._metrics.items()
        }

    @property
    def process_ids(self) -> dict[str, int]:
        """The processes that were started last, by name."""
        return {each.name: each.pid for each in self._supervisors if each.pid is not None}

    async def wait(self) -> NoReturn:
        """Waits until the cluster cannot go on.

        Raises:
            ClusterConfigurationError: a process that was started again refused its configuration.
        """
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        done.pop().result()

    def _start(self, specs: Iterable[ProcessSpec], logs: Path) -> list[Supervisor]:
        group = [
            Supervisor(
                spec,
                logs / f"{spec.name}.log",
                launcher=self._launcher,
                backoff=self._spec.backoff(),
                start_attempts=self._spec.start_attempts,
                on_event=self._on_event,
            )
            for spec in specs
        ]
        self._supervisors += group
        self._tasks |= {supervisor.start() for supervisor in group}
        return group

    @contextmanager
    def _opened_launcher(self, processes: Processes, logs: Path) -> Iterator[Launcher]:
        modules = {each.module for each in processes.heavy} | {
            child for each in processes.heavy for child in each.children
        }
        if self._spec.launcher is LauncherName.EXEC or not modules:
            yield ExecLauncher()
            return
        with (logs / "fork-server.log").open("ab") as log:
            modules.add(processes.gateway.module)
            launcher = ForkLauncher(
                sorted(modules), lambda how: self._on_event(ForkServerLost(how)), log.fileno()
            )
            launcher.begin()
            yield launcher

    async def _stop(self, group: list[Supervisor]) -> None:
        patience_seconds = self._spec.drain_seconds + self._spec.grace_seconds
        grace_seconds = 0 if self._in_a_hurry else patience_seconds
        try:
            await asyncio.gather(*(supervisor.stop(grace_seconds) for supervisor in group))
        except asyncio.CancelledError:
            # Asked a second time: what is still to be ended gets no grace either.
            self._in_a_hurry = True
            raise

    async def _until_ready(self) -> None:
        serving = asyncio.create_task(until_serving(self.target), name="wait until serving")
        try:
            done, _ = await asyncio.wait(
                {serving, *self._tasks},
                timeout=self._spec.ready_seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            serving.cancel()
        for task in done:
            task.result()
        if serving not in done:
            raise ClusterFailedError(self._too_late())
        for supervisor in self._supervisors:
            supervisor.settled = True

    def _too_late(self) -> str:
        ends = "\n".join(f"[{each.name}] {each.last_lines()}" for each in self._supervisors)
        return (
            f"the cluster was not ready after {self._spec.ready_seconds:g} s. Last lines:\n{ends}"
        )
