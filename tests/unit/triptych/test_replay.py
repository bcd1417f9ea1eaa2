"""What is said of a result that was drawn again."""

from dataclasses import replace

import pytest
import xxhash

from tests.unit.domain.examples import ARTIFACT, PARAMETERS
from triptych.domain.errors import InvalidRequest
from triptych.domain.generation_result import GenerationResult
from triptych.domain.input_image import ImageDescription
from triptych.domain.parallel import ParallelDegrees
from triptych.domain.receipt import Fingerprint, Receipt, SoftwareVersion
from triptych.replay import differences, options_of, read_receipt, write_receipt

RESULT = GenerationResult(
    parameters=PARAMETERS,
    artifacts=(ARTIFACT,),
    stage_timings=(),
    latents_checksum_xxh3=77,
    total_seconds=1.5,
    receipt=Receipt(
        (Fingerprint("vae/*.json", "a"),),
        (SoftwareVersion("diffusers", "0.40"), SoftwareVersion("torch", "2.13")),
    ),
)
OTHER_BYTES = replace(RESULT, artifacts=(replace(ARTIFACT, checksum_xxh3=5),))


def test_a_receipt_is_read_as_it_was_written() -> None:
    assert read_receipt(write_receipt(RESULT)) == RESULT


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"artifacts": 3}', "a picture"])
def test_what_is_no_receipt_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="receipt: is none"):
        read_receipt(text)


def test_equal_bytes_are_all_that_counts() -> None:
    elsewhere = replace(RESULT, receipt=Receipt(), total_seconds=9.0)
    assert differences(RESULT, elsewhere) == []


def test_other_bytes_are_told_with_what_they_may_come_from() -> None:
    after = replace(
        OTHER_BYTES,
        parallel_degrees=ParallelDegrees(ring=2),
        receipt=Receipt(
            (Fingerprint("vae/*.json", "b"),),
            (SoftwareVersion("torch", "2.13"), SoftwareVersion("torch", "2.14")),
        ),
    )
    told = differences(RESULT, after)
    assert told[0].startswith("file 0: XXH3-64 was")
    assert told[1:3] == [
        "model: vae/*.json was a, is b",
        "software: diffusers was 0.40, is not told",
    ]
    assert "software: torch was 2.13, is 2.13, 2.14" in told
    assert told[-1].startswith("ranks: degrees was")


def test_every_effective_value_is_asked_for_again() -> None:
    asked = options_of(PARAMETERS, [])
    assert (asked["seed"], asked["steps"]) == (PARAMETERS.seed, PARAMETERS.steps)
    assert None not in (asked["width"], asked["height"], asked["guidance_scale"], asked["cache"])
    assert asked["preview_every_steps"] == 0


def test_input_pictures_are_found_by_their_checksums() -> None:
    pictures = [b"one", b"other"]
    described = [
        ImageDescription(
            width=8,
            height=8,
            size_bytes=len(picture),
            checksum_xxh3=xxhash.xxh3_64_intdigest(picture),
        )
        for picture in pictures
    ]
    parameters = replace(PARAMETERS, images=tuple(described))
    assert options_of(parameters, [b"a third", *reversed(pictures)])["images"] == tuple(pictures)
    with pytest.raises(InvalidRequest, match=r"images\[1\]: of XXH3-64 .* is not among"):
        options_of(parameters, [b"one"])
