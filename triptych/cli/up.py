"""`triptych up`."""

import asyncio
import time
from pathlib import Path

import typer

from triptych.cli import cluster_options as options
from triptych.cli.cluster_event import describe
from triptych.cli.failure import reported_failures
from triptych.cli.interruptible import run
from triptych.cli.local_cluster import (
    DTypeName,
    Offline,
    TopologyName,
    check_names,
    checked_model,
    checked_topology,
    patient,
)
from triptych.cluster.address import Address
from triptych.cluster.cluster import DEFAULT_ADDRESS, ClusterSpec, LocalCluster
from triptych.cluster.errors import ClusterConfigurationError
from triptych.cluster.state import check_installed, default_directory
from triptych.cluster.topology import ModelOptions, SplitTopology
from triptych.domain.parallel import ParallelDegrees
from triptych.launcher.launcher import LauncherName


def up(
    *,
    models: options.ModelDirectories = None,
    topology: options.Topology = TopologyName.SPLIT,
    store: options.Store = None,
    state: options.State = None,
    listen: options.Listen = str(DEFAULT_ADDRESS),
    metrics: options.Metrics = None,
    otlp_endpoint: options.OtlpEndpoint = None,
    dtype: options.DType = DTypeName.FLOAT32,
    device: options.Device = "cpu",
    threads: options.Threads = 1,
    offline: Offline = False,
    model_manifests: options.ModelManifests = None,
    cache_profiles: options.CacheProfiles = None,
    conditioning_cache: options.ConditioningCache = None,
    tiling: options.Tiling = False,
    attention_backend: options.AttentionBackend = None,
    compile_blocks: options.CompileBlocks = False,
    ulysses: options.Ulysses = 1,
    ring: options.Ring = 1,
    cfg: options.Cfg = 1,
    log_dir: options.LogDirectory = None,
    launcher: options.Launcher = LauncherName.FORK,
) -> None:
    """Serve one model or several from this machine until Ctrl-C.

    Processes that die are started again. Ctrl-C lets running requests finish, then ends
    everything; a second one ends it at once.
    """
    degrees = ParallelDegrees(ulysses=ulysses, ring=ring, cfg=cfg)
    if topology is TopologyName.FUSED:
        _check_fused(store, degrees)
    with reported_failures():
        served = tuple(map(checked_model, models or (None,)))
        check_names(served)
        profiles = _one_for_each("--cache-profile", cache_profiles, len(served))
        manifests = _one_for_each("--model-manifest", model_manifests, len(served))
        model_options = ModelOptions(
            *(served, dtype, device, threads, offline, profiles, manifests, degrees),
            conditioning_cache=conditioning_cache,
            tiling=tiling,
            attention_backend=attention_backend,
            compile_blocks=compile_blocks,
        )
        for name in model_options.fetched:
            typer.echo(f"hub       {name}: what is not in the cache yet is fetched first")
        address = Address.parse(listen)
        spec = ClusterSpec(
            topology=checked_topology(topology, model_options),
            address=address,
            metrics=Address.parse(metrics, "metrics") if metrics else None,
            otlp_endpoint=otlp_endpoint,
            store_url=store,
            logs=log_dir,
            state=_state(state, address),
            launcher=launcher,
        )
        run(_serve(patient(spec, model_options)))


def _check_fused(store: str | None, degrees: ParallelDegrees) -> None:
    if store:
        raise typer.BadParameter(
            "has no effect in a fused cluster, which keeps tensors to itself", param_hint="--store"
        )
    if degrees.ranks > 1:
        raise typer.BadParameter(
            "cannot be honoured by a fused cluster: ranks are processes, and it is one process",
            param_hint="--ulysses, --ring, --cfg",
        )


def _state(given: str | None, address: Address) -> Path | None:
    """Directory of what outlives the cluster; None for nothing, which is said to the user."""
    if given == options.OFF:
        return None
    if given is not None:
        return Path(given)
    if not address.port:
        typer.echo("state     off: port 0 is another one each time; --state DIR keeps jobs")
        return None
    try:
        check_installed()
    except ClusterConfigurationError as error:
        typer.echo(f"state     off: {str(error).removeprefix('state: ')}")
        return None
    return default_directory(address.port)


def _one_for_each(option: str, given: list[Path] | None, models: int) -> tuple[Path, ...]:
    if given and len(given) != models:
        raise typer.BadParameter(
            f"is given {len(given)} times for {models} models; give one for each",
            param_hint=option,
        )
    return tuple(given or ())


async def _serve(spec: ClusterSpec) -> None:
    started = time.monotonic()
    async with LocalCluster(spec, lambda event: typer.echo(describe(event))) as cluster:
        if isinstance(spec.topology, SplitTopology):
            typer.echo(f"tensors   {cluster.place.store_url}")
        if cluster.place.state is not None:
            typer.echo(f"state     {cluster.place.state.directory}")
        typer.echo(f"logs      {cluster.place.logs}")
        for name, url in cluster.metrics_urls.items():
            typer.echo(f"metrics   {url} of the {name}")
        typer.echo(f"ready     {cluster.target}, after {time.monotonic() - started:.1f} s")
        typer.echo(
            'try       triptych generate "a red circle on a blue background"'
            f" --output circle.png --target {cluster.target}"
        )
        try:
            await cluster.wait()
        except asyncio.CancelledError:
            # How this command is meant to end.
            typer.echo("ending    requests in progress may finish")
    typer.echo("ended")
