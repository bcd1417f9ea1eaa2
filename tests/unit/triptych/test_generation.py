"""What a finished generation gives."""

from dataclasses import replace
from pathlib import Path

import pytest

from triptych.domain.acceleration import NO_CACHE
from triptych.domain.element_type import ElementType
from triptych.domain.generation import GenerationParameters
from triptych.domain.generation_result import Artifact
from triptych.domain.model import MediaFormat
from triptych.generation import Generation


def video() -> Generation:
    parameters = GenerationParameters(
        model="demo",
        prompt="a red circle",
        negative_prompt=None,
        width=64,
        height=32,
        steps=2,
        guidance_scale=1,
        seed=7,
        dtype=ElementType.FLOAT32,
        cache=NO_CACHE,
        media_format=MediaFormat.MP4,
    )
    return Generation(
        job_id="0" * 32,
        files=(b"a video",),
        artifacts=(Artifact("1" * 32, MediaFormat.MP4, 64, 32, 5, size_bytes=7, checksum_xxh3=0),),
        parameters=parameters,
        stage_timings=(),
        latents_checksum_xxh3=0,
        total_seconds=1,
        written_prompt=None,
    )


def test_a_video_has_no_png_files_and_says_how_to_get_them() -> None:
    with pytest.raises(ValueError, match="mp4, which holds no PNG files; ask for media_format="):
        video().pictures()


def test_several_files_are_saved_under_numbers(tmp_path: Path) -> None:
    several = replace(video(), files=(b"one", b"other"))
    with pytest.raises(ValueError, match="there are 2 files; save them by save_all"):
        several.save(tmp_path / "a.mp4")
    written = several.save_all(tmp_path / "a.mp4")
    assert (
        written == [tmp_path / "a-1.mp4", tmp_path / "a-2.mp4"] == several.paths(tmp_path / "a.mp4")
    )
    assert [path.read_bytes() for path in written] == [b"one", b"other"]
