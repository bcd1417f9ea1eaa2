"""What is said of a finished result, to people and to scripts."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from triptych.cli.stage_label import stage_label
from triptych.domain.cache_statistics import CacheStatistics
from triptych.domain.conditioning_reuse import ConditioningReuse
from triptych.domain.family_options import LayeredOptions
from triptych.domain.generation_result import Artifact
from triptych.domain.parallel import ParallelDegrees
from triptych.generation import Generation


def print_report(generation: Generation, paths: Sequence[Path]) -> None:
    """Where the time went, and what was written."""
    console = Console(highlight=False)
    console.print(_timings(generation))
    if generation.written_prompt is not None:
        written = f"prompt written by the model: {generation.written_prompt}"
        console.print(written, soft_wrap=True, markup=False)
    if reuse := generation.conditioning_reuse:
        console.print(f"conditioning: {', '.join(map(_reuse, reuse))}", soft_wrap=True)
    if (did := generation.cache_statistics) is not None:
        console.print(_cache_line(did), soft_wrap=True, markup=False)
    if (degrees := generation.parallel_degrees).ranks > 1:
        console.print(_ranks_line(degrees), soft_wrap=True)
    if generation.tile_size:
        console.print(f"tiles: of {generation.tile_size} pixels, where a picture is larger")
    for path, artifact in zip(paths, generation.artifacts, strict=True):
        contents = _contents(generation, artifact)
        console.print(f"{path}: {contents}", soft_wrap=True, markup=False)
        if artifact.expire_time is not None:
            until = datetime.fromtimestamp(artifact.expire_time, UTC)
            kept = f"artifact {artifact.artifact_id}, kept until {until:%Y-%m-%d %H:%M:%S} UTC"
            console.print(f"  {kept}", soft_wrap=True, markup=False)


def _timings(generation: Generation) -> Table:
    # Only some models have a language model that writes, and only if it is asked to.
    written = any(timing.writing_seconds for timing in generation.stage_timings)
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("stage")
    for heading in ("queue", "compute", *(["of it writing"] * written), "transfer", "total"):
        table.add_column(heading, justify="right")
    for timing in generation.stage_timings:
        writing = _duration(timing.writing_seconds) if timing.writing_seconds else ""
        table.add_row(
            stage_label(timing.stage, timing.task),
            _duration(timing.queue_seconds),
            _duration(timing.run_seconds),
            *([writing] * written),
            _duration(timing.transfer_seconds),
            _duration(timing.total_seconds),
        )
    whole = _duration(generation.total_seconds)
    table.add_row("request", *[""] * (len(table.columns) - 2), whole, style="bold")
    return table


def _reuse(reuse: ConditioningReuse) -> str:
    name = reuse.part.replace("_", " ")
    if reuse.looked_up == 1:
        return f"{name} from the cache" if reuse.reused else f"{name} encoded"
    return f"{reuse.reused} of {reuse.looked_up} {name}s from the cache"


def _cache_line(did: CacheStatistics) -> str:
    forwards = did.computed_forwards + did.reused_forwards
    line = f"cache: {did.reused_forwards} of {forwards} forwards reused ({did.reused_share:.0%})"
    if len(did.branches) > 1:
        shares = (
            f"{each.branch} {each.reused_forwards} of"
            f" {each.computed_forwards + each.reused_forwards}"
            for each in did.branches
        )
        line += f": {', '.join(shares)}"
    gains = {"estimated": did.estimated_speedup, "realised": did.realised_speedup}
    known = [f"{gain:.2f} {name}" for name, gain in gains.items() if gain is not None]
    return f"{line}; speed-up {', '.join(known)}" if known else line


def _ranks_line(degrees: ParallelDegrees) -> str:
    return (
        f"ranks: {degrees.ranks} (cfg {degrees.cfg}, ring {degrees.ring},"
        f" ulysses {degrees.ulysses})"
    )


def _contents(generation: Generation, artifact: Artifact) -> str:
    parts = [f"{generation.width}x{generation.height} pixels"]
    if not generation.media_format.is_picture:
        layered = isinstance(generation.parameters.options, LayeredOptions)
        noun = "layer" if layered else "frame"
        plural = "" if generation.num_frames == 1 else "s"
        parts.append(f"{generation.num_frames} {noun}{plural}")
    parts += [f"{artifact.size_bytes} bytes", f"seed {generation.seed + artifact.index}"]
    return ", ".join(parts)


def json_report(generation: Generation, paths: Sequence[Path]) -> str:
    """One JSON object; checksums are 16 hexadecimal digits, times are seconds (of the epoch)."""
    return json.dumps(
        {
            "path": str(paths[0]),
            "paths": [str(path) for path in paths],
            "job_id": generation.job_id,
            "media_format": generation.media_format,
            "width": generation.width,
            "height": generation.height,
            "num_frames": generation.num_frames,
            "size_bytes": len(generation.data),
            "checksum_xxh3": f"{generation.checksum_xxh3:016x}",
            "artifacts": [
                {"artifact_id": each.artifact_id, "expire_time": each.expire_time}
                for each in generation.artifacts
            ],
            "seed": generation.seed,
            "written_prompt": generation.written_prompt,
            "latents_checksum_xxh3": f"{generation.latents_checksum_xxh3:016x}",
            "cache": type(generation.parameters.cache).__name__,
            "cache_statistics": None
            if generation.cache_statistics is None
            else {
                **asdict(generation.cache_statistics),
                "reused_share": generation.cache_statistics.reused_share,
            },
            "conditioning_reuse": [asdict(each) for each in generation.conditioning_reuse],
            "parallel_degrees": asdict(generation.parallel_degrees),
            "tile_size": generation.tile_size,
            "parameters": asdict(generation.parameters),
            "stage_timings": [asdict(timing) for timing in generation.stage_timings],
            "total_seconds": generation.total_seconds,
        }
    )


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
