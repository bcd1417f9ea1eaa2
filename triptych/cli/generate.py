"""`triptych generate`."""

import asyncio
import time
import uuid
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

import typer

from triptych.aio import AsyncClient
from triptych.channel import DEFAULT_TIMEOUT_SECONDS
from triptych.cli import family_options as family
from triptych.cli import request_options as options
from triptych.cli.cache_option import CacheText, read_cache
from triptych.cli.cluster_event import describe
from triptych.cli.connection import Connection, connecting
from triptych.cli.failure import reported_failures
from triptych.cli.interruptible import run
from triptych.cli.job_options import Submission, schedulable
from triptych.cli.job_report import job_json
from triptych.cli.local_cluster import (
    DTypeName,
    Offline,
    TopologyName,
    checked_model,
    checked_topology,
    patient,
)
from triptych.cli.output_file import checked_format
from triptych.cli.previews import PreviewDirectory, PreviewEvery, PreviewFiles, check_shown
from triptych.cli.progress import ProgressDisplay
from triptych.cli.reporting import Reporting, reporting
from triptych.cluster.address import Address
from triptych.cluster.cluster import ClusterSpec, LocalCluster
from triptych.cluster.topology import ModelOptions
from triptych.domain.generation import RequestOptions
from triptych.domain.job import Job
from triptych.domain.model import MediaFormat
from triptych.errors import UnavailableError
from triptych.generation import Generation

DEFAULT_WAIT_SECONDS: Final = 120.0
_PAUSE_SECONDS: Final = 0.5
_STARTING: Final = "STAGE_LOADING"

T = TypeVar("T")


@connecting
@schedulable
@reporting
def generate(
    prompt: options.Prompt,
    *,
    output: options.OutputUnlessDetached = None,
    target: options.Target = None,
    model: options.ModelNameOrDirectory = None,
    images: options.Images = None,
    width: options.Width = None,
    height: options.Height = None,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    negative: options.Negative = None,
    seed: options.Seed = None,
    num_images: options.NumImages = None,
    quality: options.Quality = None,
    compression_level: options.CompressionLevel = None,
    dtype: options.DType = None,
    timeout: options.Timeout = DEFAULT_TIMEOUT_SECONDS,
    wait: options.Wait = DEFAULT_WAIT_SECONDS,
    topology: options.Topology = None,
    offline: Offline = False,
    media_format: options.Format = None,
    cache: CacheText = None,
    preview_every: PreviewEvery = None,
    preview_dir: PreviewDirectory = None,
    frames: family.Frames = None,
    fps: family.Fps = None,
    low: family.LowNoiseGuidance = None,
    layers: family.Layers = None,
    resolution: family.Resolution = None,
    caption_image: family.CaptionImage = None,
    rewrite_prompt: family.RewritePrompt = None,
    image_guidance: family.ImageGuidance = None,
    guidance_interval: family.GuidanceInterval = None,
    true_guidance: family.TrueGuidance = None,
    submission: Submission,
    told: Reporting,
    connected: Connection,
) -> None:
    """Draw or edit a picture or a video, by a running cluster or by one started for this call."""
    asked: RequestOptions = {
        "model": model if target else None,
        "negative_prompt": negative,
        "width": width,
        "height": height,
        "steps": steps,
        "guidance_scale": guidance,
        "dtype": dtype.value if dtype else None,
        "images": images or (),
        "media_format": _format(media_format, output, submission),
        "options": family.of_one_family(
            *family.by_number(frames, fps, low, layers, resolution, caption_image),
            *family.by_guidance(rewrite_prompt, image_guidance, guidance_interval, true_guidance),
        ),
        "cache": read_cache(cache),
        "preview_every_steps": preview_every,
        **options.results(seed, num_images, quality, compression_level),
    }
    order = _Order(prompt, asked, timeout, wait, output, told, preview_dir, submission, connected)
    _carry_out(order, target, model, topology, dtype, offline=offline)


def _format(asked: MediaFormat | None, output: Path | None, submission: Submission) -> str | None:
    if output is None and not submission.detached:
        raise typer.BadParameter("name the file to write", param_hint="--output")
    if output is not None and submission.detached:
        raise typer.BadParameter(
            "has no effect with --detach: `triptych jobs fetch` writes what was drawn;"
            " --format says what that is",
            param_hint="--output",
        )
    return asked if output is None else checked_format(asked, output).value


def _display(order: "_Order") -> ProgressDisplay:
    every, directory = order.options["preview_every_steps"], order.preview_dir
    display = ProgressDisplay(wanted=not order.told.as_json, previews=PreviewFiles(directory))
    if not order.submission.detached:
        check_shown(every, directory, displayed=display.shown)
    elif order.told.receipt is not None:
        raise typer.BadParameter(
            "has no effect with --detach: `triptych jobs fetch` writes it", param_hint="--receipt"
        )
    elif directory is not None:
        raise typer.BadParameter(
            "has no effect with --detach: `triptych jobs watch` writes previews",
            param_hint="--preview-dir",
        )
    return display


