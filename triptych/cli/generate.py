"""`triptych generate`."""

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

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
from triptych.cli.report import json_report, print_report
from triptych.cluster.address import Address
from triptych.cluster.cluster import ClusterSpec, LocalCluster
from triptych.cluster.topology import ModelOptions
from triptych.domain.generation import RequestOptions
from triptych.errors import UnavailableError
from triptych.generation import Generation

DEFAULT_WAIT_SECONDS: Final = 120.0
_PAUSE_SECONDS: Final = 0.5
_STARTING: Final = "STAGE_LOADING"


@connecting
def generate(
    prompt: options.Prompt,
    *,
    output: options.Output,
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
    json: options.Json = False,
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
        "media_format": checked_format(media_format, output).value,
        "options": family.of_one_family(
            *family.by_number(frames, fps, low, layers, resolution, caption_image),
            *family.by_guidance(rewrite_prompt, image_guidance, guidance_interval, true_guidance),
        ),
        "cache": read_cache(cache),
        "preview_every_steps": preview_every,
        **options.results(seed, num_images, quality, compression_level),
    }
    order = _Order(prompt, asked, timeout, wait, output, json, connected)
    display = _display(preview_every, preview_dir, wanted=not json)
    _report(_drawn(order, display, target, model, topology, dtype, offline=offline), order)


def _display(every: int | None, directory: Path | None, *, wanted: bool) -> ProgressDisplay:
    display = ProgressDisplay(wanted=wanted, previews=PreviewFiles(directory))
    check_shown(every, directory, displayed=display.shown)
    return display


def _drawn(
    order: "_Order",
    display: ProgressDisplay,
    target: str | None,
    model: str | None,
    topology: TopologyName | None,
    dtype: DTypeName | None,
    *,
    offline: bool,
) -> Generation:
    connected = order.connection
    with reported_failures(), display:
        cluster = _cluster_for_one_call(target, connected, model, topology, dtype, offline=offline)
        return run(_generate(order, target, cluster, display))


def _report(generation: Generation, order: "_Order") -> None:
    if order.as_json:
        typer.echo(json_report(generation, generation.paths(order.output)))
    else:
        print_report(generation, generation.paths(order.output))


@dataclass(frozen=True, slots=True)
class _Order:
    prompt: str
    options: RequestOptions
    timeout: float
    wait: float
    output: Path
    as_json: bool
    connection: Connection


def _cluster_for_one_call(
    target: str | None,
    connected: Connection,
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
    if connected.credentials:
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
        client = await exits.enter_async_context(
            AsyncClient(
                target,
                credentials=order.connection.credentials,
                api_key=order.connection.api_key,
            )
        )
        generation = await _patiently(client, order, display)
        generation.save_all(order.output)
        display.say("ending")
    return generation if spec is None else _no_longer_kept(generation)


def _no_longer_kept(generation: Generation) -> Generation:
    """What was drawn by a cluster that has ended, and its artifacts with it."""
    artifacts = (replace(artifact, expire_time=None) for artifact in generation.artifacts)
    return replace(generation, artifacts=tuple(artifacts))


async def _patiently(client: AsyncClient, order: _Order, display: ProgressDisplay) -> Generation:
    """Asks again while the cluster says that it is starting: nothing has begun then."""
    until = time.monotonic() + order.wait
    while True:
        try:
            return await client.generate(
                order.prompt, timeout=order.timeout, on_event=display.on_event, **order.options
            )
        except UnavailableError as error:
            if error.reason != _STARTING or time.monotonic() >= until:
                raise
            display.say(f"waiting for the cluster: {str(error).partition(';')[0]}")
        await asyncio.sleep(min(_PAUSE_SECONDS, max(0.0, until - time.monotonic())))
