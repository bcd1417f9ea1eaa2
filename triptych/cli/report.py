"""What is said of a finished picture, to people and to scripts."""

import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from triptych.generation import Generation


def print_report(generation: Generation, path: Path) -> None:
    """Where the time went, and what was written."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("stage")
    for heading in ("queue", "compute", "transfer", "total"):
        table.add_column(heading, justify="right")
    for timing in generation.stage_timings:
        spent = (
            timing.queue_seconds,
            timing.run_seconds,
            timing.transfer_seconds,
            timing.total_seconds,
        )
        table.add_row(timing.stage, *map(_duration, spent))
    table.add_row("request", "", "", "", _duration(generation.total_seconds), style="bold")
    console = Console(highlight=False)
    console.print(table)
    size = f"{generation.width}x{generation.height} pixels, {len(generation.data)} bytes"
    console.print(f"{path}: {size}, seed {generation.seed}", soft_wrap=True, markup=False)


def json_report(generation: Generation, path: Path) -> str:
    """One JSON object; checksums are 16 hexadecimal digits, times are seconds."""
    return json.dumps(
        {
            "path": str(path),
            "job_id": generation.job_id,
            "media_format": generation.media_format,
            "width": generation.width,
            "height": generation.height,
            "size_bytes": len(generation.data),
            "checksum_xxh3": f"{generation.checksum_xxh3:016x}",
            "seed": generation.seed,
            "latents_checksum_xxh3": f"{generation.latents_checksum_xxh3:016x}",
            "parameters": asdict(generation.parameters),
            "stage_timings": [asdict(timing) for timing in generation.stage_timings],
            "total_seconds": generation.total_seconds,
        }
    )


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
