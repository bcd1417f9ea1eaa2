"""Requests that begin at one denoiser and go on at another one, in real processes."""

import asyncio
import signal
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, aclosing, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from services.domain.checkpoint import Checkpoint
from services.domain.stages import Denoised, DenoiseEvent, DenoiseRequest
from services.domain.tensor_ref import Seal
from services.rpc.stage_clients import RemoteDenoiser
from services.tensor_store.tensor_store import TensorStore, open_store
from tests.conformance.gallery import Gallery
from tests.conformance.references import Reference, references
from tests.processes import Process, start
from tests.system.further_denoiser import wait_serving
from tests.valkey_server import key_value_server
from triptych.domain.call_seal import CallSeal
from triptych.domain.deadline import Deadline
from triptych.domain.element_type import ElementType
from triptych.domain.errors import TriptychError
from triptych.domain.events import StepCompleted

SECRET = "a secret of at least 32 characters"
TENANT, STEPS, EVERY = "someone", 30, 3
TEA_CACHE: dict[str, Any] = {
    "kind": "tea_cache",
    "coefficients": [0.0, 0.0, 0.0, 1.0, 0.0],
    "rel_l1_thresh": 0.8,
}
CACHES: dict[str, dict[str, Any]] = {"uncached": {"kind": "none"}, "tea_cache": TEA_CACHE}
# Solvers: the demo model's is Euler's, Wan's remembers its last steps.
EXHAUSTIVE = pytest.mark.exhaustive
PLACES = [
    pytest.param(("demo", "redis"), id="demo in redis"),
    pytest.param(("wan2.2-t2v-a14b", "shm"), id="wan in shm"),
    pytest.param(("demo", "shm"), id="demo in shm", marks=EXHAUSTIVE),
    pytest.param(("wan2.2-t2v-a14b", "redis"), id="wan in redis", marks=EXHAUSTIVE),
    pytest.param(("stable-diffusion-3.5-medium", "shm"), id="sd3.5 in shm", marks=EXHAUSTIVE),
]


def reference_of(model: str) -> Reference:
    return next(each for each in references() if each.model == model)


@dataclass
class Place:
    """A store, and a denoiser that stays.

    Attributes:
        model: what all denoisers here hold.
        store: what they share.
        requests: what to denoise, by its cache.
        stays: where the one listens that stays.
    """

    folder: Path
    url: str
    model: Path
    store: TensorStore
    requests: dict[str, DenoiseRequest]
    stays: str

    @contextmanager
    def denoiser(self, name: str, *options: str) -> Iterator[Process]:
        process = start(
            "denoiser_service",
            f"--listen={self.target(name)}",
            f"--model={self.model}",
            f"--store={self.url}",
            f"--cluster-secret-file={self.folder / 'secret'}",
            "--threads=1",
            "--order=round_robin",
            # What a killed process left would be gone at once.
            "--sweep-seconds=0.2",
            *options,
            children=["denoiser_service.rank"],
        )
        try:
            wait_serving(self.target(name))
            yield process
        finally:
            process.terminate()
            process.wait(60)

    def target(self, name: str) -> str:
        return f"unix:{self.folder / name}.sock"


@contextmanager
def store_of(kind: str, folder: Path) -> Iterator[str]:
    if kind == "shm":
        yield f"shm://{folder / 'store'}"
    else:
        with key_value_server() as server:
            yield server.url


@pytest.fixture(scope="module", params=PLACES)
def place(request: pytest.FixtureRequest, gallery: Gallery) -> Iterator[Place]:
    model, kind = request.param
    reference = reference_of(model)
    with ExitStack() as exits:
        made = tempfile.TemporaryDirectory(prefix="triptych-test-", dir="/dev/shm")
        folder = Path(exits.enter_context(made))
        (folder / "secret").write_text(SECRET)
        url = exits.enter_context(store_of(kind, folder))
        seal = Seal(SecretStr(SECRET))
        store = exits.enter_context(closing(open_store(url, seal=seal, ttl_seconds=600)))
        requests = {
            name: asked(gallery, store, reference, cache=cache) for name, cache in CACHES.items()
        }
        directory = gallery.directory(reference)
        place = Place(folder, url, directory, store, requests, f"unix:{folder / 'stays'}.sock")
        exits.enter_context(place.denoiser("stays", f"--checkpoint-steps={EVERY}"))
        yield place
        # All is in the requests' own scope, whoever stored it.
        for each in requests.values():
            store.release_request(TENANT, each.request_id)
        assert store.stats().stored_count == 0


def asked(
    gallery: Gallery, store: TensorStore, reference: Reference, **changes: Any
) -> DenoiseRequest:
    split = gallery.split(reference, ElementType.FLOAT32)
    parameters = split.parameters(**{**reference.small, "steps": STEPS, **changes})
    request_id = uuid.uuid4().hex
    conditioning = store.put(split.conditioned(parameters), tenant=TENANT, request_id=request_id)
    return DenoiseRequest(request_id, TENANT, parameters, conditioning, can_hand_over=True)


