"""Jobs over real stages, whose gateways, ledger and stages are killed and stopped."""

import asyncio
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from services.rpc.stage_clients import RemoteDenoiser
from tests.processes import start
from tests.system.further_denoiser import shared_flags
from tests.system.further_gateway import further_gateway
from tests.system.running_cluster import RunningCluster, running_cluster, until
from tests.valkey_server import KeyValueServer, key_value_server
from triptych import Client, NoCache, TeaCache
from triptych.domain.deadline import Deadline
from triptych.domain.events import StepCompleted
from triptych.domain.job import JobState

KEPT = ("--appendonly", "yes", "--appendfsync", "always")
STEPS = 40
SAVED_STEPS = 4
PROMPT = "two red hearts"


@pytest.fixture(scope="module")
def cluster() -> Iterator[RunningCluster]:
    saving = {"TRIPTYCH_DENOISER_CHECKPOINT_STEPS": str(SAVED_STEPS)}
    with running_cluster(environment=saving) as running:
        yield running


@pytest.fixture(scope="module")
def ledger() -> Iterator[KeyValueServer]:
    with key_value_server(*KEPT) as server:
        yield server


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not in pytest's directory: a socket's path has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="gw-") as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def expected(cluster: RunningCluster) -> bytes:
    """The picture of a job that nothing happens to."""
    with cluster.client() as client:
        return client.generate(PROMPT, steps=STEPS, seed=5).data


def _submitted(client: Client, seed: int = 5) -> str:
    return client.submit(PROMPT, steps=STEPS, seed=seed).job_id


def _until_step(client: Client, job_id: str, step: int) -> int:
    """Watches until a step is done; returns how many events it saw."""
    with closing(client.watch(job_id)) as events:
        for number, event in enumerate(events, 1):
            if isinstance(event, StepCompleted) and event.step >= step:
                return number
    raise AssertionError("the job ended before")


def _ends_well(client: Client, cluster: RunningCluster, job_id: str, expected: bytes) -> None:
    """What a job has to end with, whatever happened to it."""
    steps: list[int] = []

    def note(event: object) -> None:
        if isinstance(event, StepCompleted):
            steps.append(event.step)

    assert client.fetch(job_id, on_event=note).data == expected
    assert client.get(job_id).completed_steps == STEPS
    with closing(client.watch(job_id)) as events:
        told = [event.step for event in events if isinstance(event, StepCompleted)]
    assert told == list(range(1, STEPS + 1)), "each step is told once"
    assert until(lambda: cluster.stored_tensors() == []), cluster.stored_tensors()


def test_a_job_that_one_gateway_took_in_is_watched_and_fetched_at_another(
    cluster: RunningCluster, ledger: KeyValueServer, folder: Path, expected: bytes
) -> None:
    with (
        further_gateway(cluster, folder, "a", ledger.url) as one,
        further_gateway(cluster, folder, "b", ledger.url) as other,
        Client(one.target, timeout=60) as here,
        Client(other.target, timeout=60) as there,
    ):
        job_id = _submitted(here)
        _ends_well(there, cluster, job_id, expected)
        assert here.get(job_id) == there.get(job_id)
        # A stream's picture is the same, whichever gateway the work is done by.
        assert here.generate(PROMPT, steps=STEPS, seed=5).data == expected


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
def test_another_gateway_goes_on_with_the_job_of_one_that_ends(
    cluster: RunningCluster,
    ledger: KeyValueServer,
    folder: Path,
    expected: bytes,
    sent: signal.Signals,
) -> None:
    drain = "--drain-seconds=0.1"
    with further_gateway(cluster, folder, "a", ledger.url, drain) as one:
        with Client(one.target, timeout=60) as here:
            job_id = _submitted(here)
            _until_step(here, job_id, 5)
        with (
            further_gateway(cluster, folder, "b", ledger.url) as other,
            Client(other.target, timeout=60) as there,
        ):
            one.process.send_signal(sent)
            _ends_well(there, cluster, job_id, expected)
            one.process.send_signal(signal.SIGCONT)
            one.process.kill()
            assert there.get(job_id).state is JobState.SUCCEEDED


