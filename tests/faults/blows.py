"""What is done to a cluster while it works."""

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.faults.members import Member, Service, hurt

_STOP_SHARE: Final = 0.3
_STOPPED_SECONDS: Final = (0.3, 3.0)
_APART_SECONDS: Final = (0.0, 0.5)


@dataclass(slots=True)
class Blows:
    """Hurts members one after the other, evenly over the stream of jobs.

    Attributes:
        members: who may be killed or stopped.
        replicas: who may be drained.
        kills: how many times somebody is killed or stopped.
        drains: how many times a replica is drained.
        seed: of all that is left to chance.
        record: what was done, by kind.
    """

    members: Sequence[Member]
    replicas: Sequence[Service]
    kills: int
    drains: int
    seed: int
    record: Counter[str] = field(default_factory=Counter)
    _resuming: set[asyncio.Task[None]] = field(default_factory=set)

    async def strike(self, progress: Callable[[], float], moved: asyncio.Event) -> None:
        """Strikes until all is done.

        Args:
            progress: the share of the jobs that have ended.
            moved: set whenever that grows.
        """
        chance = random.Random(self.seed)
        plan = ["kill"] * self.kills + ["drain"] * self.drains
        chance.shuffle(plan)
        for number, what in enumerate(plan):
            while progress() < number / len(plan):
                moved.clear()
                await moved.wait()
            await asyncio.sleep(chance.uniform(*_APART_SECONDS))
            if what == "drain":
                replica = chance.choice(self.replicas)
                replica.drain()
                self.record[f"{replica.kind}, drained"] += 1
            else:
                await self._kill(chance)
        await asyncio.gather(*self._resuming)

    async def _kill(self, chance: random.Random) -> None:
        # Each kind is as likely as any other, however many there are of it.
        kinds = sorted({member.kind for member in self.members})
        kind = chance.choice(kinds)
        stops = chance.random() < _STOP_SHARE
        seconds = chance.uniform(*_STOPPED_SECONDS)
        victims = [member for member in self.members if member.kind == kind]
        chance.shuffle(victims)
        while True:
            for victim in victims:
                number = signal.SIGSTOP if stops else signal.SIGKILL
                if (pid := victim.pid()) is not None and hurt(pid, number):
                    self.record[f"{kind}, {'stopped' if stops else 'killed'}"] += 1
                    if stops:
                        self._resume_later(pid, seconds)
                    return
            # All of them are being started.
            await asyncio.sleep(0.05)

    def _resume_later(self, pid: int, seconds: float) -> None:
        async def resume() -> None:
            await asyncio.sleep(seconds)
            hurt(pid, signal.SIGCONT)

        task = asyncio.create_task(resume())
        self._resuming.add(task)
        task.add_done_callback(self._resuming.discard)