@asynccontextmanager
async def client_of(target: str) -> AsyncIterator[RemoteDenoiser]:
    client = RemoteDenoiser(target, seal=CallSeal(SECRET))
    try:
        yield client
    finally:
        await client.close()


class Call:
    """One call, followed to its end.

    Attributes:
        events: what it told.
        under_way: set once it told some steps, and a checkpoint if any is to come.
    """

    def __init__(
        self, client: RemoteDenoiser, request: DenoiseRequest, *, is_saved: bool = False
    ) -> None:
        self.events: list[DenoiseEvent] = []
        self.under_way = asyncio.Event()
        self._awaited = Checkpoint if is_saved else StepCompleted
        self._ended = asyncio.create_task(self._follow(client, request))

    async def error(self) -> TriptychError:
        with pytest.raises(TriptychError) as ended:
            await self._ended
        return ended.value

    async def denoised(self) -> Denoised:
        await self._ended
        last = self.events[-1]
        assert isinstance(last, Denoised)
        return last

    @property
    def steps(self) -> list[StepCompleted]:
        return [event for event in self.events if isinstance(event, StepCompleted)]

    @property
    def checkpoint(self) -> Checkpoint:
        """The last one."""
        return [event for event in self.events if isinstance(event, Checkpoint)][-1]

    async def _follow(self, client: RemoteDenoiser, request: DenoiseRequest) -> None:
        async with aclosing(client.denoise(request, Deadline.after(120))) as events:
            async for event in events:
                self.events.append(event)
                if isinstance(event, self._awaited) and len(self.steps) >= EVERY:
                    self.under_way.set()


def reused_in(denoised: Denoised) -> Any:
    statistics = denoised.cache_statistics
    return statistics and (statistics.branches, statistics.estimated_speedup)


def decided(steps: list[StepCompleted]) -> list[Any]:
    return [(step.step, step.sigma, step.decisions) for step in steps]


async def interrupted(place: Place, end: str) -> dict[str, Call]:
    """Calls to a denoiser that ends while it is at work on them."""
    is_saved = end == "killed"
    options = [f"--checkpoint-steps={EVERY}"] if is_saved else []
    with place.denoiser(end, *options) as process:
        async with client_of(place.target(end)) as client:
            calls = {
                name: Call(client, replace(request, attempt=1), is_saved=is_saved)
                for name, request in place.requests.items()
            }
            for call in calls.values():
                await call.under_way.wait()
            process.send_signal(signal.SIGKILL if end == "killed" else signal.SIGTERM)
            reasons = {(await call.error()).reason for call in calls.values()}
            code = await asyncio.to_thread(process.wait, 60)
    expected = ("STAGE_UNAVAILABLE", -signal.SIGKILL) if end == "killed" else ("HANDED_OVER", 0)
    assert (*reasons, code) == expected
    return calls


@pytest.mark.timeout(300)
@pytest.mark.parametrize("end", ["killed", "drained"])
async def test_a_request_goes_on_at_another_denoiser_with_the_bits_it_would_have_had(
    place: Place, end: str
) -> None:
    begun = await interrupted(place, end)
    async with client_of(place.stays) as client:
        for name, request in place.requests.items():
            checkpoint = begun[name].checkpoint
            done = checkpoint.completed_steps
            assert 0 < done < STEPS
            # Of one that was drained not a step is taken twice.
            assert end == "killed" or done == begun[name].steps[-1].step
            whole = Call(client, request)
            latents = await whole.denoised()
            again = Call(client, replace(request, attempt=2, resume_from=checkpoint))
            resumed = await again.denoised()
            assert resumed.latents_checksum_xxh3 == latents.latents_checksum_xxh3
            assert reused_in(resumed) == reused_in(latents)
            assert decided(begun[name].steps) == decided(whole.steps)[: len(begun[name].steps)]
            assert decided(again.steps) == decided(whole.steps)[done:]
    assert any(each.reused for step in whole.steps for each in step.decisions)


@pytest.mark.timeout(300)
async def test_a_checkpoint_that_is_gone_costs_its_steps_and_not_the_request(place: Place) -> None:
    request = place.requests["uncached"]
    async with client_of(place.stays) as client:
        whole = Call(client, request)
        latents = await whole.denoised()
        # Those that came later have taken its place.
        first = next(event for event in whole.events if isinstance(event, Checkpoint))
        again = Call(client, replace(request, resume_from=first))
        anew = await again.denoised()
    assert decided(again.steps) == decided(whole.steps)
    assert anew.latents_checksum_xxh3 == latents.latents_checksum_xxh3
