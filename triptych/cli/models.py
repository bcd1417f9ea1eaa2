"""`triptych models`."""

from collections.abc import Iterable
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from triptych.channel import DEFAULT_TARGET
from triptych.cli.failure import reported_failures
from triptych.client import Client
from triptych.model_info import ModelInfo


def models(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="Show this model's limits and defaults."),
    ] = None,
    target: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Cluster to ask.")
    ] = DEFAULT_TARGET,
) -> None:
    """List the models a cluster serves, or one model's limits and defaults."""
    with reported_failures(), Client(target, timeout=10) as client:
        table = _list(client.models()) if name is None else _details(client.model(name))
    Console(highlight=False).print(table)


def _list(served: Iterable[ModelInfo]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("name", "family", "dtype", "size", "steps", "guidance"):
        table.add_column(heading)
    for model in served:
        defaults = model.defaults
        size = f"{defaults.width}x{defaults.height}"
        guidance = f"{defaults.guidance_scale:g}"
        table.add_row(model.name, model.family, model.dtype, size, str(defaults.steps), guidance)
    return table


def _details(model: ModelInfo) -> Table:
    limits, defaults = model.limits, model.defaults
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in (model.name, "allowed", "default"):
        table.add_column(heading)
    sides = f"{limits.min_side} to {limits.max_side}, multiples of {limits.size_multiple}"
    prompt = f"{limits.max_prompt_characters} characters, {limits.max_prompt_tokens} tokens"
    guidance = f"{limits.min_guidance_scale:g} to {limits.max_guidance_scale:g}"
    table.add_row("family", model.family)
    table.add_row("dtype", model.dtype)
    table.add_row("prompt", f"at most {prompt}")
    if limits.supports_negative_prompt:
        needed = f"with guidance above {limits.guidance_off_scale:g}"
        table.add_row("negative", needed, repr(defaults.negative_prompt))
    table.add_row("width", sides, str(defaults.width))
    table.add_row("height", sides, str(defaults.height))
    table.add_row("pixels", f"at most {limits.max_pixels}")
    table.add_row("steps", f"{limits.min_steps} to {limits.max_steps}", str(defaults.steps))
    table.add_row(
        "guidance",
        guidance if limits.supports_guidance else "none",
        f"{defaults.guidance_scale:g}",
    )
    table.add_row("media", ", ".join(limits.media_formats))
    return table
