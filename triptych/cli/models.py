"""`triptych models`."""

from collections.abc import Iterable, Iterator
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from triptych.channel import DEFAULT_TARGET
from triptych.cli.cache_option import cache_text
from triptych.cli.connection import Connection, connecting
from triptych.cli.failure import reported_failures
from triptych.client import Client
from triptych.domain.acceleration import NoCache
from triptych.domain.family_options import OptionLimits
from triptych.domain.model import Capabilities, GenerationDefaults, ModelInfo


@connecting
def models(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="Show this model's limits and defaults."),
    ] = None,
    target: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Cluster to ask.")
    ] = DEFAULT_TARGET,
    *,
    connected: Connection,
) -> None:
    """List the models a cluster serves, or one model's limits and defaults."""
    credentials, api_key = connected.credentials, connected.api_key
    client = Client(target, timeout=10, credentials=credentials, api_key=api_key)
    with reported_failures(), client:
        table = _list(client.models()) if name is None else _details(client.model(name))
    Console(highlight=False).print(table)


def _list(served: Iterable[ModelInfo]) -> Table:
    headings = ("name", "family", "dtype", "size", "steps", "guidance", "images")
    table = _table(*headings)
    for model in served:
        limits, defaults = model.limits, model.defaults
        table.add_row(
            model.name,
            model.family,
            model.dtype,
            f"{defaults.width}x{defaults.height}",
            str(defaults.steps),
            f"{defaults.guidance_scale:g}",
            _images(limits),
        )
    return table


def _details(model: ModelInfo) -> Table:
    limits, defaults = model.limits, model.defaults
    table = _table(model.name, "allowed", "default")
    prompt = f"{limits.max_prompt_characters} characters, {limits.max_prompt_tokens} tokens"
    guidance = f"{limits.min_guidance_scale:g} to {limits.max_guidance_scale:g}"
    table.add_row("family", model.family)
    table.add_row("dtype", model.dtype)
    table.add_row("prompt", f"at most {prompt}")
    if limits.supports_negative_prompt:
        scale = "guidance" if limits.guidance_field == "guidance_scale" else limits.guidance_field
        needed = f"with {scale} above {limits.guidance_off_scale:g}"
        table.add_row("negative", needed, repr(defaults.negative_prompt))
    table.add_row("images", _images(limits))
    _add_size(table, limits, defaults)
    table.add_row("steps", f"{limits.min_steps} to {limits.max_steps}", str(defaults.steps))
    table.add_row(
        "guidance",
        guidance if limits.supports_guidance else "none",
        f"{defaults.guidance_scale:g}",
    )
    for option in limits.options:
        table.add_row(option.name, _range(option), _value(option, option.default))
    if limits.supports_previews:
        table.add_row("previews", "after every so many steps", "none")
    table.add_row("cache", ", ".join(_caches(limits)), _default_cache(defaults))
    table.add_row("ranks", ", ".join(_parallel(limits)) or "1")
    shares = "with --max-step-batch, without a cache" if limits.supports_step_batching else "never"
    table.add_row("shares steps", shares)
    table.add_row("media", ", ".join(limits.media_formats), limits.media_formats[0])
    return table


def _add_size(table: Table, limits: Capabilities, defaults: GenerationDefaults) -> None:
    fit = limits.image_fit
    if fit is not None:
        rounded = "rounded up" if fit.rounds_up else "to the nearest"
        extent = (
            f"edges {fit.shortest_edge} to {fit.longest_edge}"
            if fit.longest_edge
            else f"near {fit.area_pixels} pixels"
        )
        rule = f"{extent},\nmultiples of {fit.multiple}, {rounded}"
        table.add_row("size", f"follows the last image,\n{rule}")
    # With an image that must be there, the size always follows from it.
    fitted = fit is not None and limits.min_images > 0
    if fit is None or fit.overridable or not fitted:
        _add_sides(table, limits, defaults, fitted=fitted)
    table.add_row("pixels", f"at most {limits.max_pixels}")


def _add_sides(
    table: Table, limits: Capabilities, defaults: GenerationDefaults, *, fitted: bool
) -> None:
    sides = f"{limits.min_side} to {limits.max_side}, multiples of {limits.size_multiple}"
    table.add_row("width", sides, "as the image" if fitted else str(defaults.width))
    table.add_row("height", sides, "as the image" if fitted else str(defaults.height))


def _images(limits: Capabilities) -> str:
    if limits.min_images == limits.max_images:
        return str(limits.max_images)
    return f"{limits.min_images} to {limits.max_images}"


def _range(option: OptionLimits) -> str:
    if option.kind == "switch":
        return "on or off"
    span = f"{option.minimum:g} to {option.maximum:g}"
    if option.step in {0, 1}:
        return span
    return f"{span} in steps of {option.step:g}"


def _value(option: OptionLimits, value: float) -> str:
    if option.kind == "switch":
        return "on" if value else "off"
    return f"{value:g}"


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    # Names are there to be copied: whatever else has to give way on a narrow terminal.
    table.add_column(first, no_wrap=True)
    for heading in others:
        table.add_column(heading, overflow="fold")
    return table


def _caches(limits: Capabilities) -> Iterator[str]:
    for method in limits.cache_methods:
        if method == "tea_cache":
            source = limits.tea_cache_coefficients_source
            yield f"{method} ({f'{source} coefficients' if source else 'with coefficients'})"
        else:
            yield method


def _parallel(limits: Capabilities) -> Iterator[str]:
    bounds = {
        "ulysses": f" (divisors of {limits.attention_heads})",
        "cfg": f" (at most {limits.guidance_branches})",
    }
    for method in limits.parallel_methods:
        yield f"{method}{bounds.get(method, '')}"


def _default_cache(defaults: GenerationDefaults) -> str:
    text = cache_text(defaults.cache)
    if isinstance(defaults.cache, NoCache) or not defaults.cache_min_steps:
        return text
    return f"{text}\nfrom {defaults.cache_min_steps} steps on"
