"""What is said of jobs, to people and to scripts."""

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime

from rich.table import Table
from rich.text import Text

from triptych.domain.generation_result import Artifact
from triptych.domain.job import Job


def jobs_table(jobs: Iterable[Job]) -> Table:
    """A line for each, whose age is by this machine's clock."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    # An id is there to be copied: on a narrow terminal the prompt gives way.
    for heading in ("job", "state", "steps", "age"):
        table.add_column(heading, no_wrap=True)
    table.add_column("prompt", no_wrap=True, overflow="ellipsis")
    now = time.time()
    for job in jobs:
        age, prompt = _age(now - job.create_time), " ".join(job.parameters.prompt.split())
        table.add_row(job.job_id, job.state, _steps(job), age, Text(prompt))
    return table


def job_table(job: Job) -> Table:
    """All that matters of one."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _lines(job):
        table.add_row(name, Text(value))
    return table


def job_json(job: Job) -> str:
    """One JSON object; checksums are 16 hexadecimal digits, times are seconds of the epoch."""
    return json.dumps(_told(job))


def jobs_json(jobs: Iterable[Job]) -> str:
    """One JSON object, whose `jobs` are as `job_json` has them."""
    return json.dumps({"jobs": [_told(job) for job in jobs]})


def _lines(job: Job) -> Iterator[tuple[str, str]]:
    yield "job", job.job_id
    yield "state", job.state
    yield "model", job.parameters.model
    yield "prompt", job.parameters.prompt
    yield "size", f"{job.parameters.width}x{job.parameters.height}"
    yield "seed", str(job.parameters.seed)
    yield "steps", _steps(job)
    yield "priority", job.scheduling.priority
    moments = {
        "deadline": job.scheduling.deadline,
        "submitted": job.create_time,
        "started": job.start_time,
        "ended": job.end_time,
    }
    for name, moment in moments.items():
        if moment is not None:
            yield name, f"{_moment(moment)} UTC"
    if job.failure is not None:
        again = "; another job may succeed" if job.failure.retryable else ""
        yield "failure", f"{job.failure.reason}: {job.failure.message}{again}"
    for artifact in job.result.artifacts if job.result else ():
        yield "artifact", _artifact_line(artifact)


def _artifact_line(artifact: Artifact) -> str:
    size = f"{artifact.width}x{artifact.height} pixels, {artifact.size_bytes} bytes"
    if artifact.expire_time is None:
        return f"{artifact.artifact_id}: {size}"
    return f"{artifact.artifact_id}: {size}, kept until {_moment(artifact.expire_time)} UTC"


def _told(job: Job) -> dict[str, object]:
    return {
        "job_id": job.job_id,
        "state": job.state,
        "scheduling": asdict(job.scheduling),
        "create_time": job.create_time,
        "start_time": job.start_time,
        "end_time": job.end_time,
        "completed_steps": job.completed_steps,
        "total_steps": job.total_steps,
        "last_sequence": job.last_sequence,
        "failure": None if job.failure is None else asdict(job.failure),
        "artifacts": [_artifact(each) for each in job.result.artifacts] if job.result else [],
        "parameters": asdict(job.parameters),
    }


def _artifact(artifact: Artifact) -> dict[str, object]:
    checksums = ("checksum_xxh3", "latents_checksum_xxh3")
    return asdict(artifact) | {name: f"{getattr(artifact, name):016x}" for name in checksums}


def _steps(job: Job) -> str:
    return f"{job.completed_steps}/{job.total_steps}"


def _age(seconds: float) -> str:
    """For example "3 min"; whole, of the largest unit of which there is one."""
    whole, unit = max(0, int(seconds)), "s"
    for size, larger in ((60, "min"), (60, "h"), (24, "d")):
        if whole < size:
            break
        whole, unit = whole // size, larger
    return f"{whole} {unit}"


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"
