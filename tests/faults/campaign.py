"""A stream of jobs through a cluster that is hurt all the while, and what is left afterwards."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from services.jobs.ledger import JobLedger, LedgerUsage
from services.jobs.opening import open_ledger
from tests.faults.blows import Blows
from tests.faults.follower import Followed, Follower
from tests.faults.hurt_cluster import HurtCluster, Studio
from tests.faults.orders import Order
from tests.system.running_cluster import until

_REPEATED: Final = re.compile(r'"repeated_steps": (\d+)')
_QUIET_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What a campaign does.

    Attributes:
        studios: the models.
        orders: what is asked, in turn.
        jobs: how many there are.
        at_once: how many are under way at any time.
        kills: see Blows.
        drains: see Blows.
        gateways: how many.
        checkpoint_steps: after how many steps denoisers save.
        seed: of all that is left to chance.
    """

    studios: Sequence[Studio]
    orders: Sequence[Order]
    jobs: int
    at_once: int
    kills: int
    drains: int
    gateways: int = 2
    checkpoint_steps: int = 4
    seed: int = 1


@dataclass(slots=True)
class Outcome:
    """What came of a campaign.

    Attributes:
        blows: what was done, by kind.
        lost: jobs that did not end well, and why.
        duplicated: jobs that were there beside those that were handed in.
        wrong: jobs whose bytes, or whose steps, were not those of their twins.
        repeated: how many steps were taken again, for each time that a loop was begun again.
        left: what was still there that should not be.
        seconds: that the stream took.
    """

    blows: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    duplicated: int = 0
    wrong: list[str] = field(default_factory=list)
    repeated: list[int] = field(default_factory=list)
    left: dict[str, object] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def is_clean(self) -> bool:
        """Whether nothing was lost, doubled, wrong or left."""
        return not (self.lost or self.duplicated or self.wrong or self.left)


async def campaign(plan: Plan, folder: Path) -> Outcome:
    """Runs one.

    Args:
        plan: what to do.
        folder: short, empty, for all files.
    """
    outcome = Outcome()
    cluster = await asyncio.to_thread(
        lambda: HurtCluster(folder, plan.studios, plan.gateways, plan.checkpoint_steps)
    )
    try:
        await asyncio.to_thread(cluster.wait_serving)
        channels = cluster.channels()
        follower = Follower(channels, plan.seed)
        # Nothing happens to the twins.
        twins = {
            order.name: await follower.follow(order, f"twin of {order.name}")
            for order in plan.orders
        }
        await _stream(plan, cluster, follower, twins, outcome)
        await _look_back(plan, cluster, outcome)
        for channel in channels:
            await channel.close()
    finally:
        codes = await asyncio.to_thread(cluster.end)
    outcome.repeated = _repeated_steps(cluster)
    _note(outcome, "exit codes", {name: code for name, code in codes.items() if code})
    _note(outcome, "processes", _processes(folder))
    return outcome


async def _stream(
    plan: Plan,
    cluster: HurtCluster,
    follower: Follower,
    twins: Mapping[str, Followed],
    outcome: Outcome,
) -> None:
    began = time.monotonic()
    places, moved, ended = asyncio.Semaphore(plan.at_once), asyncio.Event(), 0

    async def one(number: int) -> None:
        nonlocal ended
        order = plan.orders[number % len(plan.orders)]
        async with places:
            try:
                followed = await follower.follow(order, f"job {number}")
            except AssertionError as error:
                outcome.lost.append(f"job {number} ({order.name}): {error}")
            else:
                if wrong := _difference(followed, twins[order.name]):
                    outcome.wrong.append(f"job {number} ({order.name}): {wrong}")
            ended += 1
            moved.set()

    blows = Blows(cluster.members, cluster.replicas, plan.kills, plan.drains, plan.seed)
    striking = asyncio.create_task(blows.strike(lambda: ended / plan.jobs, moved))
    await asyncio.gather(*(one(number) for number in range(plan.jobs)))
    await striking
    outcome.blows = blows.record
    outcome.seconds = time.monotonic() - began


def _difference(followed: Followed, twin: Followed) -> str:
    """What a job has other than its twin; empty for nothing."""
    if followed.artifacts != twin.artifacts:
        return "other bytes"
    if (steps := _steps(followed)) != _steps(twin):
        return f"other steps: {steps}"
    results = [events.events[-1].completed.result for events in (followed, twin)]
    if len({result.latents_checksum_xxh3 for result in results}) > 1:
        return "other latents"
    return ""


def _steps(followed: Followed) -> list[int]:
    return [
        event.step_completed.step for event in followed.events if event.HasField("step_completed")
    ]


async def _look_back(plan: Plan, cluster: HurtCluster, outcome: Outcome) -> None:
    tensors, ledger = (server.server for server in cluster.servers)
    opened: JobLedger = await open_ledger(ledger.url)
    try:
        usage = await _quiet(opened)
        known = len(plan.orders) + plan.jobs
        outcome.duplicated = max(0, usage.ended - known)
        _note(outcome, "open jobs", usage.queued + usage.held)
    finally:
        await opened.close()
    # Those of stages that were killed go with the next sweep.
    await asyncio.to_thread(lambda: until(lambda: not tensors.client().keys("*"), _QUIET_SECONDS))
    _note(outcome, "tensors", [key.decode() for key in tensors.client().keys("*")])
    artifacts = (cluster.folder / "artifacts").rglob("*")
    _note(outcome, "uploads", [str(path) for path in artifacts if "upload" in path.name])


async def _quiet(ledger: JobLedger) -> LedgerUsage:
    async with asyncio.timeout(_QUIET_SECONDS):
        while (usage := await ledger.usage()).queued + usage.held:
            await ledger.wait_for_work(0.2)
    return usage


def _repeated_steps(cluster: HurtCluster) -> list[int]:
    logs = [cluster.folder / f"{gateway.name}.log" for gateway in cluster.gateways]
    return [int(found) for log in logs for found in _REPEATED.findall(log.read_text())]


def _processes(folder: Path) -> list[str]:
    """Those that were told of the folder, and are still there."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if f"{folder}/" in line:
            found.append(line[:200])
    return found


def _note(outcome: Outcome, what: str, found: object) -> None:
    if found:
        outcome.left[what] = found