@contextmanager
def _other_denoiser(cluster: RunningCluster, folder: Path) -> Iterator[str]:
    """Where a denoiser listens that has taken no step yet."""
    target = f"unix:{folder}/denoiser.sock"
    saving = f"--checkpoint-steps={SAVED_STEPS}"
    process = start(
        *("denoiser_service", f"--listen={target}", *shared_flags(cluster), saving),
        children=["denoiser_service.rank"],
    )
    try:
        yield target
    finally:
        process.terminate()
        process.wait(60)


async def _steps_taken(target: str) -> int:
    denoiser = RemoteDenoiser(target)
    try:
        group = (await denoiser.capacity(Deadline.after(10))).rank_group
    finally:
        await denoiser.close()
    assert group is not None
    return group.completed_steps


@pytest.mark.parametrize(
    ("sent", "cache"),
    [
        (signal.SIGKILL, TeaCache(rel_l1_thresh=0.2)),
        (signal.SIGTERM, NoCache()),
        pytest.param(signal.SIGKILL, NoCache(), marks=pytest.mark.exhaustive),
        pytest.param(signal.SIGTERM, TeaCache(rel_l1_thresh=0.2), marks=pytest.mark.exhaustive),
    ],
    ids=["killed, tea_cache", "drained", "killed", "drained, tea_cache"],
)
def test_another_denoiser_goes_on_from_the_last_checkpoint(
    cluster: RunningCluster,
    ledger: KeyValueServer,
    folder: Path,
    sent: signal.Signals,
    cache: NoCache | TeaCache,
) -> None:
    with (
        _other_denoiser(cluster, folder) as other,
        further_gateway(cluster, folder, "a", ledger.url, f"--denoiser={other}") as one,
        Client(one.target, timeout=100) as here,
    ):
        asked = {"steps": STEPS, "seed": 5, "cache": cache}
        with cluster.client() as client:
            expected = client.generate(PROMPT, **asked).data
        before = asyncio.run(_steps_taken(other))
        job_id = here.submit(PROMPT, **asked).job_id
        _until_step(here, job_id, STEPS // 2)
        os.kill(cluster.pid("denoiser"), sent)
        _ends_well(here, cluster, job_id, expected)
        taken = asyncio.run(_steps_taken(other)) - before
        # What was taken while the last checkpoint was being stored is repeated, too.
        assert 0 < taken <= STEPS - STEPS // 2 + 2 * SAVED_STEPS
        cluster.wait_serving()


def test_a_ledger_that_is_gone_for_a_while_loses_nothing(
    cluster: RunningCluster, ledger: KeyValueServer, folder: Path, expected: bytes
) -> None:
    with (
        further_gateway(cluster, folder, "a", ledger.url) as one,
        Client(one.target, timeout=60) as here,
    ):
        job_id = _submitted(here)
        _until_step(here, job_id, 5)
        ledger.kill()
        # The job goes on meanwhile: its steps are not waited for by the ledger.
        assert until(_picture_kept(folder))
        ledger.start()
        _ends_well(here, cluster, job_id, expected)


def _picture_kept(folder: Path) -> Callable[[], bool]:
    return lambda: any(each.is_file() for each in (folder / "artifacts").rglob("*"))


def test_gateways_that_are_all_restarted_end_what_they_had_accepted(
    cluster: RunningCluster, ledger: KeyValueServer, folder: Path, expected: bytes
) -> None:
    with further_gateway(cluster, folder, "a", ledger.url) as one:
        with Client(one.target, timeout=60) as here:
            jobs = [_submitted(here) for _ in range(2)]
            seen = _until_step(here, jobs[0], 5)
        one.process.kill()
        one.process.wait(10)
    ledger.kill()
    ledger.start()
    with (
        further_gateway(cluster, folder, "a", ledger.url) as again,
        Client(again.target, timeout=60) as here,
    ):
        with closing(here.watch(jobs[0], after_sequence=seen)) as events:
            rest = [event.step for event in events if isinstance(event, StepCompleted)]
        assert rest == list(range(rest[0], STEPS + 1))
        for job_id in jobs:
            _ends_well(here, cluster, job_id, expected)
