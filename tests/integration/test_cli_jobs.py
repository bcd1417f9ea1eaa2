"""`triptych jobs` and `triptych generate --detach` as processes, against a scripted gateway."""

import asyncio
import json
import signal
import time
from pathlib import Path

import pytest

from tests.integration.client_flavours import playing
from tests.integration.command import end, run, start
from tests.integration.scripted_cluster import (
    JOB_ID,
    PICTURE,
    ScriptedGateway,
    event,
    serving,
    successful_run,
)
from tests.integration.scripted_jobs import ScriptedJobs, numbered
from triptych.v1 import generation_pb2, job_pb2
from triptych.v1 import generation_service_pb2 as messages


def said(text: str) -> str:
    return " ".join(text.replace("│", " ").split())


async def test_a_detached_generation_prints_its_job_and_says_how_urgent_it_is() -> None:
    gateway = ScriptedJobs()
    began = time.time()
    async with serving(gateway) as target:
        ended = await run(
            *("generate", "a red circle", "--target", target, "--detach", "--request-id", "mine"),
            *("--priority", "batch", "--deadline", "3600", "--format", "webp", "--steps", "3"),
            *("--preview-every", "2"),
        )
        told = await run("generate", "a red circle", "--target", target, "--detach", "--json")
    assert (ended.code, ended.out, ended.err) == (0, f"{JOB_ID}\n", "")
    asked, other = gateway.submissions
    assert asked.client_request_id == "mine" != other.client_request_id
    assert asked.parameters.media_format == generation_pb2.MEDIA_FORMAT_WEBP
    assert (asked.parameters.steps, asked.parameters.preview_every_steps) == (3, 2)
    assert asked.scheduling.priority == job_pb2.PRIORITY_BATCH
    left = asked.scheduling.deadline.ToMilliseconds() / 1000 - began
    assert 3600 <= left < 3660
    assert not other.HasField("scheduling")
    report = json.loads(told.out)
    assert (report["job_id"], report["state"], report["parameters"]["seed"]) == (
        *(JOB_ID, "queued", 7),
    )


async def test_priority_and_deadline_go_with_a_generation_that_is_waited_for(
    tmp_path: Path,
) -> None:
    gateway = ScriptedJobs()
    async with serving(gateway) as target:
        ended = await run(
            *("generate", "a red circle", "-o", str(tmp_path / "a.png"), "--target", target),
            *("--priority", "interactive"),
        )
    assert ended.code == 0
    assert gateway.requests[0].scheduling.priority == job_pb2.PRIORITY_INTERACTIVE


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ([], "--output: name the file to write"),
        (["--detach"], "--detach: has no effect without --target"),
        (["-o", "a.png", "--priority", "batch"], "--priority or --deadline: has no effect without"),
        (["-o", "a.png", "--request-id", "x"], "--request-id: has no effect without --detach"),
        (["--detach", "--target", "x", "-o", "a.png"], "--output: has no effect with --detach"),
        (["--detach", "--target", "x", "--deadline", "-1"], "timeout is -1.0; allowed are seconds"),
        (
            ["--detach", "--target", "x", "--preview-every", "1", "--preview-dir", "."],
            "--preview-dir: has no effect with --detach",
        ),
    ],
)
async def test_options_that_do_not_go_together_are_refused(
    options: list[str], wrong: str, tmp_path: Path
) -> None:
    ended = await run("generate", "x", *options, directory=tmp_path)
    assert ended.code == 2
    assert wrong in said(ended.err)


async def test_a_cluster_without_jobs_says_so() -> None:
    async with serving(ScriptedGateway(playing())) as target:
        for command in (
            ["generate", "x", "--detach"],
            ["jobs", "list"],
            ["jobs", "show", JOB_ID],
        ):
            ended = await run(*command, "--target", target)
            assert ended.code == 3
            assert f"the cluster at {target} does not offer this method" in ended.err
            assert "Traceback" not in ended.err


async def test_jobs_are_listed_newest_first() -> None:
    gateway = ScriptedJobs()
    jobs = [gateway.job(job_pb2.JOB_STATE_RUNNING), gateway.job()]
    jobs[0].parameters.prompt = "a [bold] move"
    jobs[0].create_time.FromSeconds(int(time.time()) - 7300)
    gateway.pages = [messages.ListJobsResponse(jobs=jobs, next_page_token="0")]
    async with serving(gateway) as target:
        listed = await run(
            *("jobs", "list", "--target", target, "--state", "running", "--state", "succeeded"),
            *("--limit", "2"),
        )
        told = await run("jobs", "list", "--target", target, "--limit", "3", "--json")
        unknown = await run("jobs", "list", "--target", target, "--state", "lost")
    assert (listed.code, listed.err) == (0, "")
    _, running, succeeded = (line.split() for line in listed.out.splitlines())
    assert running == [JOB_ID, "running", "3/3", "2", "h", "a", "[bold]", "move"]
    assert succeeded[:2] == [JOB_ID, "succeeded"]
    assert gateway.lists[0].page_size == 2
    assert set(gateway.lists[0].states) == {job_pb2.JOB_STATE_RUNNING, job_pb2.JOB_STATE_SUCCEEDED}
    states = [job["state"] for job in json.loads(told.out)["jobs"]]
    assert states == ["running", "succeeded", "running"]
    assert unknown.code == 2


