import asyncio
import shutil
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from pydantic import SecretStr

from denoiser_service.rank.channel import encode_frame, read_frame
from denoiser_service.rank.commands import (
    Abort,
    Aborted,
    Alive,
    Command,
    Failed,
    Finish,
    Finished,
    Prepare,
    Prepared,
    RankReady,
    Reply,
    Step,
    Stepped,
    decode_reply,
)
from services.domain.tensor_ref import Seal
from services.loaded_models.loading import load_denoiser
from services.tensor_store.tensor_store import TensorStore, open_store
from tests.processes import shared_launcher
from tests.unit.denoiser_service.fakes import ONE, TENANT, TWO
from triptych.domain.element_type import ElementType
from triptych.domain.generation import GenerationRequest, resolve
from triptych.domain.model import ModelInfo
from triptych.launcher import command as launching
from triptych.launcher.process import LaunchedProcess

ROOT = Path(__file__).parents[3]
DEMO = ROOT / "models" / "demo"
SECRET = "a secret of at least 32 characters"
SECONDS = 100.0


@dataclass
class Rank:
    """A started rank and the supervisor's end of its channel."""

    process: LaunchedProcess
    log: Path
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def receive(self) -> Reply:
        async with asyncio.timeout(SECONDS):
            # A slow machine's step may outlast a beat.
            while isinstance(reply := decode_reply(await read_frame(self.reader)), Alive):
                pass
            return reply

    async def execute(self, command: Command) -> Reply:
        self.writer.write(encode_frame(command))
        return await self.receive()

    async def exit_code(self) -> int:
        async with asyncio.timeout(SECONDS):
            return await self.process.wait()

    async def aclose(self) -> None:
        self.writer.close()
        self.process.kill()
        await self.process.wait()


@pytest.fixture
def folder() -> Iterator[Path]:
    """On tmpfs; leaves nothing."""
    folder = Path(tempfile.mkdtemp(prefix="triptych-test-", dir="/dev/shm"))
    (folder / "secret").write_text(SECRET)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def store(folder: Path) -> Iterator[TensorStore]:
    seal = Seal(SecretStr(SECRET))
    with closing(open_store(f"shm://{folder}/store", seal=seal, ttl_seconds=600)) as store:
        yield store


@asynccontextmanager
async def started(folder: Path, *options: str, model: Path = DEMO) -> AsyncIterator[Rank]:
    ours, theirs = socket.socketpair()
    flags = {
        "channel-fd": str(theirs.fileno()),
        "model": str(model),
        "store": f"shm://{folder}/store",
        "cluster-secret-file": str(folder / "secret"),
    }
    with theirs:
        log = folder / "log"
        with log.open("wb") as sink:
            command = launching.Command(
                module="denoiser_service.rank",
                arguments=(*(f"--{name}={value}" for name, value in flags.items()), *options),
                descriptors=(theirs.fileno(),),
                stderr=sink.fileno(),
                heavy=True,
            )
            process = await shared_launcher().launch(command)
    reader, writer = await asyncio.open_connection(sock=ours)
    async with aclosing(Rank(process, log, reader, writer)) as rank:
        yield rank


def prepare(store: TensorStore, model: ModelInfo, request_id: str, seed: int) -> Prepare:
    request = GenerationRequest(prompt="-", width=64, height=64, steps=2, seed=seed)
    tensors = {
        "prompt_embeds": torch.linspace(-1, 1, 5 * 64).view(1, 5, 64),
        "negative_prompt_embeds": torch.linspace(1, -1, 3 * 64).view(1, 3, 64),
    }
    return Prepare(
        request_id=request_id,
        tenant=TENANT,
        parameters=resolve(request, model, draw_seed=lambda: 0),
        conditioning=store.put(tensors, tenant=TENANT, request_id=request_id),
    )


def latents_of_this_process(store: TensorStore, command: Prepare) -> torch.Tensor:
    torch.set_num_threads(1)
    denoiser = load_denoiser(DEMO, None, ElementType.FLOAT32, "cpu").model
    with store.get(command.conditioning, tenant=TENANT, request_id=command.request_id) as tensors:
        state = denoiser.prepare(command.parameters, tensors)
    for _ in range(state.total_steps):
        denoiser.step(state)
    return denoiser.finish(state)["latents"]


async def test_a_rank_denoises_interleaved_requests_and_ends_with_its_channel(
    folder: Path, store: TensorStore
) -> None:
    async with started(folder) as rank:
        ready = await rank.receive()
        assert isinstance(ready, RankReady)
        assert (ready.pid, ready.tensor_store) == (rank.process.pid, store.identity)
        assert [each.name for each in ready.loaded.components] == ["transformer"]

        # Ctrl-C reaches every process of a terminal; only the supervisor acts on it.
        rank.process.send_signal(signal.SIGINT)
        first, second = (prepare(store, ready.loaded.model, each, seed=4) for each in (ONE, TWO))
        assert isinstance(await rank.execute(first), Prepared)
        assert isinstance(await rank.execute(Step(request_id=ONE)), Stepped)
        assert isinstance(await rank.execute(second), Prepared)
        assert isinstance(await rank.execute(Step(request_id=TWO)), Stepped)
        assert isinstance(await rank.execute(prepare(store, ready.loaded.model, ONE, 1)), Failed)
        assert isinstance(await rank.execute(Abort(request_id=TWO)), Aborted)
        assert isinstance(await rank.execute(Step(request_id=ONE)), Stepped)
        finished = await rank.execute(Finish(request_id=ONE))
        assert isinstance(finished, Finished)
        with store.get(finished.latents, tenant=TENANT, request_id=ONE) as tensors:
            assert torch.equal(tensors["latents"], latents_of_this_process(store, first))

        rank.writer.close()
        assert await rank.exit_code() == 0
    store.release_request(TENANT, ONE)
    store.release_request(TENANT, TWO)
    assert store.stats().stored_count == 0
    assert store.sweep().orphaned == 0


async def test_a_killed_rank_is_the_end_of_its_channel(folder: Path, store: TensorStore) -> None:
    async with started(folder) as rank:
        await rank.receive()
        rank.process.kill()
        with pytest.raises(asyncio.IncompleteReadError):
            await rank.receive()
        assert await rank.exit_code() == -signal.SIGKILL


async def test_a_rank_that_is_sent_nonsense_ends(folder: Path) -> None:
    async with started(folder) as rank:
        await rank.receive()
        rank.writer.write(b"\xff" * 4)
        with pytest.raises(asyncio.IncompleteReadError):
            await rank.receive()
        assert await rank.exit_code() == 1


@pytest.mark.parametrize(
    ("model", "options", "says"),
    [
        (Path("nothing"), (), "model: nothing is not a directory"),
        (DEMO, ("--attention-backend=fast",), "attention_backend: is 'fast'; allowed are "),
    ],
    ids=["no-model", "no-such-attention"],
)
async def test_a_rank_that_cannot_start_says_why_and_exits_with_2(
    folder: Path, model: Path, options: tuple[str, ...], says: str
) -> None:
    async with started(folder, *options, model=model) as rank:
        with pytest.raises(asyncio.IncompleteReadError):
            await rank.receive()
        # Whoever sees the channel's end must not take a refusal for a crash.
        assert await rank.exit_code() == 2
        said = rank.log.read_text()
        assert f"rank: {says}" in said
        assert "Traceback" not in said
