"""What `triptych` makes of pictures, options of model families, and several formats."""

import json
from pathlib import Path

import pytest

from tests.integration.client_flavours import playing
from tests.integration.command import Ended, run
from tests.integration.scripted_cluster import ScriptedGateway, serving, successful_run
from tests.integration.scripted_edit import WRITTEN, layered_archive, layered_run
from triptych.v1 import generation_pb2


@pytest.fixture
def gateway() -> ScriptedGateway:
    return ScriptedGateway(playing(*successful_run()))


def told(ended: Ended) -> str:
    """What it said of a refusal, on one line and without the frame."""
    return " ".join(ended.err.replace("│", " ").split())


def rows(printed: str) -> list[list[str]]:
    """The cells of a table, which stand two blanks apart or more."""
    lines = (line.strip().split("  ") for line in printed.splitlines())
    return [[cell.strip() for cell in line if cell.strip()] for line in lines]


async def test_pictures_go_along_in_their_order(gateway: ScriptedGateway, tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(b"a cat")
    (tmp_path / "hat.jpg").write_bytes(b"a hat")
    async with serving(gateway) as target:
        ended = await run(
            *("generate", "put on the hat", "-o", "out.png", "--target", target),
            *("--image", "cat.png", "--image", "hat.jpg"),
            directory=tmp_path,
        )
    assert (ended.code, ended.err) == (0, "")
    sent = gateway.requests[0].parameters
    assert [each.data for each in sent.images] == [b"a cat", b"a hat"]
    assert sent.WhichOneof("family_options") is None


@pytest.mark.parametrize("image", ["none.png", ".", "https://example.com/cat.png"])
async def test_a_picture_that_is_no_file_is_refused_before_anything_is_asked(
    gateway: ScriptedGateway, tmp_path: Path, image: str
) -> None:
    async with serving(gateway) as target:
        ended = await run(
            *("generate", "x", "-o", "out.png", "--target", target, "--image", image),
            directory=tmp_path,
        )
    assert (ended.code, "'--image'" in told(ended)) == (2, True)
    assert gateway.requests == []


@pytest.mark.parametrize(
    ("output", "media_format"),
    [
        ("out.png", generation_pb2.MEDIA_FORMAT_PNG),
        ("out.mp4", generation_pb2.MEDIA_FORMAT_MP4),
        ("out.ZIP", generation_pb2.MEDIA_FORMAT_PNG_ARCHIVE),
    ],
)
async def test_the_suffix_of_the_output_says_the_format(
    gateway: ScriptedGateway, tmp_path: Path, output: str, media_format: int
) -> None:
    async with serving(gateway) as target:
        ended = await run("generate", "x", "-o", output, "--target", target, directory=tmp_path)
    assert ended.code == 0
    assert gateway.requests[0].parameters.media_format == media_format


async def test_a_format_that_the_suffix_contradicts_is_refused(
    gateway: ScriptedGateway, tmp_path: Path
) -> None:
    async with serving(gateway) as target:
        asked = ("generate", "x", "--target", target, "--format", "png_archive")
        refused = await run(*asked, "-o", "out.png", directory=tmp_path)
        taken = await run(*asked, "-o", "out.zip", directory=tmp_path)
    assert refused.code == 2
    assert "is png_archive, but out.png ends in '.png'" in told(refused)
    assert "jpeg in .jpg, jpeg in .jpeg, webp in .webp, mp4 in .mp4" in told(refused)
    assert (taken.code, len(gateway.requests)) == (0, 1)


@pytest.mark.parametrize(
    ("flags", "group", "sent"),
    [
        (
            ("--frames", "9", "--fps", "8", "--low-noise-guidance", "3.5"),
            "video",
            {"num_frames": 9, "frames_per_second": 8, "low_noise_guidance_scale": 3.5},
        ),
        (
            ("--layers", "4", "--resolution", "640", "--caption-image"),
            "layered",
            {"layers": 4, "resolution": 640, "caption_image": True},
        ),
        (("--no-caption-image",), "layered", {"caption_image": False}),
        (("--rewrite-prompt",), "long_cat", {"rewrite_prompt": True}),
        (("--no-rewrite-prompt",), "long_cat", {"rewrite_prompt": False}),
        (("--true-guidance", "4"), "flux", {"true_guidance_scale": 4.0}),
        (
            ("--image-guidance", "2", "--guidance-interval", "0.25", "1"),
            "bagel",
            {
                "image_guidance_scale": 2.0,
                "guidance_interval_start": 0.25,
                "guidance_interval_end": 1.0,
            },
        ),
    ],
)
async def test_options_reach_the_cluster_as_those_of_their_family(
    gateway: ScriptedGateway,
    tmp_path: Path,
    flags: tuple[str, ...],
    group: str,
    sent: dict[str, object],
) -> None:
    async with serving(gateway) as target:
        path = str(tmp_path / "out.png")
        ended = await run("generate", "", "-o", path, "--target", target, *flags)
    assert (ended.code, ended.err) == (0, "")
    parameters = gateway.requests[0].parameters
    assert parameters.prompt == ""
    assert parameters.WhichOneof("family_options") == group
    written = getattr(parameters, group).ListFields()
    assert {field.name: value for field, value in written} == sent


async def test_options_of_two_families_are_refused_before_anything_is_started(
    tmp_path: Path,
) -> None:
    (tmp_path / "model").mkdir()
    ended = await run(
        *("generate", "x", "-o", "out.png", "--model", "model"),
        *("--fps", "8", "--no-caption-image"),
        directory=tmp_path,
    )
    assert ended.code == 2
    assert "--fps and --caption-image: are options of different model families" in told(ended)


async def test_half_a_guidance_interval_is_refused(tmp_path: Path) -> None:
    ended = await run(
        *("generate", "x", "-o", "out.png", "--target", "127.0.0.1:1"),
        *("--guidance-interval", "0.5"),
        directory=tmp_path,
    )
    assert (ended.code, "--guidance-interval" in ended.err) == (2, True)


async def test_the_report_tells_tasks_apart_and_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "layers.zip"
    async with serving(ScriptedGateway(playing(*layered_run()))) as target:
        ended = await run("generate", "", "-o", str(path), "--target", target, "--caption-image")
    assert (ended.code, ended.err) == (0, "")
    assert path.read_bytes() == layered_archive()
    headings, encoder, images, denoiser, vae, request = rows(ended.out)[:6]
    assert headings == ["stage", "queue", "compute", "of it writing", "transfer", "total"]
    assert encoder == ["encoder", "250.0 ms", "1.00 s", "750.0 ms", "125.0 ms", "1.50 s"]
    assert [each[0] for each in (images, denoiser, vae)] == ["vae images", "denoiser", "vae"]
    assert request == ["request", "2.50 s"]
    written, _, summary = ended.out.splitlines()[-3:]
    assert written == f"prompt written by the model: {WRITTEN}"
    assert summary.startswith(f"{path}: 128x64 pixels, 3 layers, ")


async def test_a_report_without_a_language_model_does_not_speak_of_one(
    gateway: ScriptedGateway, tmp_path: Path
) -> None:
    async with serving(gateway) as target:
        ended = await run("generate", "x", "-o", str(tmp_path / "a.png"), "--target", target)
    assert "writ" not in ended.out
    assert "frame" not in ended.out


async def test_what_was_looked_up_is_told_to_people_and_to_scripts(tmp_path: Path) -> None:
    asked = ("generate", "", "-o", str(tmp_path / "a.zip"), "--target")
    async with serving(ScriptedGateway(playing(*layered_run()))) as target:
        people = await run(*asked, target)
        scripts = await run(*asked, target, "--json")
    assert (
        "conditioning: prompt from the cache, negative prompt encoded,"
        " 1 of 2 images from the cache\n" in people.out
    )
    reuse = json.loads(scripts.out)["conditioning_reuse"]
    assert reuse[1] == {"part": "negative_prompt", "looked_up": 1, "reused": 0}
    assert [each["part"] for each in reuse] == ["prompt", "negative_prompt", "image"]


async def test_a_report_without_a_conditioning_cache_does_not_speak_of_one(
    gateway: ScriptedGateway, tmp_path: Path
) -> None:
    async with serving(gateway) as target:
        ended = await run("generate", "x", "-o", str(tmp_path / "a.png"), "--target", target)
    assert "conditioning" not in ended.out


async def test_json_tells_all_of_it(tmp_path: Path) -> None:
    async with serving(ScriptedGateway(playing(*layered_run()))) as target:
        ended = await run(
            *("generate", "", "-o", str(tmp_path / "a.zip"), "--target", target),
            *("--caption-image", "--json"),
        )
    report = json.loads(ended.out)
    assert (report["num_frames"], report["written_prompt"]) == (3, WRITTEN)
    assert report["media_format"] == "png_archive"
    assert report["stage_timings"][0]["writing_seconds"] == 0.75
    assert report["stage_timings"][1]["task"] == "encode_images"
    assert report["parameters"]["options"] == {
        "kind": "layered",
        "layers": 3,
        "resolution": 64,
        "caption_image": True,
    }
    assert report["parameters"]["images"][0]["size_bytes"] == 9


async def test_a_model_is_described_with_its_pictures_and_options(
    gateway: ScriptedGateway,
) -> None:
    async with serving(gateway) as target:
        ended = await run("models", "editor", "--target", target)
    described = {row[0]: row[1:] for row in rows(ended.out)}
    assert described["size"] == ["follows the last image,"]
    assert {"near 409600 pixels,", "multiples of 32, rounded up"} <= described.keys()
    assert described["negative"] == ["with layered.strength above 0.25", "' '"]
    assert described["images"] == ["1 to 3"]
    assert described["width"] == ["64 to 256, multiples of 16", "as the image"]
    assert described["layered.layers"] == ["1 to 8", "4"]
    assert described["layered.resolution"] == ["64 to 640 in steps of 64", "64"]
    assert described["layered.strength"] == ["0 to 1", "0.5"]
    assert described["layered.caption_image"] == ["on or off", "off"]
    assert described["shares steps"] == ["with --max-step-batch, without a cache"]
    assert described["media"] == ["png, png_archive", "png"]
