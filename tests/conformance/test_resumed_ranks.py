"""Real ranks that save a request, are killed, and leave it to those that take their place."""

import asyncio
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import SecretStr

from denoiser_service.rank.commands import (
    Finish,
    Finished,
    Prepare,
    Prepared,
    Save,
    Saved,
    Step,
    Stepped,
)
from denoiser_service.rank_group.generation import RankBounds
from denoiser_service.rank_group.local_ranks import RANK, LocalRanks
from denoiser_service.rank_group.supervisor import RankSupervisor
from services.domain.checkpoint import Checkpoint
from services.domain.tensor_ref import Seal
from services.tensor_store.tensor_store import TensorStore, open_store
from tests.conformance.gallery import Gallery
from tests.conformance.references import references
from tests.processes import shared_launcher
from tests.valkey_server import key_value_server
from triptych.domain.cache_statistics import BranchDecision
from triptych.domain.element_type import ElementType
from triptych.domain.errors import RanksLost
from triptych.domain.parallel import ParallelDegrees

SECRET = "a secret of at least 32 characters"
BOUNDS = RankBounds(start=300, command=300, silence=300)
TENANT, REQUEST = "someone", "0" * 32
STEPS, SAVED = 6, 3
DEMO = next(each for each in references() if each.model == "demo")
TEA_CACHE: dict[str, Any] = {
    "kind": "tea_cache",
    "coefficients": [0.0, 0.0, 0.0, 1.0, 0.0],
    "rel_l1_thresh": 0.8,
    "compute_last_step": False,
}


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="triptych-test-", dir="/dev/shm") as path:
        yield Path(path)


