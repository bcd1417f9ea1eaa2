"""What a finished generation gives."""

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
        data=b"a video",
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