def _carry_out(
    order: "_Order",
    target: str | None,
    model: str | None,
    topology: TopologyName | None,
    dtype: DTypeName | None,
    *,
    offline: bool,
) -> None:
    display = _display(order)
    if target and order.submission.detached:
        with reported_failures(), display:
            job = run(_submit(order, target, display))
        typer.echo(job_json(job) if order.told.as_json else job.job_id)
        return
    with reported_failures(), display:
        cluster = _cluster_for_one_call(order, target, model, topology, dtype, offline=offline)
        generation = run(_generate(order, target, cluster, display))
    _report(generation, order)


def _report(generation: Generation, order: "_Order") -> None:
    assert order.output is not None
    order.told.report(generation, generation.paths(order.output))


@dataclass(frozen=True, slots=True)
class _Order:
    prompt: str
    options: RequestOptions
    timeout: float
    wait: float
    output: Path | None
    told: Reporting
    preview_dir: Path | None
    submission: Submission
    connection: Connection

    def client(self, target: str) -> AsyncClient:
        """A client of the cluster that it goes to."""
        credentials, api_key = self.connection.credentials, self.connection.api_key
        return AsyncClient(target, credentials=credentials, api_key=api_key)


def _cluster_for_one_call(
    order: "_Order",
    target: str | None,
    model: str | None,
    topology: TopologyName | None,
    dtype: DTypeName | None,
    *,
    offline: bool,
) -> ClusterSpec | None:
    """None if there is a cluster already."""
    if target:
        for flag, given in (("--topology", topology), ("--offline", offline)):
            if given:
                raise typer.BadParameter("has no effect with --target", param_hint=flag)
        return None
    order.submission.check_alone()
    if order.connection.credentials:
        raise typer.BadParameter("has no effect without --target", param_hint="--tls")
    served = checked_model(model)
    model_options = ModelOptions((served,), dtype or DTypeName.FLOAT32, offline=offline)
    spec = ClusterSpec(
        topology=checked_topology(topology or TopologyName.SPLIT, model_options),
        address=Address("127.0.0.1", 0),
    )
    for name in model_options.fetched:
        typer.echo(f"{name}: what is not in the hub's cache yet is fetched first", err=True)
    return patient(spec, model_options)


async def _generate(
    order: _Order, target: str | None, spec: ClusterSpec | None, display: ProgressDisplay
) -> Generation:
    async with AsyncExitStack() as exits:
        if spec is not None:
            display.say("starting a cluster for this call")
            cluster = LocalCluster(spec, lambda event: display.say(describe(event)))
            target = (await exits.enter_async_context(cluster)).target
        assert target is not None
        assert order.output is not None
        client = await exits.enter_async_context(order.client(target))
        generation = await _patiently(
            lambda: client.generate(
                order.prompt,
                timeout=order.timeout,
                on_event=display.on_event,
                scheduling=order.submission.scheduling,
                **order.options,
            ),
            order.wait,
            display,
        )
        generation.save_all(order.output)
        display.say("ending")
    return generation if spec is None else _no_longer_kept(generation)


def _no_longer_kept(generation: Generation) -> Generation:
    """What was drawn by a cluster that has ended, and its artifacts with it."""
    artifacts = (replace(artifact, expire_time=None) for artifact in generation.artifacts)
    return replace(generation, artifacts=tuple(artifacts))


async def _submit(order: _Order, target: str, display: ProgressDisplay) -> Job:
    # One id for all tries: what an earlier one has handed in is not handed in again.
    request_id = order.submission.request_id or uuid.uuid4().hex
    async with order.client(target) as client:
        return await _patiently(
            lambda: client.submit(
                order.prompt,
                request_id=request_id,
                timeout=order.timeout,
                scheduling=order.submission.scheduling,
                **order.options,
            ),
            order.wait,
            display,
        )


async def _patiently(
    ask: Callable[[], Coroutine[None, None, T]], wait: float, display: ProgressDisplay
) -> T:
    """Asks again while the cluster says that it is starting: nothing has begun then."""
    until = time.monotonic() + wait
    while True:
        try:
            return await ask()
        except UnavailableError as error:
            if error.reason != _STARTING or time.monotonic() >= until:
                raise
            display.say(f"waiting for the cluster: {str(error).partition(';')[0]}")
        await asyncio.sleep(min(_PAUSE_SECONDS, max(0.0, until - time.monotonic())))
