"""`triptych generate`."""

from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import typer

from triptych.aio import AsyncClient
from triptych.channel import DEFAULT_TIMEOUT_SECONDS
from triptych.cli import request_options as options
from triptych.cli.cluster_event import describe
from triptych.cli.failure import reported_failures
from triptych.cli.interruptible import run
from triptych.cli.local_cluster import (
    DTypeName,
    TopologyName,
    checked_model_directory,
    checked_topology,
)
from triptych.cli.progress import ProgressDisplay
from triptych.cli.report import json_report, print_report
from triptych.cluster.address import Address
from triptych.cluster.cluster import ClusterSpec, LocalCluster
from triptych.cluster.topology import ModelOptions
from triptych.generation import Generation
from triptych.request import RequestOptions


def generate(
    prompt: options.Prompt,
    *,
    output: options.Output,
    target: options.Target = None,
    model: options.ModelNameOrDirectory = None,
    width: options.Width = None,
    height: options.Height = None,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    negative: options.Negative = None,
    seed: options.Seed = None,
    dtype: options.DType = None,
    timeout: options.Timeout = DEFAULT_TIMEOUT_SECONDS,
    topology: options.Topology = None,
    json: options.Json = False,
) -> None:
    """Draw a picture, by a running cluster or by one started for this call."""
    asked: RequestOptions = {
        "model": model if target else None,
        "negative_prompt": negative,
        "width": width,
        "height": height,
        "steps": steps,
        "guidance_scale": guidance,
        "seed": seed,
        "dtype": dtype.value if dtype else None,
    }
    with reported_failures():
        cluster = None if target else _cluster_for_one_call(model, topology, dtype)
        if target and topology:
            raise typer.BadParameter("has no effect with --target", param_hint="--topology")
        with ProgressDisplay(wanted=not json) as display:
            order = _Order(prompt, asked, timeout, output)
            generation = run(_generate(order, target, cluster, display))
    if json:
        typer.echo(json_report(generation, output))
    else:
        print_report(generation, output)


@dataclass(frozen=True, slots=True)
class _Order:
    prompt: str
    options: RequestOptions
    timeout: float
    output: Path


def _cluster_for_one_call(
    model: str | None, topology: TopologyName | None, dtype: DTypeName | None
) -> ClusterSpec:
    directory = checked_model_directory(Path(model) if model else None)
    model_options = ModelOptions((directory,), dtype or DTypeName.FLOAT32)
    return ClusterSpec(
        topology=checked_topology(topology or TopologyName.SPLIT, model_options),
        address=Address("127.0.0.1", 0),
    )


async def _generate(
    order: _Order, target: str | None, spec: ClusterSpec | None, display: ProgressDisplay
) -> Generation:
    async with AsyncExitStack() as exits:
        if spec is not None:
            display.say("starting a cluster for this call")
            cluster = LocalCluster(spec, lambda event: display.say(describe(event)))
            target = (await exits.enter_async_context(cluster)).target
        assert target is not None
        client = await exits.enter_async_context(AsyncClient(target))
        generation = await client.generate(
            order.prompt, timeout=order.timeout, on_event=display.on_event, **order.options
        )
        generation.save(order.output)
        display.say("ending")
    return generation
