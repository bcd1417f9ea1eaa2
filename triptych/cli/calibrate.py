"""`triptych calibrate`."""

from pathlib import Path
from typing import Annotated

import typer

from triptych.cli import cluster_options as cluster
from triptych.cli import measuring_options as options
from triptych.cli.local_cluster import DTypeName, Offline, checked_model
from triptych.cli.measuring import measure


def calibrate(
    *,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Cache profile to write. Of one that is there, the default cache stays.",
        ),
    ],
    model: options.Model = None,
    identity: Annotated[
        bool,
        typer.Option(
            "--identity",
            help="Take distances as they are, for a model whose fit predicts nothing.",
        ),
    ] = False,
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
    """Find the coefficients with which TeaCache judges one model's steps.

    Draws the prompts, records how much the signal and the output of the blocks change from step to
    step, fits one to the other, and measures speed and likeness at several thresholds, with the fit
    and with the identity. A fit that explains less than half (R2 below 0.5) is refused.
    """
    values = {
        "model": checked_model(model),
        "output": output,
        "identity": str(identity).lower(),
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
    measure("services.tuning.calibrate", values, images)