@pytest.fixture(params=["shm", "redis"])
def url(request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    """A store that outlives the processes that write to it."""
    if request.param == "shm":
        yield f"shm://{folder / 'store'}"
    else:
        with key_value_server() as server:
            yield server.url


@pytest.fixture
def store(url: str) -> Iterator[TensorStore]:
    with closing(open_store(url, seal=Seal(SecretStr(SECRET)), ttl_seconds=600)) as store:
        yield store


class Group:
    """A supervised group, told about one request."""

    def __init__(self, ranks: RankSupervisor, prepare: Prepare, store: TensorStore) -> None:
        self._ranks = ranks
        self._store = store
        self._prepare = prepare

    async def execute(self, command: Any) -> Any:
        await self._ranks.wait_ready()
        assert self._ranks.current is not None
        return await self._ranks.current.execute(command)

    async def prepared(self, resume: Checkpoint | None = None) -> Prepared:
        prepared = await self.execute(self._prepare.model_copy(update={"resume": resume}))
        assert isinstance(prepared, Prepared)
        return prepared

    async def stepped(self, count: int) -> list[list[BranchDecision]]:
        """Takes steps; what was decided in each."""
        decisions = []
        for _ in range(count):
            stepped = await self.execute(Step(request_id=REQUEST))
            assert isinstance(stepped, Stepped)
            decisions.append(sorted(stepped.decisions, key=lambda each: each.branch))
        return decisions

    async def saved(self) -> Checkpoint:
        saved = await self.execute(Save(request_id=REQUEST))
        assert isinstance(saved, Saved)
        return saved.checkpoint

    async def checksum(self) -> int:
        finished = await self.execute(Finish(request_id=REQUEST))
        assert isinstance(finished, Finished)
        return finished.latents_checksum_xxh3

    async def lose(self, number: int) -> None:
        """Kills one of the ranks, and has the others replaced with it."""
        generation = self._ranks.generation
        ranks = [
            process
            for process in psutil.Process().children()
            if RANK in " ".join(process.cmdline())
        ]
        ranks.sort(key=lambda rank: (rank.create_time(), rank.pid))
        ranks[number].send_signal(signal.SIGKILL)
        with pytest.raises(RanksLost):
            await self.stepped(STEPS)
        await self._ranks.wait_ready()
        assert self._ranks.generation > generation
        self._store.sweep()


@asynccontextmanager
async def running(
    model: Path,
    folder: Path,
    degrees: ParallelDegrees,
    prepare: Prepare,
    url: str,
    store: TensorStore,
) -> AsyncIterator[Group]:
    secret = folder / "secret"
    secret.write_text(SECRET)
    flags = {
        "model": model,
        "store": url,
        "cluster-secret-file": secret,
        "dtype": "float32",
        "device": "cpu",
        "threads": 1,
        # What a killed rank left would be gone at once.
        "sweep-seconds": 0.2,
        "cfg": degrees.cfg,
        "ring": degrees.ring,
    }
    source = LocalRanks(
        [f"--{flag}={value}" for flag, value in flags.items()],
        degrees.ranks,
        BOUNDS.beat,
        shared_launcher(),
    )
    ranks = RankSupervisor(source, degrees=degrees, bounds=BOUNDS)

    async def on_change(_: bool) -> None:
        pass

    task = asyncio.create_task(ranks.run(on_change))
    try:
        yield Group(ranks, prepare, store)
    finally:
        await ranks.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def asked(gallery: Gallery, store: TensorStore, **changes: Any) -> Prepare:
    split = gallery.split(DEMO, ElementType.FLOAT32)
    parameters = split.parameters(
        **{**DEMO.small, "steps": STEPS, "guidance_scale": 4.0, **changes}
    )
    conditioning = store.put(split.conditioned(parameters), tenant=TENANT, request_id=REQUEST)
    return Prepare(
        request_id=REQUEST, tenant=TENANT, parameters=parameters, conditioning=conditioning
    )


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "degrees", [ParallelDegrees(), ParallelDegrees(cfg=2)], ids=["one rank", "two ranks"]
)
async def test_ranks_go_on_from_what_those_before_them_saved_until_one_was_killed(
    gallery: Gallery, url: str, store: TensorStore, folder: Path, degrees: ParallelDegrees
) -> None:
    prepare = asked(gallery, store, cache=TEA_CACHE)
    async with running(gallery.directory(DEMO), folder, degrees, prepare, url, store) as group:
        await group.prepared()
        decisions = await group.stepped(STEPS)
        expected = await group.checksum()
        assert any(each.reused for step in decisions[SAVED:] for each in step)

        await group.prepared()
        await group.stepped(SAVED)
        checkpoint = await group.saved()
        assert checkpoint.completed_steps == SAVED
        # Each rank keeps what its own branch needs.
        assert [part.rank for part in checkpoint.parts] == list(range(degrees.ranks))
        await group.stepped(1)
        await group.lose(degrees.ranks - 1)

        prepared = await group.prepared(checkpoint)
        assert (prepared.completed_steps, prepared.recomputes) == (SAVED, False)
        assert await group.stepped(STEPS - SAVED) == decisions[SAVED:]
        assert await group.checksum() == expected


@pytest.mark.timeout(600)
@pytest.mark.parametrize("url", ["shm"], indirect=True)
@pytest.mark.parametrize("cached", [False, True], ids=["uncached", "cached"])
async def test_a_group_of_another_size_goes_on_from_the_latents_with_empty_caches(
    gallery: Gallery, url: str, store: TensorStore, folder: Path, cached: bool
) -> None:
    prepare = asked(gallery, store, cache=TEA_CACHE if cached else {"kind": "none"})
    directory = gallery.directory(DEMO)
    async with running(directory, folder, ParallelDegrees(cfg=2), prepare, url, store) as group:
        await group.prepared()
        await group.stepped(SAVED)
        checkpoint = await group.saved()
        await group.lose(0)
    async with running(directory, folder, ParallelDegrees(), prepare, url, store) as group:
        prepared = await group.prepared(checkpoint)
        assert (prepared.completed_steps, prepared.recomputes) == (SAVED, cached)
        first, *_ = await group.stepped(STEPS - SAVED)
        assert not any(each.reused for each in first)
        await group.checksum()
        # Beside the conditioning and the latents: the one that went on has released the parts of
        # both.
        assert store.stats().stored_count == 2
