"""What a finished generation gives."""

import pytest

from triptych.generation import Generation, GenerationParameters


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
        dtype="float32",
        media_format="mp4",
        images=(),
        options=None,
    )
    return Generation(
        job_id="0" * 32,
        data=b"a video",
        media_format="mp4",
        width=64,
        height=32,
        num_frames=5,
        checksum_xxh3=0,
        parameters=parameters,
        stage_timings=(),
        latents_checksum_xxh3=0,
        total_seconds=1,
        written_prompt=None,
    )


def test_a_video_has_no_png_files_and_says_how_to_get_them() -> None:
    with pytest.raises(ValueError, match="mp4, which holds no PNG files; ask for media_format="):
        video().pictures()