async def test_a_job_is_shown_with_what_became_of_it() -> None:
    gateway = ScriptedJobs()
    async with serving(gateway) as target:
        shown = await run("jobs", "show", JOB_ID, "--target", target)
        told = await run("jobs", "show", JOB_ID, "--target", target, "--json")
        unknown = await run("jobs", "show", "nothing", "--target", target)
    assert (shown.code, shown.err) == (0, "")
    lines = dict(line.strip().split(maxsplit=1) for line in shown.out.splitlines())
    assert (lines["job"], lines["state"], lines["seed"]) == (JOB_ID, "succeeded", "7")
    assert lines["submitted"] == "2027-01-15 08:00:00 UTC"
    report = json.loads(told.out)
    assert report["artifacts"][0]["artifact_id"] == JOB_ID
    assert len(report["artifacts"][0]["checksum_xxh3"]) == 16
    assert (unknown.code, unknown.err) == (3, "triptych: job_id: there is no job 'nothing'\n")


async def test_a_failed_job_says_why() -> None:
    gateway = ScriptedJobs()
    failure = job_pb2.JobFailed(
        status="UNAVAILABLE", reason="RANKS_LOST", message="a rank died", retryable=True
    )
    gateway.events = numbered(iter([event(failed=failure)]))
    job = gateway.job(job_pb2.JOB_STATE_FAILED)
    job.failure.CopyFrom(failure)
    gateway.job = lambda: job
    async with serving(gateway) as target:
        shown = await run("jobs", "show", JOB_ID, "--target", target)
        watched = await run("jobs", "watch", JOB_ID, "--target", target)
    assert "RANKS_LOST: a rank died; another job may succeed" in said(shown.out)
    assert (watched.code, watched.err) == (4, "triptych: a rank died\n")


async def test_a_job_is_cancelled() -> None:
    gateway = ScriptedJobs()
    async with serving(gateway) as target:
        ended = await run("jobs", "cancel", JOB_ID, "--target", target)
    assert (ended.code, ended.out) == (0, f"{JOB_ID}: cancelled\n")
    assert gateway.job_cancelled.is_set()


async def test_a_job_is_watched_to_its_end_and_its_previews_are_written(tmp_path: Path) -> None:
    responses = [*successful_run()]
    preview = job_pb2.Preview(step=2, data=b"a picture", width=4, height=2)
    responses.insert(6, event(preview=preview))
    gateway = ScriptedJobs(numbered(iter(responses)), breaks=[4])
    async with serving(gateway) as target:
        ended = await run(
            *("jobs", "watch", JOB_ID, "--target", target, "--preview-dir", str(tmp_path))
        )
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(f"{JOB_ID}: succeeded")
    assert gateway.watched_after == [0, 4]
    assert (tmp_path / "step-0002.png").read_bytes() == b"a picture"


async def test_what_a_job_drew_is_fetched_into_a_file_of_its_kind(tmp_path: Path) -> None:
    path = tmp_path / "circle.png"
    async with serving(ScriptedJobs()) as target:
        ended = await run("jobs", "fetch", JOB_ID, "--target", target, "-o", str(path))
        wrong = await run(
            "jobs", "fetch", JOB_ID, "--target", target, "-o", str(tmp_path / "a.mp4")
        )
    assert (ended.code, ended.err) == (0, "")
    assert path.read_bytes() == PICTURE
    assert f"{path}: 128x64 pixels, {len(PICTURE)} bytes, seed 7" in ended.out
    assert wrong.code == 2
    assert "but what was drawn is png: .png" in said(wrong.err)
    assert [file.name for file in tmp_path.iterdir()] == ["circle.png"]


async def test_an_interrupted_watch_leaves_the_job_alone() -> None:
    gateway = ScriptedJobs(endless=True)
    gateway.events.pop()
    async with serving(gateway) as target:
        process = await start("jobs", "watch", JOB_ID, "--target", target)
        await asyncio.wait_for(gateway.all_told.wait(), 60)
        process.send_signal(signal.SIGINT)
        ended = await end(process)
    assert (ended.code, ended.err) == (130, "triptych: no longer watched; the job goes on\n")
    assert not gateway.job_cancelled.is_set()


async def test_help_documents_the_exit_codes_of_every_command_of_jobs() -> None:
    for command in ([], ["list"], ["show"], ["cancel"], ["watch"], ["fetch"]):
        ended = await run("jobs", *command, "--help")
        assert ended.code == 0
        assert "130 cancelled" in said(ended.out)
