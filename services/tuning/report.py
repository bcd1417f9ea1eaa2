"""Tables of what was measured, for people."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from services.loaded_models.cache_profile import Conditions, Fit, Measurement
from triptych.domain.acceleration import Cache, CacheDit, TeaCache

OUT = Console(highlight=False, soft_wrap=True)
PROGRESS = Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """One line on standard output."""
    OUT.print(text, markup=False)


def say_progress(text: str) -> None:
    """One line on standard error."""
    PROGRESS.print(text, markup=False)


def say_conditions(conditions: Conditions) -> None:
    """How numbers were measured."""
    told = conditions
    threads = "1 thread" if told.threads == 1 else f"{told.threads} threads"
    say(
        f"{told.prompts} prompts, {told.width} x {told.height} pixels, {told.steps} steps, guidance"
        f" {told.guidance_scale:g}, {told.dtype}, {told.device}, {threads}, {told.clock} clock."
        " Speed-ups are of the denoising loop: the median over prompts, each timed beside an"
        " uncached run, and the smallest and the largest. PSNR (dB) and SSIM compare with the"
        " uncached pictures: the smallest, and the median."
    )


def say_fit(fit: Fit) -> None:
    """How well a polynomial was fitted."""
    branches = ", ".join(f"{name} {each:.3f}" for name, each in fit.r_squared_by_branch.items())
    say(f"fit of {fit.pairs} pairs of steps: R2 {fit.r_squared:.3f} ({branches})")
    say(f"coefficients {':'.join(f'{each:.9g}' for each in fit.coefficients)}")


def say_measurements(named: Sequence[tuple[str, Measurement]]) -> None:
    """A row for each, never a speed-up without its quality."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("cache", no_wrap=True)
    for heading in ("speed-up", "reused", "PSNR", "SSIM"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, each in named:
        speeds = f"{each.smallest_speedup:.2f} to {each.largest_speedup:.2f}"
        table.add_row(
            name,
            f"{each.speedup:.2f} ({speeds})",
            f"{each.reused_share:.0%}",
            f"{_decibels(each.min_psnr)}, {_decibels(each.median_psnr)}",
            f"{each.min_ssim:.4f}, {each.median_ssim:.4f}",
        )
    # Lines are for reading side by side, however narrow the terminal.
    Console(highlight=False, width=120).print(table)


def named(cache: Cache) -> str:
    """A cache in a few words."""
    match cache:
        case TeaCache():
            return f"TeaCache {cache.rel_l1_thresh:g}"
        case CacheDit():
            parts = [f"DBCache F{cache.fn_compute_blocks} W{cache.max_warmup_steps}"]
            if cache.scm_mask_policy is not None:
                parts.append(f"SCM {cache.scm_mask_policy}")
            parts.append(f"{cache.residual_diff_threshold:g}")
            if cache.taylorseer_order is not None:
                parts.append(f"+ TaylorSeer {cache.taylorseer_order}")
            return " ".join(parts)
    return "none"


def _decibels(value: float | None) -> str:
    return "equal" if value is None else f"{value:.1f}"
