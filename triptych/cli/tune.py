"""`triptych tune`."""

from pathlib import Path
from typing import Annotated

import typer

from triptych.cli import cluster_options as cluster
from triptych.cli import measuring_options as options
from triptych.cli.local_cluster import DTypeName, Offline, checked_model
from triptych.cli.measuring import measure


def tune(
    *,
    min_psnr: Annotated[
        float,
        typer.Option(
            metavar="DB",
            min=0,
            help="What every picture must hold against the one without a cache, in dB.",
        ),
    ],
    model: options.Model = None,
    profile: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Cache profile to write; the coefficients of one that is there are used and stay."
            " cache_profile.json in the model's directory by default.",
        ),
    ] = None,
    model_manifest: options.ModelManifest = None,
    prompts: options.Prompts = None,
    images: options.Images = None,
    steps: options.Steps = None,
    width: options.Width = None,
    height: options.Height = None,
    guidance: options.Guidance = None,
    frames: options.Frames = None,
    dtype: cluster.DType = DTypeName.FLOAT32,
    device: cluster.Device = "cpu",
    threads: cluster.Threads = 1,
    offline: Offline = False,
) -> None:
    """Find the fastest cache that holds a quality, and make it one model's default.

    Draws the prompts with TeaCache and DBCache at several thresholds, with TaylorSeer and masks and
    without, each beside an uncached run, and prints what each gained and cost.
    """
    measured = checked_model(model)
    values = {
        "model": measured,
        "profile": profile or _profile_inside(measured),
        "min-psnr": min_psnr,
        "model-manifest": model_manifest,
        "prompts": prompts,
        "steps": steps,
        "width": width,
        "height": height,
        "guidance-scale": guidance,
        "num-frames": frames,
        "dtype": dtype,
        "device": device,
        "threads": threads,
        "offline": str(offline).lower(),
    }
    measure("services.tuning.tune", values, images)


def _profile_inside(model: Path | str) -> Path:
    if not isinstance(model, Path):
        raise typer.BadParameter(
            f"{model} is no directory of yours to write to; name a file", param_hint="--profile"
        )
    return model / "cache_profile.json"
