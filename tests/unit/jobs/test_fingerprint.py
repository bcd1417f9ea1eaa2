from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from services.jobs.fingerprint import fingerprint
from triptych.domain.acceleration import TeaCache
from triptych.domain.family_options import VideoOptions
from triptych.domain.generation import GenerationRequest
from triptych.domain.input_image import ImageDescription
from triptych.domain.output_options import OutputOptions

REQUEST = GenerationRequest(prompt="a red circle", steps=4, cache=TeaCache(rel_l1_thresh=0.2))
CHANGES: dict[str, Any] = {
    "prompt": "a red square",
    "model": "demo",
    "negative_prompt": "blue",
    "width": 64,
    "height": 64,
    "steps": 5,
    "guidance_scale": 2.0,
    "seed": 0,
    "dtype": "bfloat16",
    "media_format": "webp",
    "options": VideoOptions(),
    "cache": TeaCache(rel_l1_thresh=0.3),
    "preview_every_steps": 1,
    "output": OutputOptions(quality=80),
    "num_images": 2,
}


def test_a_request_has_the_same_fingerprint_each_time() -> None:
    assert fingerprint(replace(REQUEST), [b"picture"]) == fingerprint(REQUEST, [b"picture"])


def test_every_field_of_a_request_is_looked_at() -> None:
    assert CHANGES.keys() == set(GenerationRequest.__slots__) - {"images"}


@pytest.mark.parametrize("name", CHANGES)
def test_whatever_else_is_asked_has_another_fingerprint(name: str) -> None:
    assert fingerprint(replace(REQUEST, **{name: CHANGES[name]})) != fingerprint(REQUEST)


def test_pictures_count_by_their_bytes_and_their_order() -> None:
    pictures = [b"one", b"two"]
    assert (
        len({fingerprint(REQUEST, each) for each in (pictures, pictures[::-1], [b"one"], [])}) == 4
    )


def test_how_a_picture_was_described_does_not_count() -> None:
    described = replace(
        REQUEST, images=(ImageDescription(width=64, height=64, size_bytes=7, checksum_xxh3=0),)
    )
    assert fingerprint(described, [b"picture"]) == fingerprint(REQUEST, [b"picture"])


def test_a_field_that_a_later_release_adds_changes_nothing_while_it_has_its_default() -> None:
    @dataclass(frozen=True)
    class GenerationRequest:
        prompt: str
        images: tuple[Any, ...] = ()
        steps: int | None = None
        cache: TeaCache | None = None
        added: int = 3
        also: dict[str, int] = field(default_factory=dict)

    later = GenerationRequest("a red circle", steps=4, cache=TeaCache(rel_l1_thresh=0.2))
    assert fingerprint(later) == fingerprint(REQUEST)  # type: ignore[arg-type]
    assert fingerprint(replace(later, added=4)) != fingerprint(REQUEST)  # type: ignore[arg-type]
